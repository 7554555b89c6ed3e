"""``tenuto topics``: create the application's topics, and check those that are there."""

from __future__ import annotations

import click

from tenuto.cli.context import Context, InputError


@click.command()
@click.option("--check-only", is_flag=True, help="create nothing")
@click.pass_obj
def command(context: Context, check_only: bool) -> None:
    """Create the topics with the right partitions and settings, and check existing ones."""
    from tenuto.streams.retention import shortfalls
    from tenuto.streams.topics import TopicError

    wanted = context.topic_plan()
    with context.topics() as topics:
        if not check_only:
            replication = context.settings.kafka.replication_factor
            try:
                created = topics.create(wanted, replication_factor=replication)
            except TopicError as error:
                raise InputError(str(error)) from error
            for name in created:
                click.echo(f"created {name}")
        findings = topics.check(wanted)
        layout = context.features.layout
        kept = topics.retention([context.names.of(event) for event in layout.topics])
    for line in shortfalls(kept, layout.history_ms):
        click.echo(f"warning: {line}", err=True)
    for line in findings.unchecked:
        click.echo(f"not checked: {line}")
    for line in findings.problems:
        click.echo(line, err=True)
    if findings.problems:
        raise InputError(f"{len(findings.problems)} of the topics' settings are wrong")
    click.echo(f"{len(wanted)} topics are as they must be")
