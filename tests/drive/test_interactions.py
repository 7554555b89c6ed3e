"""A log is read the same from every format, and as a plain reading of its rows says."""

from __future__ import annotations

import csv
import gzip
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenuto.drive.interactions import InteractionLog, read_log
from tenuto.drive.mapping import FileColumn, InteractionLogError
from tenuto.drive.source import EventRecord, Request
from tenuto.features.events import Event, Field
from tenuto.features.feature import Context
from tenuto.presets.video_events import clicks, impressions, play_reports, plays

purchases = Event(
    "purchases",
    fields={"amount_cents": Field(int), "coupon": Field(str, required=False, max_length=20)},
)
EVENTS = [impressions, clicks, plays, purchases]
CONTEXT = [Context("recall", "item", float), Context("device", "request", str)]
TIMES = ("impression_ts_ms", "click_ts_ms", "play_ts_ms", "purchase_ts_ms")
COLUMNS = {
    **dict.fromkeys(("request_id", "user_id", "query", "item_id", "coupon", "device"), pa.string()),
    **dict.fromkeys(("position", "request_ts_ms", *TIMES), pa.int64()),
    **dict.fromkeys(("play_ms", "duration_ms", "amount_cents"), pa.int64()),
    "recall": pa.float64(),
}
FORMATS = ("log.csv", "log.tsv", "log.csv.gz", "log.tsv.gz", "log.parquet")
Row = dict[str, Any]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
ids = text.filter(bool) | st.sampled_from(["007", "7", "1e3", "nan", "NA", "null", "true", " a "])
times = st.integers(0, 2**45)


@st.composite
def request_rows(draw: st.DrawFn, request_id: str) -> list[Row]:
    shared = {
        "request_id": request_id,
        "user_id": draw(ids),
        "query": draw(text),
        "request_ts_ms": draw(st.integers(0, 5) | times),
        "device": draw(st.none() | ids),
    }
    one_row = st.fixed_dictionaries(
        {
            "item_id": ids,
            "position": st.none() | st.integers(0, 3),
            **dict.fromkeys(TIMES, st.none() | times),
            "play_ms": st.none() | st.integers(0, 3_600_000),
            "duration_ms": st.none() | st.integers(0, 3_600_000),
            "amount_cents": st.integers(-(2**40), 2**40),
            "coupon": st.none() | ids,
            "recall": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        }
    )
    return [{**shared, **row} for row in draw(st.lists(one_row, min_size=1, max_size=4))]


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    names = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    rows = [row for name in names for row in draw(request_rows(name))]
    draw(st.randoms(use_true_random=False)).shuffle(rows)
    return rows


def write(rows: list[Row], path: Path, columns: list[str] | None = None) -> Path:
    """Write rows as the path's ending says."""
    columns = columns or list(COLUMNS)
    if path.suffix == ".parquet":
        schema = pa.schema([(name, COLUMNS.get(name, pa.string())) for name in columns])
        pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as out:
        delimiter = "\t" if ".tsv" in path.name else ","
        writer = csv.DictWriter(out, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, **options: Any) -> InteractionLog:
    return read_log(path, EVENTS, context=["recall", "device"], declared_context=CONTEXT, **options)


def everything(log: InteractionLog) -> list[tuple[Request, list[EventRecord]]]:
    return [(one, log.outcomes(one, [])) for one in log.requests(log.start_ms, log.end_ms + 1)]


def plainly(rows: list[Row]) -> list[tuple[Request, list[EventRecord]]]:
    """The same by lists and loops."""
    found = []
    for name in {row["request_id"] for row in rows}:
        mine = [row for row in rows if row["request_id"] == name]
        mine.sort(key=lambda row: (row["position"] is None, row["position"] or 0))
        first = mine[0]
        request = Request(
            name,
            first["user_id"],
            first["query"],
            first["request_ts_ms"],
            [row["item_id"] for row in mine],
            [-1 if row["position"] is None else row["position"] for row in mine],
            {"recall": [row["recall"] for row in mine], "device": first["device"]},
        )
        records = [record for event in EVENTS for row in mine for record in happened(event, row)]
        found.append((request, sorted(records, key=lambda record: record.ts_ms)))
    return sorted(found, key=lambda one: (one[0].ts_ms, one[0].request_id))


def happened(event: Event, row: Row) -> list[EventRecord]:
    ts = row[f"{event.name.removesuffix('s')}_ts_ms"]
    if ts is None:
        return []
    base = {name: row[name] for name in ("request_id", "user_id", "query", "item_id", "position")}
    own: list[dict[str, Any]] = [{"ts": ts}]
    if event is plays:
        own = play_reports({"ts": ts, **{k: row[k] for k in ("play_ms", "duration_ms")}})
    elif event is purchases:
        named = {name: row[name] for name in ("amount_cents", "coupon")}
        own = [{"ts": ts, **{name: value for name, value in named.items() if value is not None}}]
    return [EventRecord(event.name, one["ts"], {**base, **one}) for one in own]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(logs())
def test_every_format_reads_as_the_rows_plainly_say(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            assert everything(read(write(rows, Path(folder) / name))) == plainly(rows), name


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(logs(), st.randoms(use_true_random=False))
def test_without_request_ids_the_order_of_rows_changes_nothing(
    rows: list[Row], order: random.Random
) -> None:
    rows = rows + [dict(row) for row in rows[:2]]
    columns = [name for name in COLUMNS if name != "request_id"]
    with tempfile.TemporaryDirectory() as folder:
        before = read(write(rows, Path(folder) / "a.csv", columns))
        order.shuffle(rows)
        after = read(write(rows, Path(folder) / "b.parquet", columns))
        assert len(before) == len(rows)
        assert everything(before) == everything(after)


def plain_row(**changes: Any) -> Row:
    return {"user_id": "u", "item_id": "i", "request_ts_ms": 1_000, **changes}


SMALL = ["user_id", "item_id", "request_ts_ms"]


def test_rows_equal_in_user_item_and_time_are_requests_of_their_own(tmp_path: Path) -> None:
    log = read_log(write([plain_row()] * 3, tmp_path / "log.csv", SMALL), EVENTS)
    requests = log.requests(0, 2_000)
    assert len({one.request_id for one in requests}) == 3
    assert [one.positions for one in requests] == [[-1]] * 3
    assert [one.query for one in requests] == [""] * 3


def test_ids_that_look_like_numbers_stay_as_they_are(tmp_path: Path) -> None:
    rows = [plain_row(user_id="007", item_id="1e3")]
    (request,) = read_log(write(rows, tmp_path / "log.csv", SMALL), EVENTS).requests(0, 2_000)
    assert (request.user_id, list(request.candidates)) == ("007", ["1e3"])


def test_ids_may_be_whole_numbers_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"user_id": [7], "item_id": [8.0], "request_ts_ms": [1_000.0]})
    pq.write_table(table, tmp_path / "log.parquet")
    (request,) = read_log(tmp_path / "log.parquet", EVENTS).requests(0, 2_000)
    assert (request.user_id, list(request.candidates)) == ("7", ["8"])


def test_times_in_seconds_and_in_iso_text_become_milliseconds(tmp_path: Path) -> None:
    rows = [
        plain_row(request_ts_ms="1649581149.287", seen="2022-04-10 08:59:09.5"),
        plain_row(request_ts_ms="1649581150", seen="2022-04-10T10:59:10+02:00"),
    ]
    path = write(rows, tmp_path / "log.csv", [*SMALL, "seen"])
    mapping = {
        "request_ts_ms": FileColumn("request_ts_ms", "s"),
        "impression_ts_ms": FileColumn("seen", "iso"),
    }
    read_back = everything(read_log(path, EVENTS, mapping=mapping))
    assert [request.ts_ms for request, _ in read_back] == [1649581149287, 1649581150000]
    assert [records[0].ts_ms for _, records in read_back] == [1649581149500, 1649581150000]


def test_whole_numbers_that_pandas_wrote_as_floats_are_read(tmp_path: Path) -> None:
    rows = [plain_row(request_ts_ms="1649581149287.0", click_ts_ms="1.649581149288e12")]
    log = read_log(write(rows, tmp_path / "log.csv", [*SMALL, "click_ts_ms"]), EVENTS)
    ((request, records),) = everything(log)
    assert (request.ts_ms, records[0].ts_ms) == (1649581149287, 1649581149288)


def test_an_event_may_be_timed_under_its_own_name(tmp_path: Path) -> None:
    log = read_log(
        write([plain_row(clicks_ts_ms=5)], tmp_path / "l.csv", [*SMALL, "clicks_ts_ms"]), EVENTS
    )
    ((_, records),) = everything(log)
    assert [(one.event, one.ts_ms) for one in records] == [("clicks", 5)]


def test_the_next_request_is_found_from_any_time(tmp_path: Path) -> None:
    rows = [plain_row(request_ts_ms=ts) for ts in (50, 10, 30)]
    log = read_log(write(rows, tmp_path / "log.csv", SMALL), EVENTS)
    assert (log.start_ms, log.end_ms, len(log)) == (10, 50, 3)
    assert [log.next_request_ms(ts) for ts in (0, 10, 11, 50, 51)] == [10, 10, 30, 50, None]
    assert [one.ts_ms for one in log.requests(10, 50)] == [10, 30]


def test_a_request_of_another_log_has_no_outcomes_here(tmp_path: Path) -> None:
    log = read_log(write([plain_row()], tmp_path / "log.csv", SMALL), EVENTS)
    other = Request("x", "u", "", 1_000, ["i"], None, {})
    with pytest.raises(KeyError, match="'x' at 1000 is not of this log"):
        log.outcomes(other, [0])


def test_a_column_equal_to_the_label_is_not_used_unless_named(tmp_path: Path) -> None:
    rows = [plain_row(request_ts_ms=n, click_ts_ms=n if n % 2 else None) for n in range(10)]
    for row in rows:
        row["leak"] = 1.0 if row["click_ts_ms"] is not None else 0.0
    path = write(rows, tmp_path / "log.csv", [*SMALL, "click_ts_ms", "leak"])
    declared = [Context("leak", "item", float)]

    unnamed = read_log(path, EVENTS, declared_context=declared)
    assert all(not request.context for request in unnamed.requests(0, 10))
    assert unnamed.layout.unused == {"leak": "not named: most columns of a log are outcomes"}

    named = read_log(path, EVENTS, context=["leak"], declared_context=declared)
    assert [one.context for one in named.requests(0, 2)] == [{"leak": [0.0]}, {"leak": [1.0]}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"user_id": "v"},
            "row 3: user_id: 'v': expected 'u', as in row 2 of the same request 'r'",
        ),
        (
            {"request_ts_ms": 1_001},
            "row 3: request_ts_ms: 1001: expected 1000, as in row 2 of the same request 'r'",
        ),
    ],
)
def test_rows_of_one_request_must_agree(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rows = [plain_row(request_id="r"), plain_row(request_id="r", **changes)]
    path = write(rows, tmp_path / "log.csv", [*SMALL, "request_id"])
    with pytest.raises(InteractionLogError) as error:
        read_log(path, EVENTS)
    assert str(error.value) == f"log.csv {message}"

    log = read_log(path, EVENTS, on_error="skip")
    assert log.rows == 1
    (column,) = changes
    reason = f"{column}: differs between the rows of one request"
    assert log.problems.by_reason == {reason: 1}
