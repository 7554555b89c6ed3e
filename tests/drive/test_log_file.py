"""Bad rows are refused by number, column and value, or skipped and counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenuto.drive.interactions import InteractionLog, read_log
from tenuto.drive.mapping import FileColumn, InteractionLogError
from tenuto.features.events import Event, Field
from tenuto.features.feature import Context
from tenuto.presets.video_events import events as video_events

purchases = Event("purchases", fields={"amount_cents": Field(int, ge=1), "gift": Field(bool)})
EVENTS = [*video_events, purchases]
HEADER = b"user_id,item_id,request_ts_ms,position,play_ts_ms,play_ms,recall\n"
CONTEXT = [Context("recall", "item", float)]


def read(path: Path, content: bytes, **options: object) -> InteractionLog:
    path.write_bytes(content)
    return read_log(path, EVENTS, context=["recall"], declared_context=CONTEXT, **options)  # type: ignore[arg-type]


BAD_ROWS = [
    (b",i,1,,,,", "user_id: empty: expected non-empty UTF-8 text of at most 256 characters"),
    (
        b"u,%s,1,,,," % (b"x" * 300),
        f"item_id: '{'x' * 56}…: expected non-empty UTF-8 text of at most 256 characters",
    ),
    (
        b"u,\xff\xfe,1,,,,",
        r"item_id: '\\xff\\xfe': expected non-empty UTF-8 text of at most 256 characters",
    ),
    (
        b"u,i,,,,,",
        "request_ts_ms: empty: expected a whole number of milliseconds ≥ 0",
    ),
    (
        b"u,i,-1,,,,",
        "request_ts_ms: '-1': expected a whole number of milliseconds ≥ 0",
    ),
    (
        b"u,i,2022-04-10,,,,",
        "request_ts_ms: '2022-04-10': expected a whole number of milliseconds ≥ 0",
    ),
    (
        b"u,i,99999999999999999999,,,,",
        "request_ts_ms: '99999999999999999999': expected a whole number of milliseconds ≥ 0",
    ),
    (b"u,i,0x1f,,,,", "request_ts_ms: '0x1f': expected a whole number of milliseconds ≥ 0"),
    (b"u,i,1,2.5,,,", "position: '2.5': expected a whole number from 0 to 100000"),
    (b"u,i,1,-3,,,", "position: '-3': expected a whole number from 0 to 100000"),
    (b"u,i,1,,5,-3,", "play_ms: '-3': expected a whole number from 0 to 86400000"),
    (b"u,i,1,,5,86400001,", "play_ms: '86400001': expected a whole number from 0 to 86400000"),
    (b"u,i,1,,,,inf", "recall: 'inf': expected a number"),
    (b"u,i,1", "3 columns: expected 7 columns"),
    (b"u,i,1,,,,,", "8 columns: expected 7 columns"),
]


@pytest.mark.parametrize(("line", "message"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_column_value_and_what_would_be_right(
    tmp_path: Path, line: bytes, message: str
) -> None:
    with pytest.raises(InteractionLogError) as error:
        read(tmp_path / "log.csv", HEADER + b"u,i,1,0,,,0.5\n\n" + line + b"\nu,i,x,,,,\n")
    assert str(error.value) == f"log.csv row 4: {message}"


def test_skipped_rows_are_counted_by_reason_and_their_neighbours_are_read(tmp_path: Path) -> None:
    lines = [line for line, _ in BAD_ROWS for line in (line, b"u,i,1,0,,,0.5")]
    log = read(tmp_path / "log.csv", HEADER + b"\n".join(lines) + b"\n\n", on_error="skip")
    assert log.rows == len(BAD_ROWS)
    assert sum(log.problems.by_reason.values()) == len(BAD_ROWS)
    reason = "position: expected a whole number from 0 to 100000"
    assert log.problems.by_reason[reason] == 2
    assert log.problems.by_reason["expected 7 columns"] == 2
    assert [one.row for one in log.problems.first] == [2, 4, 6, 8, 10]


def test_row_numbers_hold_across_blocks_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenuto.drive.log_file.BLOCK_BYTES", 4_096)
    row, many = b"u,i,1,,,,0.5\n", 1_000
    content = HEADER + row * 10 + b"u,i\n" + row * many + b"u,i,1,x,,,\n" + b"u,i\n"
    log = read(tmp_path / "log.csv", content, on_error="skip")
    assert [one.row for one in log.problems.first] == [12, 13 + many, 14 + many]
    assert log.rows == many + 10


def test_rows_of_parquet_are_numbered_from_one(tmp_path: Path) -> None:
    table = pa.table(
        {"user_id": ["u", "u"], "item_id": ["i", None], "request_ts_ms": pa.array([1, 2])}
    )
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(InteractionLogError) as error:
        read_log(tmp_path / "log.parquet", EVENTS)
    expected = "expected non-empty UTF-8 text of at most 256 characters"
    assert str(error.value) == f"log.parquet row 2: item_id: empty: {expected}"


def test_an_event_that_happened_has_all_that_it_requires(tmp_path: Path) -> None:
    header = b"user_id,item_id,request_ts_ms,purchase_ts_ms,amount_cents,gift\n"
    path = tmp_path / "log.csv"
    path.write_bytes(header + b"u,i,1,,,\nu,i,1,5,990,1\nu,i,1,5,,0\n")
    with pytest.raises(InteractionLogError) as error:
        read_log(path, EVENTS)
    expected = "expected a value: each of purchases has one"
    assert str(error.value) == f"log.csv row 4: amount_cents: empty: {expected}"

    log = read_log(path, EVENTS, on_error="skip")
    (record,) = [one for request in log.requests(0, 9) for one in log.outcomes(request, [])]
    assert (record.fields["amount_cents"], record.fields["gift"]) == (990, True)


def test_a_bad_value_of_a_renamed_column_names_both(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_bytes(b"uid\titem_id\ttime\nu\ti\t12:00\n")
    mapping = {"user_id": FileColumn("uid"), "request_ts_ms": FileColumn("time", "iso")}
    with pytest.raises(InteractionLogError) as error:
        read_log(path, EVENTS, mapping=mapping)
    what = "time (read as request_ts_ms): '12:00'"
    expected = "expected an ISO 8601 time such as 2024-01-01T00:00:00Z"
    assert str(error.value) == f"log.tsv row 2: {what}: {expected}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.txt", b"", "unknown format: a log is .csv, .tsv, .csv.gz, .tsv.gz or .parquet"),
        ("log.csv", b"", "empty: a log begins with a header"),
        ("log.csv", b"user_id,item_id,user_id\n", "column 'user_id' appears twice in the header"),
        (
            "log.csv",
            b"uid,item_id,request_ts_ms\n",
            "no column user_id; the file has: uid, item_id, request_ts_ms; "
            'name it in a mapping: user_id = "…"',
        ),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InteractionLogError) as error:
        read_log(path, EVENTS)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InteractionLogError, match=r"cannot be read: .*No such file"):
        read_log(tmp_path / name, EVENTS)


def test_a_file_cut_short_is_an_error_and_never_a_shorter_log(tmp_path: Path) -> None:
    rows = b"".join(b"u%d,i,%d\n" % (n * 7919 % 10_007, n) for n in range(20_000))
    whole = gzip.compress(b"user_id,item_id,request_ts_ms\n" + rows)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InteractionLogError, match="cannot be read"):
        read_log(path, EVENTS)


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"user_id,item_id,request_ts_ms\n")
    with pytest.raises(InteractionLogError, match=r"^log\.csv: no row could be read$"):
        read_log(path, EVENTS)
