"""What every benchmark shares: rounds that interleave the sides, figures, checks, a result file.

A benchmark is a module with ``TITLE`` and ``run(bench)``. It measures its sides (ours and the
peers) in one run on the same servers, one round after the other, so that a machine that slows down
slows all of them down. What the sides have computed is compared with a plain count, and a
difference fails the run. What is told are medians, their spread, and ratios of medians.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

OURS = "tenuto"
RESULTS = Path(__file__).parent / "results"

Figures = Mapping[str, float | None]
"""One round's figures of one side; None where it has none."""

_VERSIONS = (
    "tenuto", "faust-streaming", "aiokafka", "kafka-python", "redis", "hiredis", "numpy", "pyarrow",
    "orjson", "msgspec", "torch",
)  # fmt: skip


class WrongError(AssertionError):
    """A side has computed something else than a plain count: its figures are worth nothing."""


@dataclass
class Goal:
    """A goal of the project, and what was measured.

    Attributes:
        text: the goal in words.
        measured: what came out, in the goal's own unit.
        reached: whether it is; if not, ``benchmarks.limits`` says why.
    """

    text: str
    measured: float
    reached: bool


@dataclass
class Result:
    """One benchmark's figures, as ``benchmarks/results/NAME.json`` holds them.

    Attributes:
        sides: side → metric → one value a round.
        delivers: side → what it leaves behind and what it promises, for a fair reading.
        checked: what was compared with a plain count.
    """

    name: str
    title: str
    short: bool
    command: str
    started: str
    machine: dict[str, Any]
    versions: dict[str, str]
    load: dict[str, list[float]] = field(default_factory=dict)
    sides: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    delivers: dict[str, str] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)

    def median(self, side: str, metric: str) -> float | None:
        """Median over the rounds; None where the side has no such figure."""
        values = self.sides.get(side, {}).get(metric)
        return statistics.median(values) if values else None

    def figure(self, side: str, metric: str) -> float:
        """Median over the rounds, of what must have been measured.

        Raises:
            ValueError: the side has no such figure.
        """
        found = self.median(side, metric)
        if found is None:
            raise ValueError(f"{self.name}: {side} has no {metric}: measure it again")
        return found

    def metrics(self) -> list[str]:
        """All metrics, in the order in which they were first measured."""
        return list(dict.fromkeys(metric for own in self.sides.values() for metric in own))


class Bench:
    """One run of one benchmark.

    Args:
        name: of the module.
        title: what it measures, in a line.
        short: a quick look: fewer events and one round.
        rounds: how often each side is measured; 0 for the default.
    """

    def __init__(self, name: str, title: str, *, short: bool, rounds: int = 0) -> None:
        self.short = short
        self.rounds = rounds or (1 if short else 3)
        self.result = Result(
            name=name,
            title=title,
            short=short,
            command=f"python -m benchmarks {name}" + (" --short" if short else ""),
            started=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            machine=machine(),
            versions=versions(),
        )

    def size(self, full: int, short: int) -> int:
        """A size of the run."""
        return short if self.short else full

    def say(self, side: str, text: str) -> None:
        """Tell how it goes."""
        print(f"{self.result.name:>10} {side:>24}  {text}", flush=True)

    def measure(self, side: str, figures: Figures) -> None:
        """Keep one round's figures of a side."""
        own = self.result.sides.setdefault(side, {})
        for metric, value in figures.items():
            if value is not None:
                own.setdefault(metric, []).append(float(value))
        known = {metric: value for metric, value in figures.items() if value is not None}
        self.say(side, "  ".join(f"{metric} {value:,.5g}" for metric, value in known.items()))

    def interleave(
        self,
        sides: Mapping[str, Callable[[], Figures]],
        rounds: int = 0,
        *,
        peer: Callable[[], None] | None = None,
    ) -> None:
        """Measure all sides once a round, every second round in the opposite order.

        Args:
            sides: what to measure by name.
            rounds: 0 for the run's own.
            peer: measures several sides in an environment of its own; called once a round.
        """
        self.result.load.setdefault("before", list(os.getloadavg()))
        for number in range(rounds or self.rounds):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for side in order:
                self.measure(side, sides[side]())
            if peer is not None:
                peer()
        self.result.load["after"] = list(os.getloadavg())

    def check(self, what: str, found: Any, expected: Any) -> None:
        """Compare what a side has computed with a plain count.

        Raises:
            WrongError: they differ.
        """
        if found != expected:
            raise WrongError(f"{self.result.name}: {what}: found {found!r}, expected {expected!r}")
        if what not in self.result.checked:
            self.result.checked.append(what)

    def delivers(self, side: str, text: str) -> None:
        """What a side leaves behind and promises: the table's small print."""
        self.result.delivers[side] = text

    def note(self, text: str) -> None:
        """Something that a reader of the figures must know."""
        if text not in self.result.notes:
            self.result.notes.append(text)

    def ratio(self, metric: str, peer: str, ours: str = OURS) -> float | None:
        """Median of ours over the peer's; None where one was not measured."""
        mine, theirs = self.result.median(ours, metric), self.result.median(peer, metric)
        return None if mine is None or not theirs else mine / theirs

    def at_least(self, text: str, measured: float | None, bound: float) -> None:
        """Compare a figure with a goal that it should reach; nothing where it was not measured."""
        self._goal(text, measured, lambda value: value >= bound)

    def at_most(self, text: str, measured: float | None, bound: float) -> None:
        """Compare a figure with a goal that it should not exceed."""
        self._goal(text, measured, lambda value: value <= bound)

    def _goal(self, text: str, measured: float | None, holds: Callable[[float], bool]) -> None:
        if measured is None:
            return
        reached = holds(measured)
        self.result.goals.append(asdict(Goal(text, measured, reached)))
        self.say("goal", f"{text}: {measured:,.4g} {'reached' if reached else 'NOT reached'}")

    def save(self, folder: Path = RESULTS) -> Path:
        """Write the result; a short run never replaces a full one."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.result.name}{'.short' if self.short else ''}.json"
        path.write_text(json.dumps(asdict(self.result), indent=1) + "\n")
        return path


def percentiles(took_ms: Sequence[float], of: Sequence[float] = (50, 99)) -> dict[str, float]:
    """``p50_ms`` and its like."""
    found = np.percentile(took_ms, of)
    return {f"p{one:g}_ms": float(ms) for one, ms in zip(of, found, strict=True)}


def load(path: Path) -> Result:
    """A result that was saved."""
    return Result(**json.loads(path.read_text()))


def machine() -> dict[str, Any]:
    """What the figures were taken on; nothing that names the machine itself."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_bytes / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of what our side runs on, and the commit."""
    found = {name: metadata.version(name) for name in _VERSIONS}
    commit = _git("rev-parse", "--short", "HEAD") or "?"
    # What the benchmarks themselves write is no other code.
    written = (f":(top,exclude){path}" for path in ("benchmarks/results", "docs", "README.md"))
    if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *written):
        commit += "-dirty"
    return found | {"commit": commit}


def _git(*arguments: str) -> str:
    """What git says; empty where this is no repository."""
    asked = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return asked.stdout.strip()
