"""Schedules that are not drawn: those of ``make test``, and one for each planted bug."""

from __future__ import annotations

from typing import Any

from fault_schedule import Fault, Schedule, Stack


def fixed(number: int, *faults: Fault, stack: Stack = "embedded", **options: Any) -> Schedule:
    """A schedule of three partitions, lock-step on a small simulated world, and these faults."""
    plain: dict[str, Any] = {
        "id": number,
        "seed": 0,
        "stack": stack,
        "source": "simulator",
        "mode": "lock-step",
        "partitions": 3,
        "workers": {"features": 1, "join": 1},
        "trains": False,
        "loose": 0.0,
        "freshness": "60s",
        "entities_per_chunk": 3,
    }
    return Schedule(**{**plain, **options}, faults=list(faults))


BOUNDED = [
    fixed(
        1,
        Fault("kill", "applying", 0.3, "features"),
        Fault("kill", "record", 0.45, "join"),
        Fault("kill", "applying", 0.6, "sink"),
        workers={"features": 2, "join": 1},
        loose=0.3,
        overlap=3,
    ),
    fixed(
        2,
        Fault("redis emptied", "applying", 0.3),
        Fault("redis older", at=0.45),
        Fault("redis full", "applying", 0.75, seconds=0.5),
        source="log",
        freshness="20s",
    ),
    fixed(
        3,
        Fault("redis truncated", "record", 0.3, number=700),
        Fault("script fails", "applying", 0.5, seconds=0.5, number=1),
        Fault("redis cut", "record", 0.7),
        persist=True,
    ),
    fixed(
        4,
        Fault("kill", at=0.3, target="train"),
        Fault("die at file", target="train", number=40),
        Fault("disk full", target="sink", number=30),
        trains=True,
    ),
    fixed(
        5,
        Fault("zombie", at=0.3, target="features"),
        Fault("join and leave", at=0.5, target="join"),
        Fault("repeats", at=0.6, number=20),
        Fault("duplicates", at=0.7, number=20),
    ),
    fixed(6, Fault("broker anew", at=0.3)),
    fixed(
        7,
        Fault("clock", target="features", seconds=3600.0),
        Fault("client killed", at=0.4),
        Fault("kill", at=0.5, target="join"),
        mode="live",
        source="client",
    ),
    fixed(
        8,
        Fault("broker killed", "applying", 0.4, seconds=0.5),
        Fault("transactions", at=0.7, number=20),
        stack="kafka",
    ),
    fixed(
        9,
        Fault("kill", "applying", 0.25, "features"),
        Fault("redis emptied", "applying", 0.4),
        Fault("redis older", at=0.6),
        Fault("kill", "record", 0.75, "features"),
        workers={"features": 2, "join": 1},
        loose=0.3,
        buckets=3,
    ),
]
"""Those of ``make test``: together every part of the suite."""

MUTANTS = [
    fixed(900, mutant="progress_before_deltas", loose=0.5),
    fixed(
        901,
        Fault("kill", "applying", 0.5, "features"),
        mutant="chunks_by_position",
        loose=0.7,
        freshness="20s",
    ),
    fixed(902, Fault("repeats", at=0.5, number=40), mutant="last_click_wins"),
    fixed(903, mutant="finality_by_wall_clock"),
    fixed(904, mutant="whole_overlapping_records", overlap=1),
]
"""One for each planted bug, which it cannot pass."""
