"""Checkpoints in an object store that fsspec knows: an object is there once its upload is done.

fsspec and the protocol's own package (``s3fs``, ``gcsfs``) are needed for these URLs only.
"""

from __future__ import annotations

import importlib
from typing import Any

from tenuto.features.connection import without_password


class StoreError(OSError):
    """A store that did not do what it was asked: which object, and why."""


class RemoteStore:
    """A :class:`~tenuto.trainer.checkpoints.store.Store` at a URL such as ``s3://bucket/folder``.

    Raises:
        ValueError: fsspec, or its package for the protocol, is not there.
    """

    def __init__(self, url: str) -> None:
        try:
            # A listing from a cache would hide what another process has announced.
            core = importlib.import_module("fsspec.core")
            fs, root = core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise ValueError(f"{without_password(url)}: {error}: install it") from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        # What is shown and logged; keys that a URL holds are for the store alone.
        self._url = without_password(url).rstrip("/")

    @property
    def url(self) -> str:
        return self._url

    def read(self, path: str) -> bytes:
        data: bytes = self._ask("cat_file", path)
        return data

    def size(self, path: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._ask("info", path)["size"])
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        try:
            # A conditional write where the store has one (S3, GCS); else asked just before.
            self._put(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._ask("ls", folder, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {""})

    def delete(self, path: str) -> None:
        self._fs.invalidate_cache()
        try:
            self._ask("rm", path, recursive=True)
        except FileNotFoundError:
            return

    def sweep(self, folder: str) -> None:
        return

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        try:
            self._ask("pipe_file", path, data, **options)
        except FileNotFoundError:
            # Object stores have no folders; file systems among fsspec's want theirs first.
            self._ask("makedirs", path.rpartition("/")[0], exist_ok=True)
            self._ask("pipe_file", path, data, **options)

    def _ask(self, call: str, path: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._fs, call)(f"{self._root}/{path}", *arguments, **options)
        except OSError:
            raise
        except Exception as error:
            # Each package has errors of its own for a store that does not answer.
            raise StoreError(f"{self._url}/{path}: {type(error).__name__}: {error}") from error
