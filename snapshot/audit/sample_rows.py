"""What a samples topic says, read by the rule of docs/samples.md and nothing cleverer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.log import RawRecord, TopicLog
from tenuto.snapshot.audit.rows import Key, SampleRows

CHECK = "rows"


@dataclass
class ChainRead:
    """How far one partition's records go on from one another.

    Attributes:
        start: snapshot offset at which the first record begins; None without any.
        to: up to which they go on.
        ended: whether the end mark was read.
        gaps: records left out because something was missing before them.
    """

    start: int | None = None
    to: int = 0
    ended: bool = False
    gaps: int = 0

    def covers(self, offset: int) -> bool:
        """Whether a snapshot at this offset lies in what the records stand for."""
        return self.start is not None and self.start <= offset < self.to


@dataclass
class TopicRows:
    """The rows of a samples topic, and how far each partition's go.

    Attributes:
        whole: whether the topic has all records since its first.
    """

    rows: SampleRows = field(default_factory=SampleRows)
    chains: list[ChainRead] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)


def read_topic(topic: str, log: TopicLog, findings: Findings) -> TopicRows:
    """Read a samples topic; what cannot be read as its format says is a finding."""
    read = TopicRows()
    for number, partition in enumerate(log.partitions):
        read.whole.append(partition.start == 0)
        records = [one for one in partition.records if not _of_another(one, log.incarnation)]
        read.chains.append(_read_partition(f"{topic}[{number}]", number, records, read, findings))
    return read


def _read_partition(
    place: str, number: int, records: Sequence[RawRecord], read: TopicRows, findings: Findings
) -> ChainRead:
    chain = ChainRead()
    for record in records:
        if chain.ended:
            break
        where = f"{place}@{record.offset}"
        interval = _interval(record)
        if interval is None:
            findings.add("mismatching", CHECK, where, f"headers {record.headers}: no interval")
            continue
        start, end = interval
        if chain.start is None:
            chain.start = chain.to = start
        since = chain.to
        if start > since:
            chain.gaps += 1
            continue
        if end < since:
            continue
        if end > since and record.value:
            _take_rows(where, number, record.value, (start, end), since, read.rows, findings)
        chain.to = end
        chain.ended = dict(record.headers).get("end") == b"1"
    return chain


def _of_another(record: RawRecord, life: bytes) -> bool:
    """Whether it was written to an earlier topic of this name, and arrived in this one."""
    return dict(record.headers).get("life", life) != life


def _interval(record: RawRecord) -> tuple[int, int] | None:
    headers = dict(record.headers)
    try:
        start, end = int(headers["from"]), int(headers["to"])
        int(headers["arrival"])
    except (KeyError, ValueError):
        return None
    return (start, end) if 0 <= start <= end else None


def _take_rows(
    where: str,
    number: int,
    value: bytes,
    interval: tuple[int, int],
    since: int,
    rows: SampleRows,
    findings: Findings,
) -> None:
    try:
        with pa.ipc.open_stream(value) as reader:
            batch = reader.read_next_batch()
        offsets = batch.column("snapshot_offset").to_pylist()
        # Of a record that overlaps what was read, only what follows counts.
        new = [row for row, offset in enumerate(offsets) if offset >= since]
        if len(new) < len(offsets):
            batch = batch.take(pa.array(new, pa.int64()))
        keys = rows.add(batch)
    except (pa.ArrowException, KeyError, StopIteration, ValueError) as error:
        findings.add("mismatching", CHECK, where, f"not Arrow rows of samples: {error}")
        return
    if keys != sorted(keys):
        findings.add("mismatching", CHECK, where, "its rows are not in order")
    for key in keys:
        if not interval[0] <= key[1] < interval[1] or key[0] != number:
            findings.add(
                "mismatching", CHECK, where, f"{_text(key)}: outside of [%d, %d)" % interval
            )


def _text(key: Key) -> str:
    return f"snapshots[{key[0]}]@{key[1]} item {key[2]}"
