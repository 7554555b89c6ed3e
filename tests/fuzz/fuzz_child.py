"""A process that tries a range of inputs of one decoder and tells how far it is.

The parent sees crashes, hangs and the number of the input; memory is limited here.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from fuzz_target import Decoder, Target

SLOW_S = 2.0
"""CPU time after which an input counts as a hang."""
MEMORY_BYTES = 192 * 2**20
"""What the process may grow by in one input."""
ROOM_BYTES = 3 * 2**30
"""Address space beyond that of the idle process."""
MAX_FINDINGS = 8


def generator(seed: int, target: str, number: int) -> Random:
    """The generator of one input: the same whoever asks, and in whatever order."""
    return Random(f"{seed}/{target}/{number}")


def run_range(target: Target, seed: int, first: int, end: int, folder: Path) -> None:
    """Try inputs ``[first, end)``; progress and findings go to files in ``folder``."""
    logging.disable(logging.CRITICAL)
    work = folder / f"work-{first}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    decoder = target.build(work)
    warm_up(decoder, target, seed)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    stacks = (folder / "stacks").open("a")
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    progress = os.open(folder / "progress", os.O_RDWR | os.O_CREAT)
    totals: Counter[str] = Counter()
    findings = 0
    for number in range(first, end):
        os.pwrite(progress, struct.pack("<q", number), 0)
        finding = try_one(decoder, target, seed, number, totals)
        if finding is not None:
            findings += 1
            value = decoder.make(generator(seed, target.name, number))
            save(folder, target.name, number, value, finding)
            if findings >= MAX_FINDINGS:
                end = number + 1
                break
    os.pwrite(progress, struct.pack("<q", end), 0)
    shutil.rmtree(work)
    (folder / f"totals-{first}.json").write_text(json.dumps(dict(totals)))


def try_one(
    decoder: Decoder, target: Target, seed: int, number: int, totals: Counter[str]
) -> str | None:
    """What is wrong with how one input was taken; None if nothing. Counts its outcome."""
    value = decoder.make(generator(seed, target.name, number))
    _forget_peak()
    peak, started_s = _peak_bytes(), time.process_time()
    try:
        outcome = decoder.judge(value)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return "".join(traceback.format_exception(error, limit=-8))[-6_000:]
    spent_s = time.process_time() - started_s
    grown = _peak_bytes() - peak
    too_much = []
    if spent_s > SLOW_S:
        too_much.append(f"{spent_s:.1f} s")
    if grown > MEMORY_BYTES:
        too_much.append(f"{grown // 2**20} MiB of memory")
    if too_much:
        return "took " + " and ".join(too_much)
    totals.update(outcome)
    return None


def warm_up(decoder: Decoder, target: Target, seed: int) -> None:
    """Load what is loaded at first use, so that it does not count as an input's memory."""
    for number in range(3):
        value = decoder.make(generator(seed, target.name + " warm-up", number))
        try:
            decoder.judge(value)
        except Exception:
            continue
    gc.collect()


def save(folder: Path, target: str, number: int, value: Any, finding: str) -> None:
    """Keep an input, to be run again by ``--again FILE``."""
    kept = {"target": target, "number": number, "finding": finding, "value": value}
    name = folder / f"finding-{target}-{number}.msgpack"
    try:
        name.write_bytes(msgspec.msgpack.encode(kept))
    except (ValueError, OverflowError, UnicodeEncodeError):
        # Some values (2**70, a lone surrogate) no format takes: the number makes them again.
        name.write_bytes(msgspec.msgpack.encode(kept | {"value": repr(value)[:100_000]}))


def _forget_peak() -> None:
    """The peak begins anew at what is resident now, or each input could hide in an earlier one."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The most that was resident, in bytes.

    ``getrusage`` does not do: Linux carries its peak over ``exec``, so that a child of a large
    parent (pytest after an hour) would be blind to everything smaller than the parent.
    """
    status = Path("/proc/self/status").read_text()
    return int(status[status.index("VmHWM:") + 6 :].split(None, 1)[0]) * 1024


def main() -> None:
    from fuzz_targets import TARGETS

    name, seed, first, end, folder = sys.argv[1:]
    target = next(one for one in TARGETS if one.name == name)
    run_range(target, int(seed), int(first), int(end), Path(folder))


if __name__ == "__main__":
    main()
