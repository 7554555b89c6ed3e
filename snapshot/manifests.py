"""Manifests: which Parquet files are samples, chained per partition by snapshot offsets.

A file that no manifest names does not count. ``_manifests/p<partition>/<from>.json`` names the
files of one chunk; the chunk of ``to`` follows it. To drop old samples, remove the oldest
manifests first, then their files.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import orjson

from tenuto.snapshot.durable import write_durably

VERSION = 1
MAX_MANIFEST_BYTES = 16 * 2**20
_FOLDER = "_manifests"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class SampleFilesError(RuntimeError):
    """A directory of samples that is not as its manifests say; names the file."""


class SampleFile(msgspec.Struct, frozen=True):
    """One Parquet file of a chunk: path in the directory, size, hash of its bytes, rows."""

    path: str
    bytes: Count
    sha256: str
    rows: Count


class Manifest(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """One finished chunk of a partition.

    Attributes:
        partition: of the samples topic and of the snapshots'.
        start, end: snapshot offsets ``[start, end)``, as ``from`` and ``to``.
        arrival_ms: of its last row, or of the partition at its end mark.
        samples_offset: record of the samples topic from which to read the next chunk.
        is_end: whether the partition ends here.
        rows: of its files together.
        files: in the order of their rows; several where columns changed in between, none where
            the end mark came after the last row's chunk.
    """

    partition: Count
    start: Count
    end: Count
    arrival_ms: int
    samples_offset: Count
    is_end: bool
    rows: Count
    files: list[SampleFile]
    v: int = VERSION


def manifest_folder(directory: Path, partition: int) -> Path:
    """Where a partition's manifests are."""
    return directory / _FOLDER / f"p{partition}"


def partitions_in(directory: Path) -> list[int]:
    """The partitions that have manifests in a directory, ascending."""
    names = [path.name[1:] for path in (directory / _FOLDER).glob("p*")]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Make a chunk done; its files must be in place and durable.

    Raises:
        OSError: it is not done.
    """
    data = orjson.dumps(msgspec.to_builtins(manifest), option=orjson.OPT_INDENT_2)
    write_durably(_path(directory, manifest.partition, manifest.start), data)


def read_manifests(directory: Path, partition: int, *, last: int | None = None) -> list[Manifest]:
    """A partition's manifests in order, or the ``last`` of them.

    Raises:
        SampleFilesError: one cannot be read, or something is missing between two.
    """
    paths = sorted(manifest_folder(directory, partition).glob("[0-9]*.json"))
    manifests = [_read(path, partition) for path in (paths[-last:] if last else paths)]
    for before, after in pairwise(manifests):
        if before.end != after.start:
            raise SampleFilesError(
                f"{_path(directory, partition, after.start)}: starts at snapshot offset "
                f"{after.start}, the one before ends at {before.end}: a manifest in between is "
                "missing: restore it, or remove those before the hole"
            )
    return manifests


def check_files(directory: Path, manifests: Sequence[Manifest]) -> None:
    """Check that the files named are there, inside of the directory, with their sizes.

    Raises:
        SampleFilesError: one is not.
    """
    root = directory.resolve()
    for manifest, file in files_of(manifests):
        path = directory / file.path
        try:
            # Whoever may write here must not make a reader open another file of the machine, nor
            # one that never ends.
            if not path.resolve().is_relative_to(root):
                raise SampleFilesError(f"{path}: leads out of {directory}: put the file there")
            found = path.stat()
            size = found.st_size
            if not stat.S_ISREG(found.st_mode):
                raise SampleFilesError(f"{path}: not a file: restore it")
        except (FileNotFoundError, NotADirectoryError) as error:
            named = _path(directory, manifest.partition, manifest.start)
            raise SampleFilesError(
                f"{path}: missing, though {named} names it: restore it, or remove the manifests "
                "up to that one"
            ) from error
        except OSError as error:
            # A name that no file system takes, or a loop of links.
            where = str(path)[:200]
            raise SampleFilesError(f"{where}: {error.strerror}: restore its manifest") from error
        if size != file.bytes:
            raise SampleFilesError(
                f"{path}: {size} bytes: its manifest says {file.bytes}: restore the file"
            )


def files_of(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, SampleFile]]:
    """Every file with the manifest that names it, in order."""
    return ((manifest, file) for manifest in manifests for file in manifest.files)


def _path(directory: Path, partition: int, start: int) -> Path:
    return manifest_folder(directory, partition) / f"{start:020d}.json"


def _read(path: Path, partition: int) -> Manifest:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_MANIFEST_BYTES:
        raise SampleFilesError(
            f"{path}: not a file of at most {MAX_MANIFEST_BYTES} bytes: restore it"
        )
    try:
        manifest = msgspec.convert(orjson.loads(path.read_bytes()), Manifest)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise SampleFilesError(f"{path}: not a manifest: {error}: restore it") from error
    if manifest.v != VERSION:
        raise SampleFilesError(f"{path}: v: {manifest.v}: this release reads version {VERSION}")
    rows = sum(file.rows for file in manifest.files)
    if (
        (manifest.partition, f"{manifest.start:020d}") != (partition, path.stem)
        or manifest.end < manifest.start
        or manifest.rows != rows
    ):
        raise SampleFilesError(
            f"{path}: of p{manifest.partition} [{manifest.start}, {manifest.end}) with "
            f"{manifest.rows} rows, {rows} in its files: does not agree with itself: restore it"
        )
    for file in manifest.files:
        _check_name(path, file.path)
    return manifest


def _check_name(manifest: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if (
        not 1 <= len(name) <= 1_000
        or not name.isprintable()
        or "\\" in name
        or name.startswith("/")
        or not parts
        or ".." in parts
    ):
        raise SampleFilesError(
            f"{manifest}: files: {name[:100]!r}: must be a path inside of the directory"
        )
