"""``tenuto audit``: everything computed again from the log, and compared bit for bit."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click
import orjson

from tenuto.cli.context import Context, InputError, NoServerError
from tenuto.snapshot.audit.findings import KINDS, Findings
from tenuto.snapshot.audit.log import RecordedLog


@click.command()
@click.option(
    "--log",
    "log_dir",
    type=click.Path(path_type=Path),
    help="a recorded log, instead of the broker's",
)
@click.option(
    "--record", "record_dir", type=click.Path(path_type=Path), help="keep the broker's log there"
)
@click.option(
    "--samples",
    metavar="[STREAM=]DIR",
    multiple=True,
    help="compare a sink's files too; repeatable",
)
@click.option(
    "--share",
    type=click.FloatRange(min=0.0, max=1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="of the snapshots, by hash of their request",
)
@click.option(
    "--state", "with_state", is_flag=True, help="compare Redis too, while nobody writes to it"
)
@click.option("--strict", is_flag=True, help="nothing may be waiting: what is final must be there")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="findings go there")
@click.pass_obj
def command(
    context: Context,
    log_dir: Path | None,
    record_dir: Path | None,
    samples: tuple[str, ...],
    share: float,
    with_state: bool,
    strict: bool,
    json_file: Path | None,
) -> None:
    """Compute values, labels and rows again from the log, in another way, and compare them.

    Reads the topics of the settings' namespace up to their ends, also while everything runs, and
    changes nothing. Exit code 0: all equal; 1: findings; 2: nothing to audit, or a wrong input.
    """
    from tenuto.audit import AuditError, audit_log, read_state

    if log_dir is not None and record_dir is not None:
        raise InputError("--record: a recorded log is there already: leave out --log or --record")
    files = dict(_sample_dirs(context, samples))
    platform, settings = context.platform, context.settings
    try:
        state = None
        if with_state:
            context.redis().close()
            state = read_state(platform, settings)
        log = _read(log_dir) if log_dir is not None else _record(context, record_dir)
        findings = audit_log(
            platform, settings, log, share=share, files=files, state=state, strict=strict
        )
    except AuditError as error:
        raise InputError(str(error)) from error
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(findings.to_json(), option=orjson.OPT_INDENT_2) + b"\n")
    click.echo(verdict(findings))
    if not findings.clean:
        sys.exit(1)


def verdict(findings: Findings) -> str:
    """The table, and one line that says what it comes to."""
    wrong = ", ".join(f"{findings.of(kind)} {kind}" for kind in KINDS)
    said = "clean" if findings.clean else f"not clean: {wrong}"
    return f"{findings.table()}\n{findings.snapshots:,} snapshots audited: {said}"


def _sample_dirs(context: Context, given: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for text in given:
        name, found, path = text.partition("=")
        stream = context.sample_stream(name if found else "default")
        directory = Path(path if found else text)
        if not directory.is_dir():
            raise InputError(f"--samples {text}: no such directory")
        yield stream.name, directory


def _read(directory: Path) -> RecordedLog:
    from tenuto.snapshot.audit.recording import RecordingError, read_recording

    try:
        return read_recording(directory)
    except (RecordingError, OSError) as error:
        raise InputError(f"--log: {error}") from error


def _record(context: Context, directory: Path | None) -> RecordedLog:
    from kafka.errors import KafkaError

    from tenuto.audit import record_log
    from tenuto.snapshot.audit.recording import RecordingError, write_recording
    from tenuto.streams.topics import TopicError

    with context.topics():
        pass
    try:
        log = record_log(context.platform, context.settings)
        if directory is not None:
            write_recording(log, directory)
    except (LookupError, TopicError) as error:
        raise InputError(str(error.args[0])) from error
    except (KafkaError, TimeoutError) as error:
        where = context.settings.kafka.bootstrap
        raise NoServerError(f"kafka at {where}: {error}") from error
    except (RecordingError, OSError) as error:
        raise InputError(f"--record: {error}") from error
    return log
