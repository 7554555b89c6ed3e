"""Checkpoints in an object store that fsspec knows: an object is there once its upload is done.

fsspec and the protocol's own package (``s3fs``, ``gcsfs``) are needed for these URLs only.
"""

from __future__ import annotations

import importlib
from typing import Any


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
            raise ValueError(f"{url}: {error}: install it") from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        self._url = url.rstrip("/")

    @property
    def url(self) -> str:
        return self._url

    def read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(self._at(path))
        return data

    def size(self, path: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self._at(path))["size"])
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self._make_folder(path)
        self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        self._make_folder(path)
        try:
            # A conditional write where the store has one (S3, GCS); else asked just before.
            self._fs.pipe_file(self._at(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._at(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {""})

    def delete(self, path: str) -> None:
        self._fs.invalidate_cache()
        try:
            self._fs.rm(self._at(path), recursive=True)
        except FileNotFoundError:
            return

    def sweep(self, folder: str) -> None:
        return

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _make_folder(self, path: str) -> None:
        # Object stores have none; those of fsspec's file systems that do, want it first.
        self._fs.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
