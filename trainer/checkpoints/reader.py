"""Reading checkpoints: nothing is believed before size, hash, dtypes and shapes were checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from numpy.typing import NDArray

from tenuto.trainer.checkpoints.errors import (
    CheckpointError,
    ForeignModelError,
    FormatError,
    HashMismatchError,
    MissingFileError,
    SizeMismatchError,
    UnknownFormatError,
    UnsafePathError,
)
from tenuto.trainer.checkpoints.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    check_name,
    check_version,
    decode_manifest,
    sha256,
)
from tenuto.trainer.checkpoints.store import Store, open_store
from tenuto.trainer.checkpoints.tensors import (
    check_tensors,
    decode_description,
    decode_tensors,
)

logger = logging.getLogger(__name__)

Tensors = dict[str, NDArray[Any]]

MAX_FILE_BYTES = 4 * 2**30
"""Of one file: a hundred times a model of a million ids. A sparse file costs its owner nothing."""


@dataclass(frozen=True)
class LoadedPart:
    """One folder of a checkpoint, checked.

    Attributes:
        tensors: by file and name: ``tensors["model"]["expert.weight"]``.
        documents: JSON by file: ``documents["dictionary"]``.
    """

    tensors: Mapping[str, Tensors]
    documents: Mapping[str, Any]


@dataclass(frozen=True)
class Resumable:
    """All that a trainer goes on from."""

    manifest: Manifest
    serving: LoadedPart
    training: LoadedPart


class CheckpointReader:
    """The checkpoints of one model.

    Args:
        store: a store or its URL.
        model: its name there.

    Raises:
        UnsafePathError: no name of a model.
        ValueError: no URL of a store.
    """

    def __init__(self, store: Store | str, model: str) -> None:
        self.store = open_store(store) if isinstance(store, str) else store
        self.model = check_name(model, "model")

    def versions(self) -> list[str]:
        """The complete versions, oldest first: those with a manifest."""
        return [v for v in self.folders() if "manifest.json" in self.store.names(self.folder(v))]

    def folders(self) -> list[str]:
        """All versions, also those that are being written or were given up."""
        found = []
        for name in self.store.names(f"{self.model}/versions"):
            try:
                found.append(check_version(name, "version"))
            except UnsafePathError:
                logger.warning("%s: no version: ignored", self._place(name))
        return found

    def manifest(self, version: str, *, announced_sha256: str = "") -> Manifest:
        """A version's manifest.

        Args:
            version: its name.
            announced_sha256: of its bytes, where they were announced.

        Raises:
            CheckpointError: of the kind that says what is wrong.
        """
        path = f"{self.folder(version)}/manifest.json"
        place = f"{self.store.url}/{path}"
        size = self.store.size(path)
        if size is not None and size > MAX_MANIFEST_BYTES:
            raise SizeMismatchError(f"{place}: {size} bytes: at most {MAX_MANIFEST_BYTES} are read")
        data = self._read(path)
        if announced_sha256 and sha256(data) != announced_sha256:
            raise HashMismatchError(
                f"{place}: sha256 {sha256(data)}: announced was {announced_sha256}"
            )
        manifest = decode_manifest(data, place)
        if manifest.model != self.model:
            raise ForeignModelError(f"{place}: of model {manifest.model!r}, not {self.model!r}")
        if manifest.version != version:
            raise FormatError(f"{place}: says that it is version {manifest.version}")
        return manifest

    def part(self, manifest: Manifest, name: Literal["serving", "training"]) -> LoadedPart:
        """One folder of a version.

        Raises:
            CheckpointError: of the kind that says what is wrong.
        """
        files = {
            path.partition("/")[2]: self.file(manifest, path)
            for path in manifest.files
            if path.startswith(name + "/")
        }
        folder = f"{self._place(manifest.version)}/{name}"
        stems = [f.removesuffix(".safetensors") for f in files if f.endswith(".safetensors")]
        tensors: dict[str, Tensors] = {}
        for stem in stems:
            place = f"{folder}/{stem}"
            if f"{stem}.json" not in files:
                raise FormatError(f"{place}.json: missing: nothing describes {stem}.safetensors")
            described = decode_description(files.pop(f"{stem}.json"), f"{place}.json")
            found = decode_tensors(files.pop(f"{stem}.safetensors"), f"{place}.safetensors")
            check_tensors(found, described, f"{place}.safetensors")
            tensors[stem] = found
        documents = {}
        for file, data in files.items():
            try:
                documents[file.removesuffix(".json")] = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                raise FormatError(f"{folder}/{file}: not JSON: {error}") from error
        return LoadedPart(tensors, documents)

    def file(self, manifest: Manifest, path: str) -> bytes:
        """A file that a manifest names.

        Raises:
            MissingFileError: it is not there.
            SizeMismatchError: it has another size.
            HashMismatchError: it has another hash.
            UnsafePathError: it is a link, or lies behind one.
        """
        entry = manifest.files[path]
        full = f"{self.folder(manifest.version)}/{path}"
        place = f"{self.store.url}/{full}"
        # Asked first, so that nobody makes a reader take in what it will not use.
        size = self.store.size(full)
        if size is not None and size != entry.bytes:
            raise SizeMismatchError(f"{place}: {size} bytes: its manifest says {entry.bytes}")
        if entry.bytes > MAX_FILE_BYTES:
            raise SizeMismatchError(
                f"{place}: {entry.bytes} bytes: at most {MAX_FILE_BYTES} are read"
            )
        data = self._read(full)
        found = sha256(data)
        if found != entry.sha256:
            raise HashMismatchError(f"{place}: sha256 {found}: its manifest says {entry.sha256}")
        return data

    def newest(self) -> Resumable | None:
        """The newest version that is whole; None without any version.

        A damaged one is passed over: what it had learnt is learnt again, to the same weights.

        Raises:
            CheckpointError: there are versions, and none is whole; or one is of a newer format.
        """
        first: CheckpointError | None = None
        for version in reversed(self.versions()):
            try:
                manifest = self.manifest(version)
                return Resumable(
                    manifest, self.part(manifest, "serving"), self.part(manifest, "training")
                )
            except UnknownFormatError:
                raise
            except CheckpointError as error:
                logger.warning("checkpoint passed over: %s", error)
                first = first or error
        if first is not None:
            raise first
        return None

    def folder(self, version: str) -> str:
        """Where a version is in the store.

        Raises:
            UnsafePathError: no name of a version.
        """
        return f"{self.model}/versions/{check_version(version, 'version')}"

    def _read(self, path: str) -> bytes:
        try:
            return self.store.read(path)
        except FileNotFoundError as error:
            raise MissingFileError(f"{self.store.url}/{path}: not there") from error

    def _place(self, version: str) -> str:
        return f"{self.store.url}/{self.model}/versions/{version}"
