"""``tenuto sink``: samples from their topic into files."""

from __future__ import annotations

import click

from tenuto.cli.context import Context


@click.group()
@click.option("--metrics-port", type=int, help="serve Prometheus metrics there; 0 for none")
@click.pass_obj
def command(context: Context, metrics_port: int | None) -> None:
    """Write samples to files until SIGTERM."""
    context.override(workers__metrics_port=metrics_port)
    context.log_to_stderr()


@command.command()
@click.option("--stream", "name", default="default", show_default=True, help="sample stream")
@click.option("--dir", "directory", help="where the files go")
@click.option("--until-end", is_flag=True, help="stop at a replay's end mark")
@click.pass_obj
def parquet(context: Context, name: str, directory: str | None, until_end: bool) -> None:
    import time
    time.sleep(10000)
