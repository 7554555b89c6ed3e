"""``tenuto replay``: an interaction log through the real components."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tenuto.cli.context import Context, InputError
from tenuto.cli.runs import (
    as_of_training,
    audit_options,
    empty,
    empty_store,
    judge,
    run_options,
    stack_options,
    write_figures,
)


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--freshness", default="10s", show_default=True, help="distance of the boundaries")
@click.option("--context", "names", default="", help="columns that are context: a,b")
@click.option("--map", "map_file", type=click.Path(path_type=Path), help="renames and units")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise")
@click.option("--dry-run", is_flag=True, help="print how the file will be read, and stop")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples"))
@click.option("--train", is_flag=True, help="learn along, and judge each row by what was known")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    help="keep the checkpoints of --train there",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="figures go there")
@audit_options
@stack_options
@click.pass_obj
def command(
    context: Context,
    /,
    log: Path,
    freshness: str,
    names: str,
    map_file: Path | None,
    on_error: str,
    dry_run: bool,
    out: Path,
    train: bool,
    checkpoints: Path | None,
    json_file: Path | None,
    **stack: Any,
) -> None:
    """Run LOG (CSV, TSV or Parquet, one row per shown item) in lock-step event time.

    Leaves the samples in --out as Parquet. The same log gives the same rows, bit for bit. With
    --train a ranker is learnt from them, and each row is scored by weights that had learnt only
    what was final at its request: the figures are those of `as_of`, with 95 % intervals.
    """
    from tenuto.drive.dry_run import dry_run as look
    from tenuto.drive.interactions import read_log
    from tenuto.drive.mapping import InteractionLogError, read_map
    from tenuto.drive.replay import replay

    platform, features = context.platform, context.features
    try:
        mapping = read_map(map_file) if map_file is not None else None
        read: dict[str, Any] = {
            "mapping": mapping,
            "context": [name.strip() for name in names.split(",") if name.strip()],
            "declared_context": features.contexts.values(),
        }
        if dry_run:
            click.echo(look(log, platform.events, **read).render())
            return
        source = read_log(log, platform.events, on_error=_on_error(on_error), **read)
    except (InteractionLogError, OSError) as error:
        raise InputError(str(error)) from error
    namespace = f"replay-{uuid.uuid4().hex[:8]}"
    with run_options(context, empty(out), namespace, freshness, **stack) as options:
        if train:
            store = empty_store(checkpoints or options.work_dir / "checkpoints")
            options = replace(options, training=as_of_training(context, store))
        figures = replay(source, options)
    click.echo(write_figures(figures, json_file))
    judge(figures)


def _on_error(text: str) -> Any:
    return text
