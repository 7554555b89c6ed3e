"""``tenuto checkpoints``: which versions there are, which one holds, and going back to one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from tenuto.cli.context import Context, InputError, NoServerError

if TYPE_CHECKING:
    from tenuto.trainer.checkpoints.log import AnnouncementLog
    from tenuto.trainer.checkpoints.reader import CheckpointReader


@click.group()
@click.option("--store", help="folder or URL that checkpoints are in")
@click.option("--model", "name", help="its name in the store  [default: the application's]")
@click.pass_obj
def command(context: Context, store: str | None, name: str | None) -> None:
    """Look at a model's checkpoints, and say which one holds."""
    context.override(trainer__store=store, trainer__model=name)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@click.pass_obj
def list_versions(context: Context, as_json: bool) -> None:
    """The versions in the store, newest last; the one that holds is marked with a star."""
    from tenuto.inspection.text import moment, table
    from tenuto.trainer.checkpoints.errors import CheckpointError
    from tenuto.trainer.checkpoints.pins import Pins

    reader, log = _open(context)
    try:
        latest = log.latest()
        pinned = Pins(reader.store, reader.model).versions()
        versions = reader.versions()
    except (CheckpointError, OSError) as error:
        raise _refused(error) from error
    if not versions:
        raise InputError(f"{reader.store.url}/{reader.model}: there are no checkpoints")
    rows = []
    for version in versions:
        held = latest is not None and latest.version == version
        line: dict[str, Any] = {"version": version, "holds": held, "pinned": version in pinned}
        try:
            found = reader.manifest(version)
            line |= {
                "learnt_up_to_ms": found.front_ms,
                "rows": found.rows,
                "batches": found.batches,
                "bytes": found.bytes,
                "weights": found.weights,
            }
        except (CheckpointError, OSError) as error:
            line["error"] = str(error)
        rows.append(line)
    if as_json:
        for line in rows:
            click.echo(orjson.dumps(line))
        return
    header = ["", "version", "learnt up to", "rows", "batches", "bytes", "weights", ""]
    cells = [
        [
            "*" if line["holds"] else "",
            line["version"],
            moment(line.get("learnt_up_to_ms")),
            line.get("rows"),
            line.get("batches"),
            line.get("bytes"),
            line.get("weights", "")[:12],
            line.get("error") or ("pinned" if line["pinned"] else ""),
        ]
        for line in rows
    ]
    click.echo("\n".join(table(header, [[_blank(cell) for cell in row] for row in cells])))


@command.command()
@click.argument("version", required=False)
@click.option("--check", is_flag=True, help="read every file, and compare it with its hash")
@click.pass_obj
def show(context: Context, version: str | None, check: bool) -> None:
    """The manifest of a version, by default of the one that holds, as JSON."""
    from tenuto.trainer.checkpoints.errors import CheckpointError

    reader, log = _open(context)
    try:
        if version is None:
            latest = log.latest()
            if latest is None or not latest.version:
                raise InputError(f"{reader.store.url}/{reader.model}: there are no checkpoints")
            version = latest.version
        manifest = reader.manifest(version)
        if check:
            reader.part(manifest, "serving")
            reader.part(manifest, "training")
        data = reader.store.read(f"{reader.folder(version)}/manifest.json")
    except (CheckpointError, OSError) as error:
        raise _refused(error) from error
    click.echo(data.decode().rstrip())
    if check:
        click.echo(f"{len(manifest.files)} files are as they should be", err=True)


@command.command()
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="a sink's folder, of what was learnt",
)
@click.pass_obj
def prove(context: Context, samples: Path) -> None:
    """Learn the samples again, and compare every version in the store, bit for bit.

    Give the settings of its trainer ([trainer], [model]). Exits with 1 where a version has other
    weights than its samples give.
    """
    from tenuto.relearning import relearn
    from tenuto.snapshot.manifests import SampleFilesError
    from tenuto.trainer.checkpoints.errors import CheckpointError

    try:
        compared = relearn(context.settings, context.platform, samples)
    except (CheckpointError, SampleFilesError, ValueError) as error:
        raise InputError(str(error)) from error
    equal = sum(one.equal for one in compared)
    wrong = [one for one in compared if not one.equal and not one.out_of_reach]
    for one in wrong:
        found = f"weights {one.relearnt[:12]}" if one.relearnt else "no such version"
        click.echo(f"{one.version}: weights {one.held[:12]}, and its samples give {found}")
    click.echo(
        f"{len(compared)} versions: {equal} equal, bit for bit; {len(wrong)} different; "
        f"{len(compared) - equal - len(wrong)} out of their reach"
    )
    if wrong or not equal:
        raise SystemExit(1)


@command.command()
@click.argument("version")
@click.option("--no-topic", is_flag=True, help="tell only those who follow the store")
@click.pass_obj
def rollback(context: Context, version: str, no_topic: bool) -> None:
    """Let an older version hold again, until the trainer publishes its next one."""
    from tenuto.trainer.checkpoints.announcer import TopicAnnouncer
    from tenuto.trainer.checkpoints.errors import CheckpointError, PublishError
    from tenuto.trainer.checkpoints.retry import Retry
    from tenuto.trainer.checkpoints.writer import Publisher

    reader, _ = _open(context)
    settings = context.settings
    with ExitStack() as stack:
        announcers = []
        if not no_topic:
            # Asked before anything is changed.
            with context.topics():
                pass
            topic = TopicAnnouncer(context.names.checkpoints, settings.kafka.kafka_python())
            stack.callback(topic.close)
            announcers.append(topic)
        publisher = Publisher(
            reader.store, reader.model, announcers=announcers, retry=Retry(attempts=2)
        )
        try:
            said = publisher.roll_back(version)
        except PublishError as error:
            raise NoServerError(str(error)) from error
        except (CheckpointError, OSError) as error:
            raise _refused(error) from error
    click.echo(
        f"{version} holds, by announcement {said.sequence}, until a trainer publishes its next "
        "version: stop the trainer to keep it"
    )


@command.command()
@click.argument("version")
@click.pass_obj
def pin(context: Context, version: str) -> None:
    """Keep a version in the store, however old it gets."""
    from tenuto.trainer.checkpoints.errors import CheckpointError
    from tenuto.trainer.checkpoints.pins import Pins

    reader, _ = _open(context)
    try:
        reader.manifest(version)
        Pins(reader.store, reader.model).add(version)
    except (CheckpointError, OSError) as error:
        raise _refused(error) from error
    click.echo(f"{version} stays until it is unpinned")


@command.command()
@click.argument("version")
@click.pass_obj
def unpin(context: Context, version: str) -> None:
    """Let a version go when its time has come."""
    from tenuto.trainer.checkpoints.errors import CheckpointError
    from tenuto.trainer.checkpoints.pins import Pins

    reader, _ = _open(context)
    pins = Pins(reader.store, reader.model)
    try:
        if version not in pins.versions():
            raise InputError(f"{version} is not pinned")
        pins.remove(version)
    except (CheckpointError, OSError) as error:
        raise _refused(error) from error
    click.echo(f"{version} goes when its time has come")


def _open(context: Context) -> tuple[CheckpointReader, AnnouncementLog]:
    from tenuto.trainer.checkpoints.errors import CheckpointError
    from tenuto.trainer.checkpoints.log import AnnouncementLog
    from tenuto.trainer.checkpoints.reader import CheckpointReader

    trainer = context.settings.trainer
    try:
        reader = CheckpointReader(trainer.store, trainer.model or context.platform.name)
    except (CheckpointError, ValueError) as error:
        raise InputError(str(error)) from error
    return reader, AnnouncementLog(reader.store, reader.model)


def _refused(error: Exception) -> Exception:
    """A store that does not answer, or a checkpoint that is not as it should be."""
    return NoServerError(str(error)) if isinstance(error, OSError) else InputError(str(error))


def _blank(cell: Any) -> Any:
    return " " if cell == "" else cell
