"""One row of a sample stream against what it must be, column by column.

The expected row is made of the snapshot's own bytes and of labels found by brute force.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.expected_rows import (
    expected_row,
    expected_schema,
    label_types,
    slots_of,
)
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedSnapshot
from tenuto.snapshot.audit.label_leaks import Twins, outside_event
from tenuto.snapshot.audit.labels import row_events, row_labels
from tenuto.snapshot.audit.rows import Key, Row, Schema, differences, first_of
from tenuto.snapshot.labels import SampleStream

Found = tuple[Schema, Row]


class RowCheck:
    """Compares the rows of one sample stream.

    Args:
        declared: of the platform.
        stream: the sample stream.
    """

    def __init__(self, declared: Declared, stream: SampleStream, findings: Findings) -> None:
        self._declared, self._stream, self._findings = declared, stream, findings
        self._types = label_types(stream)
        self._twins = Twins(["impressed", *(label.name for label in stream.labels)])
        self._schemas: dict[tuple[tuple[str, str], ...], Schema] = {}

    def expected(self, snapshot: JudgedSnapshot, events: Sequence[JudgedEvent]) -> list[Found]:
        """What the rows of a snapshot must be.

        Args:
            events: accepted ones of its request.
        """
        fields, declared = snapshot.fields, self._declared
        columns = tuple((name, digest) for name, digest in fields["columns"])
        if columns not in self._schemas:
            self._schemas[columns] = expected_schema(columns, self._types, declared.scores)
        place = (snapshot.partition, snapshot.offset, snapshot.arrival_ms)
        rows: list[Found] = []
        for item, mine in enumerate(row_events(events, slots_of(fields))):
            labels = row_labels(self._stream, declared.proofs, fields["request_ts"], mine)
            row = expected_row(fields, place, item, labels, self._types, declared.scores)
            rows.append((self._schemas[columns], row))
        return rows

    def values(self, key: Key, wanted: Found, found: Found) -> None:
        """Compare all columns but the labels'."""
        texts = differences(self._but_labels(wanted[1]), self._but_labels(found[1]))
        if not texts and wanted[0] != found[0]:
            pairs = zip(wanted[0], found[0], strict=False)
            texts = [f"expected column {want}, found {got}" for want, got in pairs if want != got]
            texts = texts or [f"{len(found[0])} columns, expected {len(wanted[0])}"]
        if texts:
            self._findings.add("mismatching", "rows", text_of(key), first_of(texts))
        else:
            self._findings.equal("rows")

    def labels(
        self, snapshot: JudgedSnapshot, events: Sequence[JudgedEvent], item: int, wanted: Row,
        found: Row,
    ) -> None:  # fmt: skip
        """Compare the label columns, and explain those that look beyond their window."""
        right = {name: wanted[name] for name in self._types}
        told = {name: found[name] for name in self._types if name in found}
        self._twins.add(snapshot.fields, item, right)
        texts = differences(right, told)
        if not texts:
            self._findings.equal("labels")
            return
        mine = row_events(events, slots_of(snapshot.fields))[item]
        leak = outside_event(
            self._stream, self._declared.proofs, snapshot.fields["request_ts"], mine, right, told
        )
        where = text_of((snapshot.partition, snapshot.offset, item))
        if leak:
            self._findings.add("leaking", "labels", where, f"{leak}; {first_of(texts)}")
        else:
            self._findings.add("mismatching", "labels", where, first_of(texts))

    def finish(self) -> None:
        """Judge columns over all rows."""
        self._twins.report(self._findings)

    def _but_labels(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if name not in self._types}


def text_of(key: Key) -> str:
    """A row as people find it: ``snapshots[2]@131 item 4``."""
    return f"snapshots[{key[0]}]@{key[1]} item {key[2]}"
