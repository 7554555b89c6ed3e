"""Labels that know too much: events from outside their window, and columns that are the label."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.labels import LabelEvent, counts_for
from tenuto.snapshot.labels import Label, SampleStream

TWINS = "label columns"
_LEAST_ROWS, _LEAST_OF_CLASS = 50, 10


def outside_event(
    stream: SampleStream,
    proofs: Collection[str],
    request_ts: int,
    events: Sequence[LabelEvent],
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
) -> str:
    """The event from outside a label's window that explains what was found; "" if none does.

    Args:
        events: all that are about this row, whenever they were.
        expected, found: the row's label columns.
    """
    if found.get("impressed") != expected["impressed"] or (
        found.get("impression_delay_ms") != expected["impression_delay_ms"]
    ):
        most = stream.impression_window_ms
        for event in events:
            delay = event.fields["ts"] - request_ts
            told = found.get("impression_delay_ms")
            if event.event in proofs and not 0 <= delay <= most and told == delay:
                return f"impression: counts {_distance(event, delay, most, 'the request')}"
    delay_ms = expected["impression_delay_ms"]
    start = request_ts + (delay_ms if delay_ms is not None else 0)
    since = "the impression" if delay_ms is not None else "the request"
    for label in stream.labels:
        if all(found.get(name) == expected[name] for name in label.columns):
            continue
        for event in events:
            delay = event.fields["ts"] - start
            outside = delay_ms is None or not 0 <= delay <= label.window_ms
            if counts_for(label, event) and outside and _shows(label, event, expected, found):
                text = _distance(event, delay, label.window_ms, since)
                return f"{label.name}: counts {text}"
    return ""


def _shows(
    label: Label, event: LabelEvent, expected: Mapping[str, Any], found: Mapping[str, Any]
) -> bool:
    """Whether the label's value can come from this event."""
    value, right = found.get(label.name), expected[label.name]
    if label.kind == "first":
        return bool(value) and not right
    if label.kind == "longest":
        return bool(value == event.fields[str(label.field)] and value != right)
    added = event.fields[str(label.field)]
    return value is not None and value != right and value - (right or 0) >= added


def _distance(event: LabelEvent, delay: int, most: int, since: str) -> str:
    at = f"{event.event}[{event.partition}]@{event.offset} of ts {event.fields['ts']}"
    if delay < 0:
        return f"{at}, {-delay:,} ms before {since}"
    return f"{at}, {delay:,} ms after {since}: its window is {most:,} ms"


class Twins:
    """Which features and context values equal a label on every row.

    A label among the inputs makes a perfect model and a useless ranker. Told only where enough
    rows of both classes were seen; ``impressed`` is judged on all rows, the others on those seen.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._known: set[str] = set()
        # By column and label that never differed: rows without and with the label.
        self._twins: dict[tuple[str, str], list[int]] = {}
        self._differed: Counter[str] = Counter()

    def add(self, fields: Mapping[str, Any], item: int, labels: Mapping[str, Any]) -> None:
        """Take in one row: a snapshot's item, and the labels found by brute force."""
        judged = [name for name in self._labels if name == "impressed" or labels["impressed"]]
        wanted = {name: _number(labels[name]) for name in judged}
        columns = dict(_inputs(fields, item))
        for column in columns.keys() - self._known:
            self._known.add(column)
            self._twins.update({(column, label): [0, 0] for label in self._labels})
        for (column, label), rows in list(self._twins.items()):
            if label not in wanted:
                continue
            if columns.get(column) == wanted[label]:
                rows[wanted[label] != 0.0] += 1
            else:
                del self._twins[column, label]
                self._differed[label] += 1

    def report(self, findings: Findings) -> None:
        """Count each pair that was compared, and name each that never differed."""
        findings.equal(TWINS, self._differed.total())
        for (column, label), rows in sorted(self._twins.items()):
            if sum(rows) >= _LEAST_ROWS and min(rows) >= _LEAST_OF_CLASS:
                text = f"equals the label {label!r} on all {sum(rows)} rows that have both"
                findings.add("leaking", TWINS, f"column {column!r}", text)


def _inputs(fields: Mapping[str, Any], item: int) -> Iterator[tuple[str, float]]:
    """What a model could see of a row: features by name, context values as ``context NAME``."""
    width = len(fields["columns"])
    for number, (name, _) in enumerate(fields["columns"]):
        cell = 4 * (item * width + number)
        yield name, _number(struct.unpack("<f", fields["values"][cell : cell + 4])[0])
    for name, value in fields.get("context", {}).items():
        one = value[item] if isinstance(value, list) and item < len(value) else value
        if isinstance(one, int | float):
            yield f"context {name}", _number(one)


def _number(value: Any) -> float:
    """As float32, as columns are; what is missing is 0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0.0
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
