"""``tenuto topics``: create the application's topics, and check those that are there."""

from __future__ import annotations

import click

from tenuto.cli.context import Context, InputError


@click.command()
@click.option("--check-only", is_flag=True, help="create nothing")
@click.pass_obj
def command(context: Context, check_only: bool) -> None:
    """Create the topics with the right partitions and settings, and check existing ones."""
    wanted = context.topic_plan()
    with context.topics() as topics:
        if not check_only:
            replication = context.settings.kafka.replication_factor
            for name in topics.create(wanted, replication_factor=replication):
                click.echo(f"created {name}")
        problems = topics.check(wanted)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise InputError(f"{len(problems)} of the topics' settings are wrong")
    click.echo(f"{len(wanted)} topics are as they must be")
