"""``tenuto worker``: the long-lived stream processes."""

from __future__ import annotations

import click

from tenuto.cli.context import Context


@click.group()
@click.option("--metrics-port", type=int, help="serve Prometheus metrics there; 0 for none")
@click.pass_obj
def command(context: Context, metrics_port: int | None) -> None:
    """Run a stream worker until SIGTERM; a crash exits with 1 and loses nothing."""
    context.override(workers__metrics_port=metrics_port)
    context.log_to_stderr()


@command.command()
@click.option("--reset", is_flag=True, help="rebuild where Redis belongs to another log")
@click.pass_obj
def features(context: Context, reset: bool) -> None:
    """Keep the windowed features in Redis up to date."""
    from tenuto.processes import broker_of, limits_of, serve_metrics, worker_settings
    from tenuto.streams.feature_app import feature_app
    from tenuto.streams.worker import run

    client = context.redis()
    with context.topics():
        pass
    serve_metrics(context.settings)
    app = feature_app(
        context.platform.name,
        events=context.platform.events,
        layout=context.features.layout,
        broker=broker_of(context.settings),
        client=client,
        limits=limits_of(context.settings),
        reset=reset,
        **worker_settings(context.settings),
    )
    run(app)


@command.command()
@click.option("--stream", "name", default="default", show_default=True, help="sample stream")
@click.pass_obj
def join(context: Context, name: str) -> None:
    """Join snapshots to their delayed labels."""
    from tenuto.processes import broker_of, limits_of, serve_metrics, worker_settings
    from tenuto.streams.join_app import join_app
    from tenuto.streams.worker import run

    stream = context.sample_stream(name)
    with context.topics():
        pass
    serve_metrics(context.settings)
    app = join_app(
        context.platform.name,
        stream=stream,
        events=context.platform.events,
        broker=broker_of(context.settings),
        limits=limits_of(context.settings),
        max_snapshot_bytes=context.settings.limits.snapshot_bytes,
        **worker_settings(context.settings),
    )
    run(app)
