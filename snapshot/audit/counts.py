"""Counts that must add up, and dead letters: exactly the records that do not count have one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tenuto.snapshot.audit.findings import Findings
from tenuto.snapshot.audit.judging import is_heartbeat
from tenuto.snapshot.audit.log import RawRecord, RecordedLog, TopicLog
from tenuto.snapshot.audit.stream_rows import StreamRows

LETTERS, COUNTS = "dead letters", "counts"
Place = tuple[str, int, int]
"""Topic without its namespace, partition, offset."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What a dead letter says of its origin."""

    where: str
    reason: str
    value: bytes
    truncated_from: int | None


def read_letters(log: TopicLog, findings: Findings) -> dict[Place, list[Letter]]:
    """Dead letters by origin; a record that is none is a finding."""
    letters: dict[Place, list[Letter]] = {}
    for number, part in enumerate(log.partitions):
        for record in part.records:
            where = f"dead-letters[{number}]@{record.offset}"
            headers = dict(record.headers)
            try:
                topic = headers["origin-topic"].decode()
                partition, offset = (int(headers[f"origin-{n}"]) for n in ("partition", "offset"))
                reason = headers["reason"].decode()
                cut = headers.get("truncated-from-bytes")
                told = Letter(where, reason, record.value or b"", None if cut is None else int(cut))
            except (KeyError, ValueError) as error:
                findings.add("mismatching", LETTERS, where, f"is no dead letter: {error!r}")
                continue
            if record.key != f"{topic}/{partition}/{offset}".encode():
                findings.add("mismatching", LETTERS, where, f"key {record.key!r}: not its origin")
            # No name of a topic has a dot, a namespace may.
            letters.setdefault((topic.rpartition(".")[2], partition, offset), []).append(told)
    return letters


def check_letters(
    log: RecordedLog,
    letters: Mapping[Place, Sequence[Letter]],
    refused: Mapping[str, Mapping[tuple[int, int], str]],
    is_due: Callable[[Place], bool],
    findings: Findings,
) -> set[Place]:
    """Each refused record has a letter with its bytes and reason, and no other record has one.

    Returns the refused records whose letters are still to come, or were deleted.

    Args:
        log: as recorded.
        letters: as :func:`read_letters` gives them.
        refused: by judged topic, the reason of each record that does not count.
        is_due: whether the letter of a refused record must be there by now.
    """
    whole = all(part.start == 0 for part in log.topics["dead-letters"].partitions)
    waiting: set[Place] = set()
    for topic, reasons in refused.items():
        for partition, part in enumerate(log.topics[topic].partitions):
            for record in part.records:
                reason = reasons.get((partition, record.offset))
                place = (topic, partition, record.offset)
                found = letters.get(place, ())
                if reason is None:
                    if found:
                        text = f"{found[0].where} says {found[0].reason}: it counts"
                        findings.add("extra", LETTERS, _text(place), text)
                elif found:
                    _compare(place, record, reason, found, findings)
                elif not whole:
                    findings.unverifiable[LETTERS] += 1
                    waiting.add(place)
                elif is_due(place):
                    text = f"is refused ({reason}) and has no dead letter"
                    findings.add("missing", LETTERS, _text(place), text)
                else:
                    findings.waiting[LETTERS] += 1
                    waiting.add(place)
    for place, found in letters.items():
        _check_origin(log, place, found[0], findings)
    return waiting


def check_counts(
    log: RecordedLog,
    streams: Sequence[StreamRows],
    letters: Mapping[Place, Sequence[Letter]],
    unwritten: Collection[Place],
    findings: Findings,
) -> None:
    """Snapshots written = sampled + dead-lettered + still waiting, by partition and stream.

    Samples and letters are counted by themselves, whatever they say; ``unwritten`` are letters
    still to come.
    """
    for stream in streams:
        offsets: dict[int, set[int]] = {}
        for partition, offset, _ in stream.topic.rows.places:
            offsets.setdefault(partition, set()).add(offset)
        for number, part in enumerate(log.topics["snapshots"].partitions):
            written = [record.offset for record in part.records if not is_heartbeat(record)]
            here = set(written)
            sampled = len(offsets.get(number, set()) & here) + stream.empty[number]
            dead = sum(("snapshots", number, offset) in letters for offset in written)
            waiting = stream.counts[number, "waiting"]
            waiting += sum(("snapshots", number, offset) in unwritten for offset in written)
            lost = stream.counts[number, "lost"]
            if len(written) == sampled + dead + waiting + lost:
                findings.equal(COUNTS)
                continue
            findings.add(
                "mismatching", COUNTS, f"snapshots[{number}] in {stream.stream.topic}",
                f"{len(written)} were written, {sampled} are sampled, {dead} dead letters, "
                f"{waiting} waiting, {lost} lost",
            )  # fmt: skip


def _compare(
    place: Place, record: RawRecord, reason: str, found: Sequence[Letter], findings: Findings
) -> None:
    value = record.value or b""
    for letter in found:
        whole = letter.truncated_from is None
        same = letter.value == value if whole else value.startswith(letter.value)
        if letter.reason != reason:
            text = f"{letter.where}: expected reason {reason}, found {letter.reason}"
        elif not same or letter.truncated_from not in (None, len(value)):
            text = f"{letter.where}: does not hold the record's bytes"
        else:
            continue
        findings.add("mismatching", LETTERS, _text(place), text)
        return
    findings.equal(LETTERS)


def _check_origin(log: RecordedLog, place: Place, letter: Letter, findings: Findings) -> None:
    """A letter's origin is a record of the log; of a judged topic, it was compared already."""
    topic, partition, offset = place
    known = log.topics.get(topic)
    part = known.partitions[partition] if known and partition < len(known.partitions) else None
    if part is None:
        findings.add("extra", LETTERS, letter.where, f"origin {_text(place)}: no such partition")
    elif offset < part.start:
        findings.unverifiable[LETTERS] += 1
    elif offset >= part.end and topic == "snapshots":
        # Letters are read after the snapshots: its origin came in between.
        findings.waiting[LETTERS] += 1
    elif not any(record.offset == offset for record in _near(part.records, offset)):
        findings.add("extra", LETTERS, letter.where, f"origin {_text(place)}: no such record")


def _near(records: Sequence[RawRecord], offset: int) -> Sequence[RawRecord]:
    """The records that can have this offset."""
    low, high = 0, len(records)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if records[middle].offset < offset else (low, middle)
    return records[low : low + 1]


def _text(place: Place) -> str:
    return f"{place[0]}[{place[1]}]@{place[2]}"
