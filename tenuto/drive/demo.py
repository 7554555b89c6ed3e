"""A simulated run and what came of it: the demo, with workers killed in its middle, and summaries.

What a crash costs is counted, not claimed: rows against what was captured, the events in Redis
against what was published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenuto.drive.click_rates import click_rates
from tenuto.drive.driver import Counts
from tenuto.drive.run import Run, RunOptions, figures
from tenuto.drive.simulation import Simulation
from tenuto.drive.simulator import Simulator
from tenuto.drive.world import SimulatorSettings
from tenuto.features.aggregate import entity_key
from tenuto.features.durations import duration_ms
from tenuto.features.entities import TRAFFIC
from tenuto.features.sums import ViewSums
from tenuto.snapshot.dataset import Samples

DEMO_SPEED = 240.0
DEMO_WORLD = SimulatorSettings(
    users=500, items=1_000, duration_ms=duration_ms("7d"), requests_per_s=0.4,
    preroll_requests_per_s=0.02,
)  # fmt: skip


@dataclass
class Crash:
    """A worker killed with -9 when a share of the run's time is over, and what it cost.

    Attributes:
        pause_ms: wall time that a boundary waited for it then; None until it was killed.
    """

    worker: str
    share: float
    killed: bool = False
    pause_ms: float | None = None


@dataclass(frozen=True)
class Demo:
    """A finished demo: figures for the JSON file, and what the summary tells."""

    figures: dict[str, Any]
    request_id: str


def simulate(
    options: RunOptions,
    world: Simulator,
    *,
    speed: float = 0.0,
    budget_s: float | None = None,
    crashes: Sequence[Crash] = (),
    on_boundary: Callable[[Run, Simulation], None] = lambda run, simulation: None,
    before_stop: Callable[[Run, Demo], None] = lambda run, demo: None,
) -> Demo:
    """Run a world, and count what came of it.

    Args:
        options: of the run.
        world: the simulator.
        speed: event time per wall time; 0 is as fast as it goes.
        budget_s: wall seconds of the run after its pre-roll.
        crashes: workers to kill with -9.
        on_boundary: called after each boundary.
        before_stop: called while the servers still run.
    """
    started = time.monotonic()
    with Run(options) as run:

        def after(counts: Counts) -> None:
            on_boundary(run, simulation)
            if simulation.ranker is not None:
                run.training_speed()
            for crash in crashes:
                if not crash.killed and simulation.is_past(crash.share):
                    crash.killed = True
                    run.workers.kill(crash.worker)
                    waited[crash.worker] = len(simulation.waits_ms(crash.worker))

        waited: dict[str, int] = {}
        simulation = Simulation(run, world, speed, budget_s, run.live_ranker(), after)
        with run.interrupts:
            counts = simulation.drive()
        drove_s = time.monotonic() - started
        for crash in crashes:
            if crash.killed:
                # What was on its way when it was killed may still arrive.
                waits = simulation.waits_ms(crash.worker)[waited[crash.worker] :][:2]
                crash.pause_ms = round(max(waits), 1) if waits else None
        counted = _events_in_redis(run, counts)
        run.wait_for_samples()
        letters = run.dead_letters()
        rows, distinct, request_id = _rows(options.out_dir)
        summary = {
            **figures(counts, started),
            "samples": rows,
            "rows_lost": counts.rows - distinct,
            "rows_doubled": rows - distinct,
            "events_lost": max(0, -counted),
            "events_doubled": max(0, counted),
            "dead_letters": sum(letters.values()),
            "dead_letters_by_reason": letters,
            **{f"{crash.worker}_pause_ms": crash.pause_ms for crash in crashes},
            "restarts": run.workers.all_restarts(),
        }
        if simulation.ranker is not None:
            summary |= run.wait_for_training()
            summary |= {
                "checkpoints": len(simulation.ranker.versions),
                # Sample rows in a second: as they come, and as they could be learnt.
                "arrival_rows_per_s": round(counts.rows / drove_s, 1),
                "training_rows_per_s": run.training_speed(),
                "checkpoint_wait_p50_ms": round(float(np.median(simulation.ranker.waits_ms)), 1),
                **click_rates(options.samples_dir(run.trained_stream)),
            }
        demo = Demo(summary | run.audit(), request_id)
        before_stop(run, demo)
    return demo


def _events_in_redis(run: Run, counts: Counts) -> int:
    """Events in Redis minus events published, of the stream that traffic counts over the longest
    window: 0 when each counted once."""
    for view in run.store.layout.views:
        ring = view.rings[view.longest]
        measures = [c.measure for c in ring.cells if c.measure.field is c.measure.where is None]
        if view.entity != TRAFFIC or not measures:
            continue
        key = entity_key(view, ())
        store = run.store.store_of(key)
        value: Any = store.client.get(store.prefix + key)
        counted = ViewSums(view, [value], counts.newest_ms).total(measures[0], ring.window)
        return int(counted[0]) - counts.events.get(measures[0].event.name, 0)
    return 0


def _rows(out_dir: Path) -> tuple[int, int, str]:
    """Sample rows, distinct ones, and the id of a request whose slate was clicked."""
    columns = ["snapshot_partition", "snapshot_offset", "item_index", "request_id", "clicked"]
    table = Samples(out_dir).table(columns)
    if not table.num_rows:
        return 0, 0, ""
    keys = np.stack([table.column(name).to_numpy() for name in columns[:3]])
    distinct = int(np.unique(keys, axis=1).shape[1])
    clicked = np.flatnonzero(table.column("clicked").to_numpy())
    row = int(clicked[-1]) if len(clicked) else table.num_rows - 1
    return table.num_rows, distinct, str(table.column("request_id")[row].as_py())
