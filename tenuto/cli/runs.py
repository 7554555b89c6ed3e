"""Options that ``replay``, ``simulate`` and ``demo`` share: which servers, and where logs go."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from tenuto.audit import AuditError
from tenuto.cli.audit import verdict
from tenuto.cli.context import Context, InputError, NoServerError
from tenuto.drive.run import RunOptions, Training, run_settings
from tenuto.drive.workers import WorkerFailedError
from tenuto.features.durations import duration_ms
from tenuto.features.events import Event
from tenuto.local import StackError
from tenuto.snapshot.audit.findings import Findings
from tenuto.streams.outbox import BrokerUnavailableError
from tenuto.streams.reach import CredentialsError, UnavailableError

F = TypeVar("F", bound=Callable[..., Any])


def stack_options(command: F) -> F:
    """``--stack``, ``--kafka-home``, ``--partitions`` and ``--keep-logs``."""
    options = (
        click.option(
            "--stack",
            "kind",
            type=click.Choice(["embedded", "kafka", "existing"]),
            help="servers to start, or those of the settings  [default: embedded]",
        ),
        click.option("--kafka-home", help="folder of an Apache Kafka, instead of $KAFKA_HOME"),
        click.option("--partitions", type=int, default=1, show_default=True),
        click.option(
            "--logs", type=click.Path(path_type=Path), help="keep the workers' logs in this folder"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def audit_options(command: F) -> F:
    """``--audit`` and ``--record``."""
    options = (
        click.option(
            "--audit", is_flag=True,
            help="compute all again from the log in another way; exit with 1 where it differs",
        ),
        click.option(
            "--record", type=click.Path(path_type=Path), help="keep the log there, for an audit"
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def check_events(context: Context, events: Iterable[Event]) -> None:
    """Refuse an application that does not declare what a simulation sends.

    Raises:
        InputError: names the application and the events.
    """
    absent = [event.name for event in events if event not in context.platform.events]
    if absent:
        raise InputError(
            f"app {context.settings.app}: the simulator sends {', '.join(absent)}, which it does "
            "not declare: add tenuto.presets.video.events, or replay a log of your own"
        )


@contextmanager
def run_options(
    context: Context,
    out: Path,
    namespace: str,
    freshness: str,
    *,
    kind: str | None,
    kafka_home: str | None,
    partitions: int,
    logs: Path | None,
    training: Training | None = None,
    audit: bool = False,
    record: Path | None = None,
) -> Iterator[RunOptions]:
    """What a run is given; turns what can go wrong with its servers into one line."""
    try:
        duration_ms(freshness)
    except ValueError as error:
        raise InputError(f"--freshness: {error}") from error
    if record is not None and record.exists() and not is_empty(record):
        raise InputError(
            f"--record {record}: there is something already: choose an empty directory"
        )
    context.override(stack__kafka_home=kafka_home)
    kind = kind or context.settings.stack.kind
    settings = run_settings(context.settings, namespace=namespace, partitions=partitions)
    with tempfile.TemporaryDirectory(prefix="tenuto-run-") as temporary:
        work_dir = logs or Path(temporary)
        start: Any = None if kind == "existing" else kind
        try:
            yield RunOptions(
                settings, context.platform, out, work_dir, freshness, start, training, audit, record
            )
        except (StackError, WorkerFailedError, CredentialsError, AuditError) as error:
            raise InputError(str(error)) from error
        except (UnavailableError, BrokerUnavailableError) as error:
            raise NoServerError(str(error)) from error


def live_training(context: Context, store: Path) -> Training | None:
    """That a simulation's ranker learns at once; None where the application has no tasks."""
    if not context.platform.tasks:
        return None
    return Training("live", store)


def as_of_training(context: Context, store: Path) -> Training:
    """That a replay's ranker learns only what was final.

    Raises:
        InputError: the application has no tasks.
    """
    if not context.platform.tasks:
        raise InputError(
            f"app {context.settings.app}: declares no tasks: there is nothing to train"
        )
    return Training("as_of", store)


def is_empty(path: Path) -> bool:
    """Whether a path is a directory with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def judge(figures: dict[str, Any]) -> None:
    """Show what a run's audit found, on stderr, and end the process where that is not clean."""
    findings = figures.get("audit")
    if findings is not None:
        click.echo(verdict(findings), err=True)
        if not findings.clean:
            sys.exit(1)


def write_figures(figures: dict[str, Any], json_file: Path | None) -> str:
    """A run's figures as JSON text, in ``json_file`` too where one is given."""
    judged = {k: v.to_json() if isinstance(v, Findings) else v for k, v in figures.items()}
    text = orjson.dumps(judged, option=orjson.OPT_INDENT_2).decode()
    if json_file is not None:
        json_file.write_text(text + "\n")
    return text


def empty(out: Path) -> Path:
    """A folder for samples that holds none.

    Raises:
        InputError: it holds samples of another run.
    """
    if any(out.glob("**/_manifests/*")):
        raise InputError(f"--out {out}: holds samples already: choose an empty directory")
    return out


def empty_store(folder: Path) -> Path:
    """A folder for checkpoints that holds none.

    Raises:
        InputError: it holds checkpoints of another run.
    """
    if any(folder.glob("*/latest.json")):
        raise InputError(f"--checkpoints {folder}: holds checkpoints already: choose an empty one")
    return folder
