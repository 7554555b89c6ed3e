"""What is made to fail inside a worker's own process, as its kind's JSON file says.

``{"die_at": n}`` kills it at its n-th file operation, half way through where it writes, once;
``{"full": [a, b]}`` makes the disk full from the a-th to the b-th write; ``{"clock_s": s}`` sets
its clock off; ``{"entities_per_chunk": n}`` makes chunks small, so that batches have many;
``{"overlap": n}`` lets the joiner write every n-th record in two ways, as a zombie does.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "write", "fsync", "close", "replace", "rename", "link", "unlink", "mkdir")
WRITES = ("open", "write", "mkdir")


def kind() -> str:
    """features, join, sink or train: what kind of worker this process is; "" for others."""
    if not sys.argv or Path(sys.argv[0]).parent.name != "tenuto":
        return ""
    words = sys.argv[1:3]
    return words[1] if words[:1] == ["worker"] else words[0] if words else ""


def install() -> None:
    """Make happen in this process what its file says, if there is one."""
    folder = Path(os.environ["FAULTS_DIR"])
    path = folder / f"{kind()}.json"
    if not kind() or not path.exists():
        return
    told: dict[str, Any] = json.loads(path.read_text())
    if "entities_per_chunk" in told:
        from tenuto.features import chunks

        chunks.ENTITIES_PER_CHUNK = told["entities_per_chunk"]
    if "clock_s" in told:
        _set_clock_off(told["clock_s"])
    if "die_at" in told:
        _die_at(told["die_at"], folder / f"{kind()}.died")
    if "full" in told:
        _fill_disk(*told["full"], marker=folder / f"{kind()}.full")
    if "overlap" in told:
        _write_overlaps(told["overlap"])


def _set_clock_off(seconds: float) -> None:
    seconds_of, nanoseconds_of = time.time, time.time_ns
    time.time = lambda: seconds_of() + seconds
    time.time_ns = lambda: nanoseconds_of() + int(seconds * 1e9)


def _counted(names: tuple[str, ...], at: Callable[[int, str, tuple[Any, ...]], None]) -> None:
    """Call ``at`` before each of the operations, from now on."""
    done = [0]

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if _is_own(name, arguments):
                done[0] += 1
                at(done[0], name, arguments)
            return operation(*arguments, **options)

        return call

    for name in names:
        setattr(os, name, counted(name, getattr(os, name)))


def _is_own(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an operation is on a file of samples or checkpoints, and no pipe or source file."""
    watched = os.environ["FAULTS_FILES"]
    at = arguments[0] if arguments else ""
    if isinstance(at, int):
        try:
            return os.readlink(f"/proc/self/fd/{at}").startswith(watched)
        except OSError:
            return False
    try:
        return str(os.fspath(at)).startswith(watched)
    except TypeError:
        return False


def _die_at(number: int, marker: Path) -> None:
    if marker.exists():
        return
    write = os.write

    def die(done: int, name: str, arguments: tuple[Any, ...]) -> None:
        if done == number:
            marker.write_text(f"{name} {arguments[:1]}")
            if name == "write":
                write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    _counted(OPERATIONS, die)


def _fill_disk(first: int, last: int, marker: Path) -> None:
    if marker.exists():
        return

    def refuse(done: int, name: str, arguments: tuple[Any, ...]) -> None:
        if first <= done <= last:
            with marker.open("a") as told:
                told.write(f"{name}\n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _counted(WRITES, refuse)


def _write_overlaps(every: int) -> None:
    """A record up to its middle first, then the whole of it, then its middle again."""
    from tenuto.snapshot.delay_line import Emission
    from tenuto.snapshot.sample_record import Interval
    from tenuto.streams.join_worker import JoinWorker

    send, sent = JoinWorker._send, [0]

    async def twice(self: JoinWorker, line: Any, emission: Emission) -> None:
        sent[0] += 1
        part = _first_half(emission) if sent[0] % every == 0 else None
        if part is not None:
            await send(self, line, part)
        await send(self, line, emission)
        if part is not None:
            await send(self, line, part)

    def _first_half(emission: Emission) -> Emission | None:
        if emission.rows is None:
            return None
        offsets = emission.rows.column("snapshot_offset").to_numpy()
        inside = offsets[offsets > offsets[0]]
        if not len(inside):
            return None
        end = int(inside[len(inside) // 2])
        rows = emission.rows.slice(0, int(offsets.searchsorted(end)))
        arrival_ms = emission.rows.column("snapshot_arrival_ms")[len(rows)].as_py()
        return Emission(Interval(emission.interval.start, end, arrival_ms), rows)

    JoinWorker._send = twice  # type: ignore[method-assign]
