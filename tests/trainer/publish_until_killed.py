"""Publishes a checkpoint in a child process for each of its file operations, and kills it there.

Run as ``publish_until_killed.py BEFORE FOLDER``: copies the store BEFORE to FOLDER/<n>, forks,
and lets the child die by SIGKILL at its n-th operation, half way through where it writes; until a
child gets to the end. Prints each operation's name.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint_files import MODEL, NO_WAIT, checkpoint

from tenuto.trainer.checkpoints.writer import Publisher

OPERATIONS = ("open", "write", "fsync", "close", "replace", "link", "unlink", "mkdir", "rmdir")


def publish(store: Path, number: int) -> None:
    Publisher(str(store), MODEL, keep=1, retry=NO_WAIT).publish(checkpoint(number))


def count_operations(at: Callable[[int, str, tuple[Any, ...]], None]) -> None:
    """Call ``at`` with number, name and arguments before each operation of this process."""
    done = [0]

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            at(done[0], name, arguments)
            return operation(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(name, getattr(os, name)))


def die_at(number: int) -> None:
    """Have this process killed at its ``number``-th operation."""
    write = os.write

    def die(done: int, name: str, arguments: tuple[Any, ...]) -> None:
        if done == number:
            if name == "write":
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            write(1, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    count_operations(die)


def main(before: Path, folder: Path) -> None:
    for number in itertools.count(1):
        store = folder / str(number)
        shutil.copytree(before, store)
        child = os.fork()
        if child == 0:
            die_at(number)
            publish(store, 3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"at {number}: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
