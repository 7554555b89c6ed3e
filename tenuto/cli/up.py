"""``tenuto up``: a broker and a Redis on this machine, until it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event
from typing import Any

import click

from tenuto.cli.context import Context, InputError, NoServerError


@click.command()
@click.option("--stack", "kind", type=click.Choice(["embedded", "kafka"]))
@click.option("--kafka-home", help="folder of an Apache Kafka, instead of $KAFKA_HOME")
@click.option("--data-dir", help="kept between starts; a temporary one by default")
@click.pass_obj
def command(
    context: Context, kind: str | None, kafka_home: str | None, data_dir: str | None
) -> None:
    """Start a local broker and Redis as child processes, and create the topics."""
    from tenuto import local

    context.override(stack__kind=kind, stack__kafka_home=kafka_home, stack__data_dir=data_dir)
    stack = context.settings.stack
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        running = local.start(
            "kafka" if stack.kind == "kafka" else "embedded",
            data_dir=Path(stack.data_dir) if stack.data_dir else None,
            kafka_home=Path(stack.kafka_home) if stack.kafka_home else None,
            persist=bool(stack.data_dir),
        )
    except local.StackError as error:
        # With a log a server was started and failed; without one something is missing.
        raise (NoServerError if error.log_path else InputError)(str(error)) from error
    with running:
        context.override(kafka__bootstrap=running.bootstrap, redis__url=running.redis_url)
        with context.topics() as topics:
            topics.create(context.topic_plan())
        for name, value in environment(running).items():
            click.echo(f"export {name}={value}")
        click.echo(f"# {running.kind} stack, logs in {running.data_dir}/logs; ^C stops it")
        while not stopped.wait(1.0):
            if not running.is_alive():
                raise NoServerError(f"a server has ended: see {running.data_dir}/logs")


def environment(stack: Any) -> dict[str, str]:
    """Settings that lead a process to a stack."""
    return {"TENUTO_KAFKA__BOOTSTRAP": stack.bootstrap, "TENUTO_REDIS__URL": stack.redis_url}
