"""Files that are there as a whole or not at all, also after a crash of the machine.

Written aside in the same file system, fsynced, renamed, and the rename fsynced with its directory.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

UNFINISHED = ".unfinished"


def write_durably(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whose directory exists.

    Raises:
        OSError: it is not there, or the former file still is.
    """
    aside = path.with_name(path.name + UNFINISHED)
    aside.write_bytes(data)
    fsync(aside)
    aside.replace(path)
    fsync(path.parent)


def move_durably(aside: Path, path: Path) -> None:
    """Rename a file that is fsynced to where it belongs, making directories."""
    make_directory(path.parent)
    aside.replace(path)
    fsync(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, each fsynced in its parent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until a file's or directory's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> IO[bytes]:
    """Hold a file for this process until it is closed, or the process is gone.

    Raises:
        BlockingIOError: another one holds it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
