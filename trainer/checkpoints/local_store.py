"""Checkpoints in a directory: written aside, fsynced, renamed, and the directory fsynced.

Links are never followed below the directory, so that whoever may write there cannot make a reader
open another file of the machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tenuto.trainer.checkpoints.errors import UnsafePathError

UNFINISHED = ".unfinished"


class LocalStore:
    """A :class:`~tenuto.trainer.checkpoints.store.Store` on a file system with hard links."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()

    @property
    def url(self) -> str:
        return str(self._root)

    def read(self, path: str) -> bytes:
        self._refuse_links(path)
        # A FIFO would block, were it opened to wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._root / path, flags)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnsafePathError(f"{self._root / path}: not a file")
            return file.read()

    def size(self, path: str) -> int | None:
        self._refuse_links(path)
        try:
            return os.lstat(self._root / path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        with self._aside(path, data) as (aside, target):
            os.replace(aside, target)
            _fsync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        with self._aside(path, data) as (aside, target):
            try:
                # Unlike a rename, a link fails where there is something already.
                os.link(aside, target)
            except FileExistsError:
                return False
            _fsync(target.parent)
        return True

    def names(self, folder: str) -> list[str]:
        try:
            names = os.listdir(self._root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.endswith(UNFINISHED))

    def delete(self, path: str) -> None:
        target = self._root / path
        with contextlib.suppress(FileNotFoundError):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                os.unlink(target)
            _fsync(target.parent)

    def sweep(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._root / folder):
                if name.endswith(UNFINISHED):
                    os.unlink(self._root / folder / name)

    @contextlib.contextmanager
    def _aside(self, path: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """The data in a file beside its place, durable; gone again when the block ends."""
        target = self._root / path
        _make_directory(target.parent)
        # Two processes may write the same object: each its own file aside.
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}{UNFINISHED}")
        try:
            _write(aside, data)
            yield aside, target
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)

    def _refuse_links(self, path: str) -> None:
        place = self._root
        for name in path.split("/"):
            place = place / name
            try:
                linked = stat.S_ISLNK(os.lstat(place).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return
            if linked:
                raise UnsafePathError(f"{place}: a link: put the file itself there")


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(path: Path) -> None:
    if path.is_dir():
        return
    _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
