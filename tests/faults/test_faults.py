"""A few schedules of the fault suite, on the stacks there are, and bugs that it must catch.

``make faults`` runs as many as one likes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fault_fixed import BOUNDED, MUTANTS
from fault_schedule import Schedule, schedule
from fault_suite import run_one

from tenuto import local

QUICK_MUTANTS = ("progress_before_deltas", "whole_overlapping_records")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("one", BOUNDED, ids=lambda one: f"{one.id}-{one.stack}-{one.mode}")
def test_nothing_is_lost_doubled_or_changed_by_faults(
    one: Schedule, request: pytest.FixtureRequest
) -> None:
    broker = ""
    if one.stack == "kafka":
        stack: local.LocalStack = request.getfixturevalue("kafka")
        broker = stack.bootstrap
    result = run_one(one, broker=broker)
    assert not result.failures, result.line()
    assert sum(result.notes["checked"].values()) > 1_000
    assert set(result.injected) >= {fault.kind for fault in one.faults} - {"clock", "disk full"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_planted_bug_is_caught_and_named(name: str) -> None:
    (one,) = [one for one in MUTANTS if one.mutant == name]
    failures = run_one(one).failures
    assert failures
    assert all(failure.startswith("audit: ") for failure in failures), failures


@pytest.mark.timeout(300)
def test_what_catches_a_planted_bug_passes_without_it() -> None:
    sound = run_one(replace(MUTANTS[0], mutant=""))
    assert not sound.failures, sound.line()


def test_a_schedule_follows_from_its_seed_and_number(tmp_path: Path) -> None:
    drawn = [schedule(7, number, ["embedded", "kafka"]) for number in range(50)]
    assert drawn == [schedule(7, number, ["embedded", "kafka"]) for number in range(50)]
    assert [Schedule.from_json(one.to_json()) for one in drawn] == drawn
    assert drawn != [schedule(8, number, ["embedded", "kafka"]) for number in range(50)]
