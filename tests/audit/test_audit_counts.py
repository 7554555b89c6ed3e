"""Counts that add up, dead letters that fit their records, and shares."""

from __future__ import annotations

from dataclasses import replace

from recorded_run import REFUSED, Recorded, change, found

from tenuto.snapshot.audit.audit import in_share
from tenuto.snapshot.audit.counts import COUNTS, LETTERS
from tenuto.snapshot.audit.log import RawRecord


def letter_of(recorded: Recorded, topic: str) -> int:
    """Number of a topic's first dead letter."""
    records = recorded.log.topics["dead-letters"].partitions[0].records
    return next(
        at
        for at, r in enumerate(records)
        if dict(r.headers)["origin-topic"].endswith(topic.encode())
    )


def test_every_refused_record_has_its_dead_letter(recorded: Recorded) -> None:
    findings = recorded.audit(strict=True)
    assert findings.checked[LETTERS] == 2 * len(REFUSED)
    assert findings.clean, findings.table()


def test_a_lost_dead_letter_is_found_whoever_had_to_write_it(recorded: Recorded) -> None:
    for topic in ("clicks", "likes", "snapshots"):
        number = letter_of(recorded, topic)

        def lose(records: list[RawRecord], n: int = number) -> list[RawRecord]:
            return [*records[:n], *records[n + 1 :]]

        findings = recorded.audit(change(recorded.log, "dead-letters", 0, lose))
        text = found(findings, "missing", LETTERS)
        assert f"{topic}[1]@" in text
        assert "is refused (malformed) and has no dead letter" in text
        lost = "dead letters" in found(findings, "mismatching", COUNTS)
        assert lost is (topic == "snapshots")


def test_a_dead_letter_of_a_record_that_counts_is_found(recorded: Recorded) -> None:
    part = recorded.log.topics["clicks"].partitions[0]
    counts = next(record for record in part.records if record.value)

    def accuse(records: list[RawRecord]) -> list[RawRecord]:
        letter = records[letter_of(recorded, "clicks")]
        headers = dict(letter.headers) | {
            "origin-partition": b"0",
            "origin-offset": b"%d" % counts.offset,
        }
        topic = headers["origin-topic"].decode()
        key = f"{topic}/0/{counts.offset}".encode()
        last = records[-1].offset + 1
        return [*records, replace(letter, offset=last, key=key, headers=tuple(headers.items()))]

    text = found(recorded.audit(change(recorded.log, "dead-letters", 0, accuse)), "extra", LETTERS)
    assert f"clicks[0]@{counts.offset}" in text
    assert "it counts" in text


def test_a_dead_letter_of_no_record_is_found(recorded: Recorded) -> None:
    def invent(records: list[RawRecord]) -> list[RawRecord]:
        letter = records[letter_of(recorded, "clicks")]
        headers = dict(letter.headers) | {"origin-offset": b"99999"}
        key = f"{headers['origin-topic'].decode()}/1/99999".encode()
        return [*records, replace(letter, key=key, headers=tuple(headers.items()))]

    text = found(recorded.audit(change(recorded.log, "dead-letters", 0, invent)), "extra", LETTERS)
    assert "clicks[1]@99999: no such record" in text


def test_a_dead_letter_written_twice_counts_once(recorded: Recorded) -> None:
    def double(records: list[RawRecord]) -> list[RawRecord]:
        last = records[-1].offset
        again = [replace(r, offset=last + 1 + at) for at, r in enumerate(records)]
        return [*records, *again]

    findings = recorded.audit(change(recorded.log, "dead-letters", 0, double), strict=True)
    assert findings.clean, findings.table()
    assert findings.checked[LETTERS] == 2 * len(REFUSED)


def test_another_reason_and_other_bytes_are_found(recorded: Recorded) -> None:
    number = letter_of(recorded, "clicks")

    def blame(records: list[RawRecord]) -> list[RawRecord]:
        headers = tuple((k, b"late" if k == "reason" else v) for k, v in records[number].headers)
        records[number] = replace(records[number], headers=headers)
        return records

    findings = recorded.audit(change(recorded.log, "dead-letters", 0, blame))
    assert "expected reason malformed, found late" in found(findings, "mismatching", LETTERS)

    def forge(records: list[RawRecord]) -> list[RawRecord]:
        records[number] = replace(records[number], value=b"}")
        return records

    findings = recorded.audit(change(recorded.log, "dead-letters", 0, forge))
    assert "does not hold the record's bytes" in found(findings, "mismatching", LETTERS)


def test_a_share_compares_some_snapshots_and_counts_all(recorded: Recorded) -> None:
    whole, some = recorded.audit(), recorded.audit(share=0.25)
    assert some.clean, some.table()
    assert 10 < some.snapshots < 60
    assert 0 < some.checked["rows"] < whole.checked["rows"] / 2
    for check in ("counts", "snapshots", LETTERS):
        assert some.checked[check] == whole.checked[check]


def test_a_request_is_in_every_share_that_is_larger() -> None:
    ids = [f"r{number}" for number in range(2_000)]
    small = {i for i in ids if in_share(i, 0.1)}
    assert 120 < len(small) < 280
    assert small <= {i for i in ids if in_share(i, 0.5)}
    assert all(in_share(i, 1.0) for i in ids)
