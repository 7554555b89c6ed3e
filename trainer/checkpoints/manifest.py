"""What a checkpoint says of itself, and what is announced of it: plain JSON, checked when read.

Pure: bytes in, values out. Every name that becomes a path is checked here, before any is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec
import orjson

from tenuto.trainer.checkpoints.errors import (
    FormatError,
    UnknownFormatError,
    UnsafePathError,
)
from tenuto.trainer.spec import ModelSpec

FORMAT = 1
PARTS = ("serving", "training")
MAX_MANIFEST_BYTES = 16 * 2**20
"""Of a manifest or an announcement; larger ones are not read."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"\d{8}T\d{6}Z-\d{8,}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class FileEntry(msgspec.Struct, frozen=True):
    """A file of a checkpoint."""

    sha256: str
    bytes: int


class Origin(msgspec.Struct, frozen=True):
    """Which samples were learnt: the topic, or directory, and which life of it."""

    topic: str
    incarnation: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint.

    Attributes:
        format: of everything under a version.
        model, version: whose, and which; see :func:`version_name`.
        spec: the model.
        front_ms: snapshot arrival up to which rows were learnt: all before it that filled a batch.
        horizon_ms: H of the sample stream; ``front_ms + horizon_ms`` is when it could be there.
        learnt_ms: least and greatest ``request_ts_ms`` learnt; None before the first row.
        batches, rows: learnt since the first.
        mode: ``live`` or ``as_of``.
        positions: where to read samples on from, by partition; the trainer's own.
        runtime: what else decides the weights' bits: threads, torch's version, determinism.
        samples: what was learnt from.
        metrics: a summary, null where undefined.
        weights: one sha256 over every tensor of both parts.
        files: relative path to size and hash; ``serving/…`` and ``training/…``.
    """

    format: int
    model: str
    version: str
    spec: ModelSpec
    front_ms: int
    horizon_ms: int
    learnt_ms: tuple[int, int] | None
    batches: int
    rows: int
    mode: str
    positions: dict[str, Any]
    runtime: dict[str, Any]
    samples: Origin
    metrics: dict[str, Any]
    weights: str
    files: dict[str, FileEntry]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.files.values())


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What readers are told: from this sequence number on, that version holds.

    Attributes:
        sequence: grows by one; the highest is what holds, whatever its version.
        model: whose.
        version: empty where nothing is learnt yet.
        front_ms: snapshot arrival that the trainer has passed; with ``unchanged`` further than the
            version's own.
        available_at_ms: ``front_ms`` and the horizon: when this could be known at the earliest.
        manifest_sha256: of the version's ``manifest.json``; empty without a version.
        reason: a new version; the old one still holds; an old one holds again.
        manifest: the same as in the store, for whoever only looks; None without a version.
    """

    format: int
    sequence: int
    model: str
    version: str
    front_ms: int
    available_at_ms: int
    manifest_sha256: str
    reason: Literal["published", "unchanged", "rollback"]
    manifest: dict[str, Any] | None = None


def version_name(front_ms: int, batches: int) -> str:
    """A checkpoint's name, a function of the samples; later ones sort behind earlier ones.

    >>> version_name(1704105000000, 42)
    '20240101T103000Z-00000042'
    """
    moment = datetime.fromtimestamp(front_ms // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{batches:08d}"


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def encode(value: Manifest | Announcement) -> bytes:
    """As JSON; NaN and infinities become null."""
    return orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2) + b"\n"


def decode_manifest(data: bytes, place: str) -> Manifest:
    """A manifest from its file.

    Args:
        data: JSON.
        place: where it was read, for messages.

    Raises:
        FormatError: not a manifest; UnknownFormatError, of a format not known here.
        UnsafePathError: it names files that a checkpoint cannot have.
    """
    manifest = _decode(data, Manifest, place)
    check_name(manifest.model, f"{place}: model")
    check_version(manifest.version, f"{place}: version")
    for path, entry in manifest.files.items():
        _check_path(path, place)
        if not _SHA256.fullmatch(entry.sha256) or entry.bytes < 0:
            raise FormatError(f"{place}: files: {path}: no sha256 and size")
    for part in PARTS:
        if f"{part}/model.safetensors" not in manifest.files:
            raise FormatError(f"{place}: files: {part}/model.safetensors is missing")
    return manifest


def decode_announcement(data: bytes, place: str) -> Announcement:
    """An announcement from its file or record; raises as :func:`decode_manifest` does."""
    announcement = _decode(data, Announcement, place)
    check_name(announcement.model, f"{place}: model")
    if announcement.version:
        check_version(announcement.version, f"{place}: version")
        if not _SHA256.fullmatch(announcement.manifest_sha256):
            raise FormatError(f"{place}: manifest_sha256: no sha256")
    if announcement.sequence < 1:
        raise FormatError(f"{place}: sequence: {announcement.sequence}: must be ≥ 1")
    return announcement


def unnumbered(model: str, version: str, front_ms: int = 0) -> Announcement:
    """What nobody announced: a version asked for by name, or none up to a front.

    Raises:
        UnsafePathError: no name of a version.
    """
    return Announcement(
        format=FORMAT,
        sequence=0,
        model=model,
        version=version and check_version(version, "version"),
        front_ms=front_ms,
        available_at_ms=front_ms,
        manifest_sha256="",
        reason="unchanged",
    )


def check_name(name: str, what: str) -> str:
    """A model's name, if it can be a folder's.

    Raises:
        UnsafePathError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UnsafePathError(
            f"{what}: {name!r}: must be at most 100 letters, digits, '.', '_' and '-', and not "
            "begin with '.' or '-'"
        )
    return name


def check_version(version: str, what: str) -> str:
    """A version, if it is one.

    Raises:
        UnsafePathError: it is not.
    """
    if not _VERSION.fullmatch(version):
        raise UnsafePathError(f"{what}: {version!r}: must be like 20240101T103000Z-00000042")
    return version


def _check_path(path: str, place: str) -> None:
    part, _, name = path.partition("/")
    if part not in PARTS or not _NAME.fullmatch(name):
        raise UnsafePathError(
            f"{place}: files: {path!r}: must be a file's name in serving/ or training/"
        )


def _decode(data: bytes, kind: type[T], place: str) -> T:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{place}: not JSON: {error}: it is cut off or damaged") from error
    try:
        # What is nested deeper than is ever written could not be announced again.
        orjson.dumps(found)
    except TypeError as error:
        raise FormatError(f"{place}: {error}: not written by Tenuto") from error
    version = found.get("format") if isinstance(found, Mapping) else None
    if version is None:
        raise FormatError(f"{place}: has no format: not written by Tenuto")
    if version != FORMAT:
        raise UnknownFormatError(
            f"{place}: format {version}: this release reads {FORMAT}: upgrade it"
        )
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{place}: not a {kind.__name__.lower()}: {error}") from error
