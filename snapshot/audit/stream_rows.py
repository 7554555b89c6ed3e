"""One sample stream against its snapshots: which are in it, and which should be.

What each row must be is ``row_check.py``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from tenuto.snapshot.audit.declared import Declared
from tenuto.snapshot.audit.finality import Finality
from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import JudgedEvent, JudgedSnapshot
from tenuto.snapshot.audit.log import TopicLog
from tenuto.snapshot.audit.parquet_rows import FileRows
from tenuto.snapshot.audit.row_check import Found, RowCheck, text_of
from tenuto.snapshot.audit.rows import Key, differences, first_of
from tenuto.snapshot.audit.sample_rows import TopicRows
from tenuto.snapshot.labels import SampleStream

Status = Literal["sampled", "waiting", "lost", "missing"]
"""In the samples; not due yet; no longer to be told, records being deleted; due and not there."""


class StreamRows:
    """Judges one sample stream, snapshot by snapshot.

    Args:
        declared: of the platform.
        stream: the sample stream.
        snapshots: their topic.
        topic: the stream's rows in its topic.
        files: its rows in a sink's directory; None where none is looked at.
        finality: of this stream.
        requests: accepted events by request id.
        ended: by partition, whether the snapshots topic holds a replay's end mark.
        strict: whether what is final must be there, though nothing says that the log has ended.

    Attributes:
        counts: snapshots by partition and status.
        empty: sampled snapshots that show nothing, by partition: they have no row.
        final_ms: by partition, the latest request that is in the samples.
    """

    def __init__(
        self,
        declared: Declared,
        stream: SampleStream,
        snapshots: TopicLog,
        topic: TopicRows,
        files: FileRows | None,
        finality: Finality,
        requests: Mapping[str, Sequence[JudgedEvent]],
        findings: Findings,
        *,
        ended: Sequence[bool],
        strict: bool,
    ) -> None:
        self.stream, self.topic = stream, topic
        self.counts: Counter[tuple[int, Status]] = Counter()
        self.empty: Counter[int] = Counter()
        self.final_ms: dict[int, int] = {}
        self._snapshots, self._files, self._findings = snapshots, files, findings
        self._finality, self._requests = finality, requests
        self._ended, self._strict = ended, strict
        self._rows = RowCheck(declared, stream, findings)
        self._blocked: set[int] = set()
        self._shown: dict[tuple[int, int], int] = {}

    def check(self, snapshot: JudgedSnapshot, *, compare: bool = True) -> None:
        """Judge one accepted snapshot; those of a partition come in the order of offsets.

        Args:
            compare: whether its rows are compared too; else it is only counted.
        """
        partition, items = snapshot.partition, len(snapshot.fields["items"])
        self._shown[partition, snapshot.offset] = items
        status = self._status(snapshot)
        self.counts[partition, status] += 1
        if status == "sampled":
            self.empty[partition] += items == 0
            asked = int(snapshot.fields["request_ts"])
            self.final_ms[partition] = max(asked, self.final_ms.get(partition, 0))
        if compare and status in ("sampled", "lost"):
            self._compare(snapshot, in_topic=status == "sampled")

    def finish(self) -> None:
        """Judge what no snapshot accounts for, and the columns over all rows."""
        self._rows.finish()
        for key in self.topic.rows.places:
            self._extra(key, "rows", self.stream.topic)
        for key in self._files.rows.places if self._files is not None else ():
            self._extra(key, "files", "the files")

    def _status(self, snapshot: JudgedSnapshot) -> Status:
        partition, offset, findings = snapshot.partition, snapshot.offset, self._findings
        place = f"snapshots[{partition}]@{offset}"
        chain = self.topic.chains[partition]
        waits = self._finality.waits_for(snapshot)
        if chain.covers(offset):
            if not waits or self._finality.forgotten(snapshot):
                findings.equal("snapshots")
            else:
                text = f"is in {self.stream.topic} before it was final: {waits}"
                findings.add("mismatching", "snapshots", place, text)
            return "sampled"
        if chain.start is not None and offset < chain.start:
            if not self.topic.whole[partition]:
                findings.unverifiable["snapshots"] += 1
                return "lost"
            text = f"{self.stream.topic} begins behind it, at {chain.start}"
            findings.add("missing", "snapshots", place, text)
            return "missing"
        # Samples come in the order of snapshots: one that waits holds the others up.
        if waits:
            self._blocked.add(partition)
        due = self._strict or (self._ended[partition] and self._finality.ended(partition))
        if due and partition not in self._blocked:
            text = f"is final, and {self.stream.topic} ends before it, at {chain.to}"
            findings.add("missing", "snapshots", place, text)
            return "missing"
        findings.waiting["snapshots"] += 1
        return "waiting"

    def _compare(self, snapshot: JudgedSnapshot, *, in_topic: bool) -> None:
        events = self._requests.get(snapshot.fields["request_id"], ())
        forgotten = self._finality.forgotten(snapshot)
        for item, wanted in enumerate(self._rows.expected(snapshot, events)):
            key = (snapshot.partition, snapshot.offset, item)
            found = self._only(key) if in_topic else None
            if found is not None:
                self._rows.values(key, wanted, found)
                if forgotten:
                    self._findings.unverifiable["labels"] += 1
                else:
                    self._rows.labels(snapshot, events, item, wanted[1], found[1])
            if found is None and forgotten:
                self._findings.unverifiable["files"] += 1
            else:
                self._file(key, found or wanted)

    def _only(self, key: Key) -> Found | None:
        """The topic's row with this key, the first of several."""
        rows = self.topic.rows.of(key)
        if not rows:
            text = f"its interval in {self.stream.topic} lacks this row"
            self._findings.add("missing", "rows", text_of(key), text)
        for _ in rows[1:]:
            text = f"is {len(rows)} times in {self.stream.topic}"
            self._findings.add("extra", "rows", text_of(key), text)
        return rows[0] if rows else None

    def _file(self, key: Key, reference: Found) -> None:
        """The row in the files against the topic's, or the expected one where that is gone."""
        if self._files is None:
            return
        findings, rows = self._findings, self._files.rows.of(key)
        start, end = self._files.covered.get(key[0], (0, 0))
        if not rows and not start <= key[1] < end:
            if key[1] < start:
                findings.unverifiable["files"] += 1
            elif self._strict:
                findings.add("missing", "files", text_of(key), f"the manifests end at {end}")
            else:
                findings.waiting["files"] += 1
            return
        if not rows:
            findings.add("missing", "files", text_of(key), "no file of its chunk has it")
            return
        for _ in rows[1:]:
            findings.add("extra", "files", text_of(key), f"is {len(rows)} times in the files")
        if rows[0] == reference:
            findings.equal("files")
        else:
            texts = differences(reference[1], rows[0][1]) or ["the types of its columns differ"]
            findings.add("mismatching", "files", text_of(key), first_of(texts))

    def _extra(self, key: Key, check: str, of: str) -> None:
        parts = self._snapshots.partitions
        shown = self._shown.get(key[:2])
        if shown is None and key[0] < len(parts) and key[1] < parts[key[0]].start:
            self._findings.unverifiable[check] += 1
        elif shown is None:
            text = f"is in {of}, and no such snapshot counts"
            self._findings.add("extra", check, text_of(key), text)
        elif not 0 <= key[2] < shown:
            text = f"is in {of}, and its snapshot shows {shown} items"
            self._findings.add("extra", check, text_of(key), text)
