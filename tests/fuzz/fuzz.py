"""Hostile input by the million: every decoder of bytes from outside, in processes of its own.

    python tests/fuzz/fuzz.py --inputs 1000000 --seed 1 [--only NAME] [--keep FOLDER]
    python tests/fuzz/fuzz.py --again FOLDER/finding-NAME-NUMBER.msgpack

One line a decoder: inputs, accepted, refused by reason, findings. A finding (an exception that is
not documented, a lost neighbour, a crash, more than two seconds, memory taken before the refusal)
is printed with its number, and its input is kept. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGUSR1

import msgspec
from fuzz_child import save
from fuzz_target import Target
from fuzz_targets import TARGETS

HANG_S = 120.0
"""Wall time without progress after which a process is killed; two seconds of CPU are a finding."""
START_S = 120.0
CHUNK = 20_000
CHILD = Path(__file__).with_name("fuzz_child.py")


@dataclass
class Result:
    """What became of one decoder's inputs."""

    target: Target
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Path] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def line(self) -> str:
        accepted = self.outcomes["accepted"]
        by_reason = ", ".join(
            f"{reason} {count:,}"
            for reason, count in self.outcomes.most_common()
            if reason != "accepted"
        )
        return (
            f"{self.target.name:<22} inputs {self.inputs:>9,}  accepted {accepted:>8,}  findings "
            f"{len(self.findings):>2}  {self.wall_s:>4.0f} s  refused: {by_reason or 'none'}"
        )


def calls(target: Target, inputs: int) -> int:
    """How often a target's ``make`` is called for its share of ``inputs``."""
    whole = sum(one.share for one in TARGETS)
    return -(-inputs * target.share // whole // target.records)


def run(target: Target, n_calls: int, seed: int, folder: Path) -> Result:
    """Try ``n_calls`` inputs, in one process after the other where one dies."""
    folder.mkdir(parents=True, exist_ok=True)
    result, started_s = Result(target), time.monotonic()
    first = 0
    while first < n_calls and len(result.findings) < 100:
        end = min(n_calls, first + CHUNK)
        reached, why = _child(target, seed, first, end, folder)
        totals = folder / f"totals-{first}.json"
        if totals.exists():
            result.outcomes.update(json.loads(totals.read_text()))
        if why:
            save(folder, target.name, reached, None, f"{why}\n{_stacks(folder)}")
            reached += 1
        result.inputs += (reached - first) * target.records
        result.findings = sorted(folder.glob("finding-*.msgpack"))
        first = reached
    result.wall_s = time.monotonic() - started_s
    return result


def _child(target: Target, seed: int, first: int, end: int, folder: Path) -> tuple[int, str]:
    """Where a child came to, and why no further; "" where it did all."""
    progress = folder / "progress"
    progress.unlink(missing_ok=True)
    arguments = [target.name, str(seed), str(first), str(end), str(folder)]
    with (folder / "output").open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments], stdout=output, stderr=output
        )
        last, moved_s, why = None, time.monotonic(), ""
        while child.poll() is None:
            time.sleep(0.05)
            now = _number(progress)
            if now != last:
                last, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > (HANG_S if last is not None else START_S):
                child.send_signal(SIGUSR1)
                time.sleep(0.5)
                child.send_signal(SIGKILL)
                child.wait()
                why = f"no end within {HANG_S:g} s"
                break
    reached = _number(progress)
    if reached is None:
        raise RuntimeError(f"{target.name}: could not start: see {folder / 'output'}")
    if child.returncode and not why:
        why = f"the process ended with {child.returncode}"
    return reached, why


def _number(progress: Path) -> int | None:
    try:
        data = progress.read_bytes()
    except FileNotFoundError:
        return None
    return int(struct.unpack("<q", data)[0]) if len(data) == 8 else None


def _stacks(folder: Path) -> str:
    return (folder / "stacks").read_text()[-3_000:]


def again(path: Path) -> None:
    """Run a kept input once more, in this process."""
    kept = msgspec.msgpack.decode(path.read_bytes())
    target = next(one for one in TARGETS if one.name == kept["target"])
    print(kept["finding"])
    if kept["value"] is None or isinstance(kept["value"], str):
        sys.exit("the input itself is not in the file: --only NAME --number N makes it again")
    with tempfile.TemporaryDirectory() as work:
        print(target.build(Path(work)).judge(kept["value"]))


def one_number(target: Target, seed: int, number: int) -> None:
    """Make and run one input by its number, in this process."""
    from fuzz_child import generator

    with tempfile.TemporaryDirectory() as work:
        decoder = target.build(Path(work))
        value = decoder.make(generator(seed, target.name, number))
        print(repr(value)[:4_000])
        print(decoder.judge(value))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=[one.name for one in TARGETS])
    parser.add_argument("--number", type=int, help="one input of --only, in this process")
    parser.add_argument("--keep", type=Path, help="folder for findings; a temporary one by default")
    parser.add_argument("--again", type=Path, help="an input that was kept")
    given = parser.parse_args(arguments)
    targets = [one for one in TARGETS if not given.only or one.name in given.only]
    if given.again:
        again(given.again)
        return 0
    if given.number is not None:
        one_number(targets[0], given.seed, given.number)
        return 0
    folder = given.keep or Path(tempfile.mkdtemp(prefix="tenuto-fuzz-"))
    results = []
    for target in targets:
        result = run(target, calls(target, given.inputs), given.seed, folder / target.name)
        results.append(result)
        print(result.line, flush=True)
        for path in result.findings[:10]:
            finding = msgspec.msgpack.decode(path.read_bytes())["finding"].strip()
            print(f"  {path}\n    " + finding[-1_500:].replace("\n", "\n    "), flush=True)
    findings = sum(len(result.findings) for result in results)
    inputs = sum(result.inputs for result in results)
    print(f"seed {given.seed}: {inputs:,} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
