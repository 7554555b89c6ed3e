"""``tenuto demo``: everything at once, for about two minutes, with crashes in the middle."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from tenuto.cli.audit import verdict
from tenuto.cli.context import Context
from tenuto.cli.live import LiveTable
from tenuto.cli.runs import (
    check_events,
    live_training,
    run_options,
    stack_options,
    write_figures,
)
from tenuto.features.connection import without_password
from tenuto.snapshot.audit.findings import Findings

OUT = Path(".tenuto/demo")
NAMESPACE = "demo"


@click.command()
@click.option("--minutes", type=float, default=2.0, show_default=True, help="about how long")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="figures go there")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--keep/--no-keep", default=None, help="leave the servers up; on a terminal it does")
@stack_options
@click.pass_obj
def command(
    context: Context,
    /,
    minutes: float,
    json_file: Path | None,
    seed: int,
    keep: bool | None,
    **stack: Any,
) -> None:
    """Run the whole loop on real components: events, features, snapshots, labels, samples, ranker.

    A simulated day fills the windows, then hours pass in minutes; the feature worker and the
    trainer are killed with -9 on the way and start again.
    """
    from dataclasses import replace

    from tenuto.drive.demo import DEMO_SPEED, DEMO_WORLD, Crash, Demo, simulate
    from tenuto.drive.run import TRAINER, Run
    from tenuto.drive.simulator import EVENTS, Simulator

    check_events(context, EVENTS)
    shutil.rmtree(OUT, ignore_errors=True)
    world = Simulator(replace(DEMO_WORLD, seed=seed))
    keep = sys.stdout.isatty() and sys.stdin.isatty() if keep is None else keep
    started = time.monotonic()
    stack["logs"] = stack["logs"] or OUT

    def summarise(run: Run, demo: Demo) -> None:
        table.close()
        write_figures(demo.figures, json_file)
        click.echo(_summary(run, demo, OUT / "samples", keep=bool(keep)))
        audits.append(demo.figures["audit"])
        while keep:
            time.sleep(1.0)

    audits: list[Findings] = []
    table = LiveTable(DEMO_SPEED)
    training = live_training(context, OUT / "checkpoints")
    crashes = [Crash("features", 0.4)]
    if training is not None:
        crashes.append(Crash(TRAINER, 0.6))
    with run_options(
        context,
        OUT / "samples",
        NAMESPACE,
        "10s",
        training=training,
        audit=True,
        record=OUT / "log",
        **stack,
    ) as options:
        try:
            with table:
                simulate(
                    options,
                    world,
                    speed=DEMO_SPEED,
                    budget_s=max(10.0, minutes * 60.0 - _OVERHEAD_S),
                    crashes=crashes,
                    on_boundary=table.show,
                    before_stop=summarise,
                )
        except KeyboardInterrupt:
            click.echo(f"stopped after {time.monotonic() - started:.0f} s")
    if any(not findings.clean for findings in audits):
        sys.exit(1)


# Starting, the pre-roll, the crash, the sink's end and the audit take this much of the time.
_OVERHEAD_S = 45.0


def _summary(run: Any, demo: Any, out: Path, *, keep: bool) -> str:
    f = demo.figures
    python = _relative(sys.executable)
    # A password is for whoever runs the command to fill in again, not for a terminal's log.
    redis_url = without_password(run.settings.redis.url)
    servers = f"--bootstrap {run.settings.kafka.bootstrap} --redis {redis_url}"
    inspect = f"{servers} --namespace {NAMESPACE} inspect request {demo.request_id}"
    lines = [
        "",
        f"{f['events']:,} events -> {f['snapshots']:,} snapshots -> {f['samples']:,} sample rows "
        f"in {out}",
        f"published to readable: p50 {f['freshness_p50_ms']} ms, p99 {f['freshness_p99_ms']} ms; "
        f"dead letters {f['dead_letters']}",
    ]
    if f["features_pause_ms"] is not None:
        lines.append(
            f"the feature worker was killed with -9: a pause of {f['features_pause_ms'] / 1e3:.1f} "
            f"s; counted against the log: rows lost {f['rows_lost']}, doubled {f['rows_doubled']}; "
            f"events in Redis lost {f['events_lost']}, doubled {f['events_doubled']}"
        )
    if "checkpoints" in f:
        lines += ["", *_learnt(f)]
    lines += ["", verdict(f["audit"])]
    partitions = run.settings.kafka.partitions
    polars = (
        f"import polars as pl; print(pl.read_parquet('{out}/day=*/**/*.parquet')"
        ".filter(pl.col('impressed') == 1).group_by('policy')"
        ".agg(pl.len(), pl.col('clicked').mean()))"
    )
    lines += [
        "",
        "to paste:",
        f'  {python} -c "{polars}"',
        f"  TENUTO_KAFKA__PARTITIONS={partitions} {python} -m tenuto {inspect}",
        f"  {python} -m tenuto audit --log {out.parent / 'log'} --samples {out}",
        f"  {python} -m tenuto replay YOUR_LOG.parquet --dry-run",
    ]
    lines.append("servers stay up; ^C ends them" if keep else "(inspect needs the servers: --keep)")
    return "\n".join(lines)


def _learnt(f: dict[str, Any]) -> list[str]:
    """What the ranker learnt, and what it was worth."""

    def rate(name: str) -> str:
        found = f[f"ctr_{name}"]
        return "-" if found is None else f"{found:.4f} ({f[f'n_{name}']:,} requests)"

    def interval(name: str) -> str:
        if f[name] is None:
            return "-"
        if f[f"{name}_low"] is None or f[f"{name}_high"] is None:
            return f"{f[name]:.2f} (too few for an interval)"
        return f"{f[name]:.2f} (95 %: {f[f'{name}_low']:.2f} to {f[f'{name}_high']:.2f})"

    speed = f["training_rows_per_s"]
    could = "it was not seen how many" if speed is None else f"{speed:,.0f}"
    lines = [
        f"{f['trained_rows']:,} rows learnt, {f['arrival_rows_per_s']:,.0f} a second came and "
        f"{could} could be learnt, checkpoints included; "
        f"{f['checkpoints']} checkpoints taken into use; "
        + "; ".join(
            f"{task}: AUC {f[f'auc_{task}']:.3f}, NE {f[f'ne_{task}']:.3f}" for task in f["tasks"]
        ),
        f"click rate: ranker {rate('ranker')}, smoothed CTR {rate('smoothed')}, shuffled "
        f"{rate('random')}",
        f"lift of the ranker over shuffled {interval('lift')}, over smoothed CTR "
        f"{interval('lift_over_smoothed')}",
    ]
    pause_ms = f.get("trainer_pause_ms")
    if pause_ms is not None:
        lines.append(
            f"the trainer was killed with -9: a pause of {pause_ms / 1e3:.1f} s for whoever waited "
            f"for its next checkpoint; otherwise {f['checkpoint_wait_p50_ms'] / 1e3:.1f} s"
        )
    return lines


def _relative(path: str) -> str:
    """A path as short as it can be pasted here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
