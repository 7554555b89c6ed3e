"""``tenuto worker``: the long-lived stream processes."""

from __future__ import annotations

import logging

import click

from tenuto.cli.context import Context, InputError
from tenuto.cli.options import metrics_port_option

logger = logging.getLogger(__name__)


@click.group()
def command() -> None:
    """Run a stream worker until SIGTERM; a crash exits with 1 and loses nothing."""


@command.command()
@click.option("--reset", is_flag=True, help="rebuild where Redis belongs to another log")
@metrics_port_option
@click.pass_obj
def features(context: Context, reset: bool, metrics_port: int | None) -> None:
    """Keep the windowed features in Redis up to date."""
    from tenuto.features.buckets import Buckets
    from tenuto.features.store import StoreError
    from tenuto.processes import begin, broker_of, limits_of, show_retention, worker_settings
    from tenuto.streams.feature_app import feature_app
    from tenuto.streams.worker import run

    context.override(workers__metrics_port=metrics_port)
    settings, layout = context.settings, context.features.layout
    context.redis()
    store = Buckets.connect(settings.redis, layout, settings.kafka.partitions, settings.namespace)
    try:
        policy = store.check().policy
    except StoreError as error:
        raise InputError(str(error)) from error
    with context.topics() as topics:
        kept = topics.retention([context.names.of(event) for event in layout.topics])
    begin(context.settings, context.log_format)
    if not policy:
        logger.warning("redis does not tell its maxmemory-policy: it must be noeviction")
    show_retention(kept, layout.history_ms)
    app = feature_app(
        context.platform.name,
        events=context.platform.events,
        store=store,
        broker=broker_of(context.settings),
        limits=limits_of(context.settings),
        reset=reset,
        **worker_settings(context.settings),
    )
    run(app)


@command.command()
@click.option("--stream", "name", default="default", show_default=True, help="sample stream")
@metrics_port_option
@click.pass_obj
def join(context: Context, name: str, metrics_port: int | None) -> None:
    """Join snapshots to their delayed labels."""
    from tenuto.processes import begin, broker_of, limits_of, worker_settings
    from tenuto.streams.join_app import join_app
    from tenuto.streams.worker import run

    context.override(workers__metrics_port=metrics_port)
    stream = context.sample_stream(name)
    with context.topics():
        pass
    begin(context.settings, context.log_format)
    app = join_app(
        context.platform.name,
        stream=stream,
        events=context.platform.events,
        counted=context.features.layout.topics,
        scores=context.platform.scores,
        broker=broker_of(context.settings),
        limits=limits_of(context.settings),
        max_snapshot_bytes=context.settings.limits.snapshot_bytes,
        max_memory_bytes=context.settings.workers.join_memory_mb << 20,
        **worker_settings(context.settings),
    )
    run(app)
