"""Where checkpoints are: named objects below a URL, each there as a whole or not at all.

A plain path (or ``file://``) is the file system; any other URL is fsspec's: ``s3://``, ``gs://``.
"""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Objects by relative path (``"video/latest.json"``); all calls raise OSError of the medium."""

    @property
    def url(self) -> str:
        """Where it is, for messages."""

    def read(self, path: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: there is none.
            UnsafePathError: it is a link, or not a file.
        """

    def size(self, path: str) -> int | None:
        """An object's bytes, counted; None where there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Put an object in the place of any former one; durable when this returns."""

    def create(self, path: str, data: bytes) -> bool:
        """Put an object only if there is none; False where there is one."""

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, ascending; empty where there is none."""

    def delete(self, path: str) -> None:
        """Remove an object, or a folder and all below it; nothing where there is none."""

    def sweep(self, folder: str) -> None:
        """Remove what writes that were killed left directly in a folder."""


def open_store(url: str) -> Store:
    """The store at a URL; nothing is created before the first write.

    Raises:
        ValueError: a URL of a protocol that is not known, or whose library is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or protocol == "file":
        from tenuto.trainer.checkpoints.local_store import LocalStore

        return LocalStore(rest if separator else url)
    from tenuto.trainer.checkpoints.remote_store import RemoteStore

    return RemoteStore(url)
