"""``tenuto simulate``: a seeded world through the real components, to its end."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import click

from tenuto.cli.context import Context, InputError
from tenuto.cli.runs import (
    audit_options,
    check_events,
    empty,
    empty_store,
    judge,
    live_training,
    run_options,
    stack_options,
    write_figures,
)


@click.command()
@click.option("--hours", type=float, default=1.0, show_default=True, help="of event time")
@click.option("--requests-per-s", type=float, default=1.0, show_default=True, help="of event time")
@click.option("--preroll-requests-per-s", type=float, default=0.02, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="another one, another world")
@click.option("--freshness", default="10s", show_default=True, help="distance of the boundaries")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples"))
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    help="learn along, order slates by the ranker, and keep its checkpoints there",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="figures go there")
@audit_options
@stack_options
@click.pass_obj
def command(
    context: Context,
    /,
    hours: float,
    requests_per_s: float,
    preroll_requests_per_s: float,
    seed: int,
    freshness: str,
    out: Path,
    checkpoints: Path | None,
    json_file: Path | None,
    **stack: Any,
) -> None:
    """Simulate traffic; the same seed and settings give the same rows and weights, bit for bit."""
    from tenuto.drive.demo import simulate
    from tenuto.drive.simulator import EVENTS, Simulator
    from tenuto.drive.world import SimulatorSettings

    try:
        settings = SimulatorSettings(
            seed=seed,
            duration_ms=int(hours * 3_600_000),
            requests_per_s=requests_per_s,
            preroll_requests_per_s=preroll_requests_per_s,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    check_events(context, EVENTS)
    namespace = f"simulate-{uuid.uuid4().hex[:8]}"
    training = live_training(context, empty_store(checkpoints)) if checkpoints else None
    with run_options(
        context, empty(out), namespace, freshness, training=training, **stack
    ) as options:
        figures = simulate(options, Simulator(settings)).figures
    click.echo(write_figures(figures, json_file))
    judge(figures)
