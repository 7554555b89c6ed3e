"""What a schedule is: a stack, a source, workers, and faults, each at a point of the run.

Everything is drawn from (seed, number), so that a schedule can be printed and run again alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stack = Literal["embedded", "kafka"]
When = Literal["boundary", "applying", "record"]

WORKERS = ("features", "join", "sink", "train")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: what is done; a key of ``fault_injectors.INJECTORS``.
        when: after a ``boundary``, while what a boundary published is being ``applying``, or after
            the n-th ``record`` was published.
        at: which boundary or record, as a share of the run's.
        target: of which worker, where there is a choice.
        seconds: how long it lasts, where it does.
        number: which file operation, how many bytes: what else the kind needs.
    """

    kind: str
    when: When = "boundary"
    at: float = 0.5
    target: str = ""
    seconds: float = 0.0
    number: int = 0

    def __str__(self) -> str:
        words = [self.kind, self.target, f"{self.when} {self.at:.2f}"]
        words += [f"{self.seconds:g}s"] if self.seconds else []
        words += [f"#{self.number}"] if self.number else []
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Schedule:
    """One run and what is done to it.

    Attributes:
        id: its number; with ``seed`` all that is needed to run it again.
        source: ``simulator`` or ``log``.
        mode: ``lock-step``, where the driver makes time, or ``live``, where the wall clock does.
        workers: how many of each kind begin.
        trains: whether a trainer learns along.
        loose: share of the boundaries whose requests do not wait for the features.
        entities_per_chunk: of the feature workers' scripts: few make many chunks.
        persist: whether Redis keeps an append-only file.
        overlap: every so many records the joiner writes one in overlapping parts; 0 for none.
        buckets: how many the state is kept in.
        mutant: the planted bug, if any.
    """

    id: int
    seed: int
    stack: Stack
    source: str
    mode: str
    partitions: int
    workers: dict[str, int]
    trains: bool
    loose: float
    freshness: str
    entities_per_chunk: int
    persist: bool = False
    overlap: int = 0
    buckets: int = 1
    mutant: str = ""
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        counts = "".join(f" {n}×{kind}" for kind, n in self.workers.items() if n > 1)
        more = " train" if self.trains else ""
        more += f" loose={self.loose:g}" if self.loose else ""
        more += f" overlap={self.overlap}" if self.overlap else ""
        more += f" buckets={self.buckets}" if self.buckets > 1 else ""
        more += f" mutant={self.mutant}" if self.mutant else ""
        faults = "; ".join(map(str, self.faults)) or "no fault"
        return (
            f"#{self.id} {self.stack} {self.source} {self.mode} p={self.partitions}"
            f"{counts}{more}: {faults}"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Schedule:
        """The schedule of ``to_json``."""
        return cls(**{**plain, "faults": [Fault(**fault) for fault in plain["faults"]]})


# What a lock-step schedule can have, and how often beside the others.
LOCK_STEP: dict[str, int] = {
    "kill": 10,
    "freeze": 4,
    "zombie": 3,
    "join and leave": 3,
    "redis emptied": 4,
    "redis killed": 3,
    "redis older": 3,
    "redis truncated": 3,
    "redis full": 3,
    "redis evicting": 2,
    "redis cut": 3,
    "redis away": 3,
    "redis slow": 2,
    "script fails": 5,
    "duplicates": 3,
    "repeats": 3,
    "retention": 2,
    "die at file": 5,
    "disk full": 4,
}
KAFKA_ONLY: dict[str, int] = {
    "broker killed": 4,
    "transactions": 4,
    "compacted": 3,
}
EMBEDDED_ONLY: dict[str, int] = {"broker anew": 2, "broker cut": 3}
LIVE: dict[str, int] = {
    "clock": 4,
    "broker away": 4,
    "kill": 3,
    "freeze": 2,
    "client killed": 3,
    "client frozen": 2,
    "redis emptied": 2,
    "join and leave": 2,
}
# What is only meant between two boundaries.
ON_BOUNDARY = {
    "zombie", "redis older", "join and leave", "duplicates", "repeats", "transactions", "retention",
}  # fmt: skip
# Faults that are the whole schedule: nothing else is told apart from them.
ALONE = {"broker anew"}


def schedule(seed: int, number: int, stacks: Sequence[Stack]) -> Schedule:
    """The schedule ``number`` of a seed, on one of the stacks there are."""
    rnd = random.Random(f"{seed}/{number}")
    stack = rnd.choice(list(stacks))
    live = rnd.random() < 0.2
    kinds = dict(LIVE) if live else dict(LOCK_STEP)
    if live and stack == "embedded":
        # It forgets everything when it goes.
        kinds.pop("broker away")
    if not live:
        kinds |= KAFKA_ONLY if stack == "kafka" else EMBEDDED_ONLY
    trains = not live and rnd.random() < 0.4
    names = rnd.choices(list(kinds), list(kinds.values()), k=rnd.choice([1, 1, 2, 2, 3]))
    if ALONE & set(names):
        names = [next(name for name in names if name in ALONE)]
        trains = False
    names = list(dict.fromkeys(names))
    if "redis truncated" in names and "redis older" in names:
        # Where there is an append-only file, a dump is not looked at.
        names.remove("redis older")
    faults = [_fault(rnd, name, trains=trains, live=live) for name in names]
    workers = {"features": rnd.choice([1, 1, 2]), "join": rnd.choice([1, 1, 1, 2])}
    return Schedule(
        id=number,
        seed=seed,
        stack=stack,
        source=rnd.choice(["simulator", "log"]) if not live else "client",
        mode="live" if live else "lock-step",
        partitions=rnd.choice([1, 2, 3, 3]),
        workers=workers,
        trains=trains,
        loose=0.0 if live else rnd.choice([0.0, 0.0, 0.3]),
        freshness=rnd.choice(["10s", "20s", "60s"]),
        entities_per_chunk=rnd.choice([3, 10, 100]),
        persist="redis truncated" in names,
        overlap=rnd.choice([0, 0, 3]),
        faults=sorted(faults, key=lambda fault: fault.at),
        buckets=rnd.choice([1, 1, 3, 8]),
    )


def _fault(rnd: random.Random, kind: str, *, trains: bool, live: bool) -> Fault:
    """A fault of a kind, its time and its details drawn."""
    when: When = rnd.choice(["boundary", "applying", "record"])
    target, seconds, number = "", 0.0, 0
    if kind in ("kill", "freeze"):
        workers = ["features", "join", "sink"] + (["train"] if trains else [])
        target, seconds = rnd.choice(workers), rnd.choice([0.5, 1.0, 2.0])
    elif kind in ("zombie", "join and leave"):
        target = rnd.choice(["features", "join"])
    elif kind == "clock":
        target, seconds = rnd.choice(["features", "join", "sink"]), rnd.choice([3600.0, -3600.0])
    elif kind in ("die at file", "disk full"):
        target = rnd.choice(["sink", "train"]) if trains else "sink"
        number = rnd.randrange(1, 120)
    elif kind == "script fails":
        number = rnd.randrange(4)
    elif kind == "redis emptied":
        target = rnd.choice(["", "all"])
    elif kind == "redis truncated":
        number = rnd.randrange(1, 4_000)
    elif kind in ("duplicates", "repeats", "transactions"):
        number = rnd.randrange(1, 40)
    if kind in ("redis full", "redis away", "redis slow", "broker killed", "script fails"):
        seconds = rnd.choice([0.3, 0.8, 1.5])
    if kind in ("broker away", "client frozen"):
        seconds = rnd.choice([0.5, 4.0])
    if kind in ("redis full", "script fails"):
        when = "applying"
    if kind in ON_BOUNDARY:
        when = "boundary"
    return Fault(kind, when, round(rnd.uniform(0.15, 0.8), 3), target, seconds, number)
