"""A bounded part of ``make fuzz``, and that the fuzzer would see what it is there to see."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
import fuzz_targets
from fuzz_mutations import mutated_bytes
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, Target

from tenuto.presets.video import app
from tenuto.snapshot.record import SnapshotError, decode
from tenuto.snapshot.sample_record import DamagedRowsError, decode_rows
from tenuto.streams.codec import EventCodec
from tenuto.trainer.checkpoints.errors import CheckpointError
from tenuto.trainer.checkpoints.manifest import decode_announcement, decode_manifest
from tenuto.trainer.checkpoints.tensors import decode_description, decode_tensors

INPUTS = 24_000


@pytest.mark.parametrize("target", fuzz_targets.TARGETS, ids=lambda target: target.name)
def test_no_hostile_input_is_more_than_refused(target: Target, tmp_path: Path) -> None:
    result = fuzz.run(target, fuzz.calls(target, INPUTS), 20261, tmp_path)
    assert not result.findings, result.line
    assert result.inputs
    # Neither all nor nothing: an input that is always refused at once would test one line.
    assert result.outcomes["accepted"] > 0
    assert sum(result.outcomes.values()) > result.outcomes["accepted"]


def judged_by(judge: Callable[[Any], Outcome]) -> Target:
    return Target("events", 1, 1, lambda _: Decoder(lambda rng: rng.random(), judge))


def crash(value: float) -> Outcome:
    if value > 0.9:
        os.abort()
    return ACCEPTED


def swallow_memory(value: float) -> Outcome:
    if value > 0.9:
        bytearray(b"x") * (250 * 2**20)
    return ACCEPTED


def claim_memory(value: float) -> Outcome:
    if value > 0.9:
        bytearray(2**40)
    return ACCEPTED


def spin(value: float) -> Outcome:
    end_s = time.process_time() + (2.5 if value > 0.97 else 0)
    while time.process_time() < end_s:
        continue
    return ACCEPTED


def lose_a_neighbour(value: float) -> Outcome:
    if value > 0.9:
        raise FindingError("a good event was lost")
    return Counter({"field": 1})


@pytest.mark.parametrize(
    ("judge", "named"),
    [
        (crash, "ended with -6"),
        (swallow_memory, "MiB of memory"),
        (claim_memory, "MemoryError"),
        (spin, "took 2."),
        (lose_a_neighbour, "lost"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_planted_fault_is_found_and_its_input_kept(
    judge: Callable[[Any], Outcome], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    lines = [
        "import sys",
        f"sys.path[:0] = {[str(Path(__file__).parent)]!r}",
        "import fuzz_targets, test_fuzz, fuzz_child",
        f"fuzz_targets.TARGETS[:] = [test_fuzz.judged_by(test_fuzz.{judge.__name__})]",
        "fuzz_child.main()",
    ]
    child.write_text("\n".join(lines))
    monkeypatch.setattr(fuzz, "CHILD", child)
    # A parent that was larger than any of its children, as pytest is: it must not blind them.
    bytearray(b"x") * (400 * 2**20)
    result = fuzz.run(judged_by(judge), 60, 1, tmp_path / "kept")
    assert result.findings
    assert named.encode() in result.findings[0].read_bytes()
    assert result.inputs == 60


def test_an_input_follows_from_seed_name_and_number() -> None:
    from fuzz_child import generator

    data = bytes(range(256))
    again = [mutated_bytes(generator(3, "events", n), data) for n in range(50)]
    assert again == [mutated_bytes(generator(3, "events", n), data) for n in range(50)]
    assert len(set(again)) > 40


@settings(max_examples=150)
@given(st.binary(max_size=600))
def test_any_bytes_at_all_are_refused_by_the_errors_that_are_documented(data: bytes) -> None:
    codec = EventCodec(app.event("clicks"))
    decoded = codec.decode([data])
    assert len(decoded.rows) + len(decoded.faults) == 1
    refusing: list[tuple[Callable[[bytes], Any], type[Exception]]] = [
        (decode, SnapshotError),
        (decode_rows, DamagedRowsError),
        (lambda b: decode_manifest(b, "here"), CheckpointError),
        (lambda b: decode_announcement(b, "here"), CheckpointError),
        (lambda b: decode_description(b, "here"), CheckpointError),
    ]
    for read, error in refusing:
        with pytest.raises(error):
            read(data)
    # Eight bytes of length and an empty header are a file of no tensors.
    with contextlib.suppress(CheckpointError):
        decode_tensors(data, "here")
