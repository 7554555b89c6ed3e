"""Records from Kafka under the fuzzer: events, snapshots, dead letters.

Each batch mixes hostile records with good ones: the good ones must come out whole, every record is
accepted or refused once and with a reason, and what is accepted goes on to what follows it in a
worker.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from fuzz_mutations import TEXTS, any_value, json_bytes, mutated_bytes, mutated_tree
from fuzz_target import ACCEPTED, Decoder, FindingError, Outcome, refused
from kafka.partitioner.default import murmur2

from tenuto.features.aggregate import Aggregator
from tenuto.features.rules import TimeRules
from tenuto.presets.video import app
from tenuto.snapshot import record
from tenuto.snapshot.delay_line import DelayLine
from tenuto.streams.codec import EventCodec
from tenuto.streams.dead_letters import letter, parse
from tenuto.streams.door import Limits, judge
from tenuto.streams.headers import sent_at_ms
from tenuto.streams.heartbeats import is_heartbeat
from tenuto.streams.join_worker import _labels
from tenuto.streams.refusals import Reason, Refusal
from tenuto.streams.snapshot_door import judge_snapshots

T0_MS = 1_650_000_000_000
PARTITIONS = 4
HERE = 2
HOSTILE, GOOD = 8, 3
MAX_BYTES = 65_536
RULES = TimeRules()
LIMITS = Limits(PARTITIONS, RULES, MAX_BYTES)
HOME = [f"r{n}" for n in range(400) if (murmur2(b"r%d" % n) & 0x7FFFFFFF) % PARTITIONS == HERE]
HEADERS: list[list[Any]] = [
    [], [["sent_at", b"1650000000000"]], [["tenuto-heartbeat", b"1"]], [["tenuto-end", b"1"]],
    [["tenuto-heartbeat", b"1"], ["tenuto-end", b"1"]], [["sent_at", None]],
    [["sent_at", b"\xb2" * 9]], [["tenuto-heartbeat", None]], [["", b""]], [["a\0", b"\xff" * 99]],
]  # fmt: skip


@dataclass(eq=False)
class Batch:
    """Records as a door takes them."""

    values: list[bytes | None]
    stamps: list[int]
    headers: list[list[tuple[str, bytes]]]
    topic: str = "plays"
    partition: int = HERE

    @property
    def timestamps_ms(self) -> np.ndarray:
        return np.array(self.stamps, np.int64)

    @property
    def offsets(self) -> np.ndarray:
        return np.arange(100, 100 + len(self.values), dtype=np.int64)

    @property
    def keys(self) -> list[bytes | None]:
        return [None if n % 3 else b"k" * (n * 40) for n in range(len(self.values))]


def play(n: int) -> dict[str, Any]:
    """A good report of a play."""
    return {
        "request_id": HOME[n], "user_id": f"u{n}", "query": "lofi ♪", "item_id": f"i{n}",
        "position": n, "ts": T0_MS, "started_ts": T0_MS, "play_ms": 5 + n, "play_ms_delta": 5,
        "duration_ms": 90, "first": True,
    }  # fmt: skip


def events(_: Path) -> Decoder:
    """``streams/codec.py`` and ``streams/door.py``, then aggregation and the join's memory."""
    event = app.event("plays")
    codec, aggregator = EventCodec(event), Aggregator(app.feature_set().layout)
    good = [json_bytes(play(n)) for n in range(GOOD)]
    stream = app.sample_stream()

    def make(rng: Random) -> list[Any]:
        records: list[Any] = [[value, T0_MS, []] for value in good]
        for _ in range(HOSTILE):
            value: bytes | None = _event_bytes(rng)
            if rng.random() < 0.02:
                value = rng.choice([None, b"", b"x" * (MAX_BYTES + 1), b"[" * MAX_BYTES])
            # No stamp may be later: it would make the good ones late, and rightly so.
            stamp = rng.choice([T0_MS, T0_MS, T0_MS, T0_MS - 1, 0, -1, -(2**63)])
            headers = rng.choice(HEADERS) if rng.random() < 0.1 else []
            records.insert(rng.randrange(len(records) + 1), [value, stamp, headers])
        return records

    def take(records: list[Any]) -> Outcome:
        batch = _batch(records)
        accepted = judge(codec, LIMITS, batch)
        columns = accepted.columns
        said = set(zip(columns["item_id"], columns["play_ms"], strict=True))  # type: ignore[call-overload]
        if not {(f"i{n}", 5 + n) for n in range(GOOD)} <= said:
            raise FindingError("a good event was lost")
        if len(accepted) + len(accepted.refused) + accepted.heartbeats != len(records):
            raise FindingError("records do not add up")
        deltas = aggregator.deltas("plays", columns)
        if len(accepted) and not len(deltas):
            raise FindingError("accepted events without deltas")
        line = DelayLine(stream, app.events, RULES, HERE, 0, 0, app.scores)
        line.add_labels(_labels("plays", accepted), accepted.arrival_after, ended=accepted.ended)
        for headers in batch.headers:
            sent_at_ms(headers)
        return _counted(accepted.refused, len(accepted) - GOOD, accepted.heartbeats)

    return Decoder(make, take)


def _event_bytes(rng: Random) -> bytes:
    value = json_bytes(mutated_tree(rng, play(rng.randrange(50)), json_text=True))
    return mutated_bytes(rng, value) if rng.random() < 0.4 else value


def snapshot(n: int, layout: str = "0" * 12) -> dict[str, Any]:
    """A good snapshot of a request that was shown two items."""
    return {
        "request_id": HOME[n], "user_id": f"u{n}", "query": "q", "request_ts": T0_MS - n,
        "as_of": T0_MS - n, "items": ["a", "b"], "columns": [["item_ctr_1d", "ab"], ["hour", "cd"]],
        "values": np.arange(4, dtype="<f4").tobytes(), "states": bytes(4), "layout": layout,
        "log": {
            "topics": ["plays"], "partitions": 1, "incarnations": b"x" * 16, "origin": [0],
            "next": [7], "batches": [[0, 9, 4, 1]], "buckets": 3, "read": [0, 2],
            "differing": [[2, 0, 0, 9, 0, 0, 0]],
        },
        "v": 1, "positions": [0, 5], "context": {"author": "x", "recall": [0.5, None]},
        "scores": {"score": np.arange(2, dtype="<f4").tobytes()}, "policy": "p", "slice": "",
        "model": "m", "propensity": 0.5, "weight": 1.0,
    }  # fmt: skip


def snapshots(_: Path) -> Decoder:
    """``snapshot/record.py`` and ``streams/snapshot_door.py``, then the join to sample rows."""
    good = [msgspec.msgpack.encode(snapshot(n)) for n in range(GOOD)]
    stream = app.sample_stream()
    later_ms = T0_MS + 10 * 24 * 3_600_000

    def make(rng: Random) -> list[Any]:
        records: list[Any] = [[value, T0_MS, []] for value in good]
        for _ in range(HOSTILE):
            value = _snapshot_bytes(rng)
            stamp = rng.choice([T0_MS, T0_MS, T0_MS - 1, 0, -1])
            headers = rng.choice(HEADERS) if rng.random() < 0.05 else []
            records.insert(rng.randrange(len(records) + 1), [value, stamp, headers])
        return records

    def take(records: list[Any]) -> Outcome:
        batch = _batch(records)
        found = judge_snapshots(LIMITS, batch, 0)
        beats = sum(is_heartbeat(*one) for one in zip(batch.values, batch.headers, strict=True))
        if len(found.placed) + len(found.refused) + beats != len(records):
            raise FindingError("records do not add up")
        line = DelayLine(stream, app.events, RULES, HERE, 0, 0, app.scores)
        line.add_snapshots(found.placed, 100 + len(records), later_ms)
        for front in line.labels.values():
            front.arrival_ms = later_ms
        rows = 0
        values: dict[str, set[Any]] = {}
        for emission in line.emit():
            if emission.rows is not None:
                emission.rows.validate(full=True)
                rows += emission.rows.num_rows
                for request, item in zip(
                    emission.rows.column("request_id").to_pylist(),
                    emission.rows.column("item_id").to_pylist(),
                    strict=True,
                ):
                    values.setdefault(request, set()).add(item)
        if not all(values.get(HOME[n], set()) >= {"a", "b"} for n in range(GOOD)):
            raise FindingError("a good snapshot has no rows")
        if rows != sum(len(placed.snapshot.items) for placed in found.placed):
            raise FindingError("accepted snapshots and their rows do not add up")
        for placed in found.placed:
            record.decode(record.encode(placed.snapshot))
        return _counted(found.refused, len(found.placed) - GOOD, beats)

    return Decoder(make, take)


def _snapshot_bytes(rng: Random) -> bytes:
    tree = mutated_tree(rng, snapshot(rng.randrange(50)))
    try:
        value = msgspec.msgpack.encode(tree)
    except (OverflowError, ValueError, RecursionError, UnicodeEncodeError):
        value = msgspec.msgpack.encode(snapshot(1))
    return mutated_bytes(rng, value) if rng.random() < 0.5 else value


def dead_letters(_: Path) -> Decoder:
    """``streams/dead_letters.py``: written of any refusal, and read back from any record."""

    def make(rng: Random) -> Any:
        headers = [
            ["origin-topic", b"plays"], ["origin-partition", b"3"], ["origin-offset", b"18"],
            ["origin-timestamp-ms", b"5"], ["origin-key", b"k"], ["origin-key-sha256", b"00"],
            ["reason", b"field"], ["reason-text", b"x"], ["truncated-from-bytes", b"70"],
        ]  # fmt: skip
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(headers))
            match rng.randrange(4):
                case 0:
                    del headers[at]
                case 1:
                    headers[at][1] = None  # type: ignore[call-overload]
                case 2:
                    headers[at][1] = mutated_bytes(rng, headers[at][1] or b"")
                case _:
                    headers.append([rng.choice(headers)[0], rng.choice(TEXTS).encode()])
            if not headers:
                break
        text = str(any_value(rng)) if rng.random() < 0.3 else "play_ms: -3"
        return [headers, rng.choice([None, b"", b"v", b"\xff"]), text[:9_000]]

    def take(value: Any) -> Outcome:
        headers, body, text = value
        refusal = Refusal("plays", 1, 2, Reason.FIELD, text, body, body, 5)
        back = parse(body, letter(refusal, 100).headers)
        if back.reason != "field" or back.value != (body or b""):
            raise FindingError("a letter does not come back as it was written")
        try:
            parse(body, [(name, content) for name, content in headers])
        except ValueError as error:
            return refused(error)
        return ACCEPTED

    return Decoder(make, take)


def _batch(records: list[Any]) -> Batch:
    return Batch(
        [value for value, _, _ in records],
        [stamp for _, stamp, _ in records],
        [[(name, content) for name, content in headers] for _, _, headers in records],
    )


def _counted(refusals: list[Refusal], accepted: int, heartbeats: int) -> Outcome:
    outcome: Outcome = Counter(accepted=accepted)
    if heartbeats:
        outcome["heartbeat"] = heartbeats
    for refusal in refusals:
        if not refusal.text or not isinstance(refusal.reason, Reason):
            raise FindingError("a refusal without a reason")
        back = letter(refusal, 4_096)
        if parse(back.value, back.headers).reason != refusal.reason:
            raise FindingError("a refusal's letter says another reason")
        outcome[refusal.reason.value] += 1
    return outcome
