"""The command line: ``tenuto``. Each command is a module of this package, loaded when it is run.

Exit codes: 2, a wrong setting, declaration or input; 3, a server that does not answer; both with
one line that names it. Anything else that goes wrong keeps its traceback and exits with 1.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import click

from tenuto.cli.context import Context, InputError, NoServerError

COMMANDS = {
    "audit": "audit",
    "checkpoints": "checkpoints",
    "config": "config",
    "dead-letters": "dead_letters",
    "demo": "demo",
    "inspect": "inspect",
    "replay": "replay",
    "simulate": "simulate",
    "sink": "sink",
    "topics": "topics",
    "train": "train",
    "up": "up",
    "worker": "worker",
}
"""Command to module: a new command is a new file and a line here."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tenuto.cli.{COMMANDS[name]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        # Known here by base class, so that no server's library is loaded to say so.
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"tenuto: {error}", err=True)
            sys.exit(2)
        except NoServerError as error:
            click.echo(f"tenuto: {error}", err=True)
            sys.exit(3)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tenuto")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="tenuto.toml")
@click.option("--app", metavar="MODULE:OBJECT", help="the application object")
@click.option("--bootstrap", metavar="HOST:PORT", help="existing Kafka")
@click.option("--redis", metavar="URL", help="existing Redis")
@click.option("--namespace", help="prefix of topics and Redis keys")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.pass_context
def main(
    ctx: click.Context,
    config_file: Path | None,
    app: str | None,
    bootstrap: str | None,
    redis: str | None,
    namespace: str | None,
    log_format: str,
) -> None:
    """Real-time features and leak-free samples for rankers, on Kafka and Redis."""
    for library in ("aiokafka", "kafka"):
        # Python prints warnings that nobody asked for; long-lived commands do ask.
        logging.getLogger(library).addHandler(logging.NullHandler())
    flags = {
        "app": app,
        "kafka.bootstrap": bootstrap,
        "redis.url": redis,
        "namespace": namespace,
    }
    ctx.obj = Context(config_file, flags, log_format)
