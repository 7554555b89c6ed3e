"""A delay line's records tell how far time is, also while snapshots wait."""

from __future__ import annotations

import numpy as np
import pytest

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.progress import PROGRESS_DTYPE
from tenuto.features.reader import Request
from tenuto.features.rules import TimeRules
from tenuto.features.schema import Column
from tenuto.presets import video
from tenuto.snapshot import record
from tenuto.snapshot.delay_line import DelayLine
from tenuto.snapshot.samples import PlacedSnapshot

RULES = TimeRules()
STREAM = video.samples[0]
HORIZON_MS = STREAM.horizon_ms(RULES.lateness_ms)
T = 1_700_000_000_000


def snapshot_at(offset: int, ts_ms: int) -> PlacedSnapshot:
    """A snapshot of one item and no feature, that arrived when it was asked."""
    nothing = np.zeros((1, 0), np.float32)
    stamp = Stamp((), np.zeros((0, 1), PROGRESS_DTYPE))
    matrix = Matrix(
        ["i"], (), nothing, nothing.astype(np.uint8), ts_ms, stamp, "0" * 16, {}, "u", "q"
    )
    taken = record.of(Request(f"r{offset}", "u", "q", ts_ms), matrix)
    return PlacedSnapshot(taken, offset, ts_ms)


@pytest.fixture
def line() -> DelayLine:
    return DelayLine(STREAM, video.events, RULES, 0, 0, 0)


def labels_read_to(line: DelayLine, arrival_ms: int) -> None:
    for front in line.labels.values():
        front.arrival_ms = arrival_ms


def test_a_record_tells_the_arrival_of_the_first_snapshot_that_waits(line: DelayLine) -> None:
    placed = [snapshot_at(0, T), snapshot_at(3, T + 60_000)]
    line.add_snapshots(placed, 4, T + 60_000)
    labels_read_to(line, T + HORIZON_MS + 1)
    (emission,) = line.emit()
    assert emission.rows is not None
    assert (emission.interval.start, emission.interval.end) == (0, 3)
    assert emission.interval.arrival_ms == T + 60_000
    assert line.progress() is None, "there is no more to tell"


def test_after_a_silence_progress_is_told_though_a_snapshot_waits(line: DelayLine) -> None:
    line.add_snapshots([], 5, T)
    idle = line.progress()
    assert idle is not None
    assert (idle.interval.end, idle.interval.arrival_ms) == (5, T)
    line.told(idle)
    line.add_snapshots([snapshot_at(7, T + 90_000)], 8, T + 90_000)
    told = line.progress()
    assert told is not None
    assert (told.interval.start, told.interval.end) == (5, 7)
    assert told.interval.arrival_ms == T + 90_000
    assert not told.interval.is_end
    line.told(told)
    assert line.progress() is None
    labels_read_to(line, T + 90_000 + HORIZON_MS + 1)
    (emission,) = line.emit()
    assert (emission.interval.start, emission.interval.end) == (7, 8)


def test_a_snapshot_is_final_only_after_its_horizon(line: DelayLine) -> None:
    line.add_snapshots([snapshot_at(0, T)], 1, T)
    labels_read_to(line, T + HORIZON_MS)
    assert list(line.emit()) == []
    labels_read_to(line, T + HORIZON_MS + 1)
    assert len(list(line.emit())) == 1


def test_labels_are_read_no_further_than_the_next_snapshot_can_need_though_none_comes(
    line: DelayLine,
) -> None:
    line.add_snapshots([], 5, T)
    labels_read_to(line, T + HORIZON_MS)
    assert not line.ahead("plays", 0)
    labels_read_to(line, T + HORIZON_MS + 1)
    assert line.ahead("plays", 0)
    assert not line.ahead("plays", 1)
    line.add_snapshots([snapshot_at(5, T + 60_000)], 6, T + 60_000)
    assert not line.ahead("plays", 0)


def test_a_snapshot_waits_without_its_log_positions_and_shares_its_columns(
    line: DelayLine,
) -> None:
    placed = [snapshot_at(offset, T) for offset in (0, 1)]
    for one in placed:
        assert one.snapshot.log.partitions == 1
        one.snapshot.columns.append(("ctr", "0" * 16))
    line.add_snapshots(placed, 2, T)
    first, second = (one.snapshot for one in line.waiting)
    assert first.log.partitions == 0
    assert second.columns is first.columns
    assert second.columns == placed[1].snapshot.columns


def test_a_feature_from_before_there_was_a_label_of_its_name_is_left_out(line: DelayLine) -> None:
    columns = (Column("clicked", "0" * 16), Column("age", "1" * 16))
    values = np.array([[7.0, 8.0]], np.float32)
    stamp = Stamp((), np.zeros((0, 1), PROGRESS_DTYPE))
    matrix = Matrix(
        ["i"], columns, values, values.astype(np.uint8), T, stamp, "0" * 16, {}, "u", "q"
    )
    taken = record.of(Request("r", "u", "q", T), matrix)
    line.add_snapshots([PlacedSnapshot(taken, 0, T)], 1, T)
    labels_read_to(line, T + HORIZON_MS + 1)
    (emission,) = line.emit()
    assert emission.rows is not None
    names = emission.rows.schema.names
    assert len(set(names)) == len(names)
    (row,) = emission.rows.to_pylist()
    assert (row["clicked"], row["age"], row["age__state"]) == (0, 8.0, 8)
    assert "clicked__state" not in names
