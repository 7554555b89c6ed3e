"""``tenuto sink``: samples from their topic into files."""

from __future__ import annotations

import click

from tenuto.cli.context import Context, InputError
from tenuto.cli.options import metrics_port_option


@click.group()
def command() -> None:
    """Write samples to files until SIGTERM."""


@command.command()
@click.option("--stream", "name", default="default", show_default=True, help="sample stream")
@click.option("--dir", "directory", help="where the files go")
@click.option("--until-end", is_flag=True, help="stop at a replay's end mark")
@click.option("--partitions", help="only these, such as 0,1,2")
@metrics_port_option
@click.pass_obj
def parquet(
    context: Context,
    name: str,
    directory: str | None,
    until_end: bool,
    partitions: str | None,
    metrics_port: int | None,
) -> None:
    """Write a sample stream as Parquet, each row once; a restart goes on where it stopped."""
    from tenuto.processes import begin
    from tenuto.snapshot.manifests import SampleFilesError
    from tenuto.streams.sink_worker import SinkWorker, run_sink

    context.override(sink__dir=directory, workers__metrics_port=metrics_port)
    settings = context.settings
    topic = context.names.of(context.sample_stream(name).topic)
    with context.topics() as topics:
        life = topics.incarnation(topic)
    begin(settings, context.log_format)
    try:
        numbers = None if partitions is None else [int(n) for n in partitions.split(",")]
    except ValueError as error:
        raise InputError(f"--partitions {partitions}: write numbers, such as 0,1,2") from error
    worker = SinkWorker(
        settings.kafka.aiokafka_consumer(),
        topic,
        settings.sink.dir,
        partitions=numbers,
        life=life,
        chunk_offsets=settings.sink.snapshots_per_file,
    )
    try:
        run_sink(worker, until_end=until_end)
    except SampleFilesError as error:
        raise InputError(str(error)) from error
