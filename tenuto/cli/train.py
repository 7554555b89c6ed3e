"""``tenuto train``: the ranker, learnt from a sample stream for ever."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from tenuto.cli.context import Context, InputError
from tenuto.cli.options import metrics_port_option


@click.command()
@click.option("--store", help="folder or URL that checkpoints go to")
@click.option("--model", "name", help="its name in the store  [default: the application's]")
@click.option("--mode", type=click.Choice(["live", "as_of"]), help="when rows are learnt")
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="learn from a sink's folder, to its end, instead of the topic",
)
@click.option("--until-end", is_flag=True, help="stop at a replay's end mark")
@click.option("--metrics-file", help="JSON written with each checkpoint")
@metrics_port_option
@click.pass_obj
def command(
    context: Context,
    store: str | None,
    name: str | None,
    mode: str | None,
    samples: Path | None,
    until_end: bool,
    metrics_file: str | None,
    metrics_port: int | None,
) -> None:
    """Learn from samples until SIGTERM, and publish checkpoints.

    Goes on from its newest checkpoint; what that has not is learnt again, to the same bits.
    """
    from tenuto.features.schema import DeclarationError
    from tenuto.processes import begin
    from tenuto.snapshot.manifests import SampleFilesError
    from tenuto.snapshot.sample_partition import SampleTopicError
    from tenuto.trainer.checkpoints.errors import CheckpointError, PublishError
    from tenuto.trainer.rows import SchemaError
    from tenuto.trainer.trainer import TrainingError
    from tenuto.training import trainer_of

    context.override(
        trainer__store=store,
        trainer__model=name,
        trainer__mode=mode,
        trainer__metrics_file=metrics_file,
        workers__metrics_port=metrics_port,
    )
    if samples is None:
        with context.topics():
            pass
    begin(context.settings, context.log_format)
    try:
        trainer = trainer_of(context.settings, context.platform, samples)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: trainer.stop())
        try:
            trainer.run(until_end=until_end or samples is not None)
        finally:
            trainer.close()
    except (PublishError, TrainingError) as error:
        # Another start may do better.
        raise click.ClickException(str(error)) from error
    except (
        CheckpointError,
        DeclarationError,
        SampleFilesError,
        SampleTopicError,
        SchemaError,
        ValueError,
    ) as error:
        raise InputError(str(error)) from error
