"""The KuaiRand example writes a log of exposures, each a request of its own, without outcomes."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tenuto.drive.interactions import read_log
from tenuto.presets.video_events import events

EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand.py"
HEADER = (
    "user_id video_id date hourmin time_ms is_click is_follow is_comment is_forward long_view "
    "play_time_ms duration_ms comment_stay_time is_profile_enter label timestamp"
)
ROWS = [
    "111 3892024 20220410 1700 1649581149287 1 0 0 0 1 46186 45916 7639 0 1 x",
    "111 2629583 20220411 1600 1649664552983 1 0 1 0 0 14549 0 5045 0 0 x",
    "111 3892024 20220410 1700 1649581149287 0 0 0 0 0 0 45916 0 0 0 x",
    "112 2629583 20220411 1600 1649664552983 0 0 0 0 0 5148 0 0 0 1 x",
]


def converted(folder: Path, rows: list[str], name: str) -> Path:
    source, log = folder / f"{name}.tsv.gz", folder / f"{name}.parquet"
    text = "\n".join(line.replace(" ", "\t") for line in [HEADER, *rows]) + "\n"
    source.write_bytes(gzip.compress(text.encode()))
    subprocess.run([sys.executable, EXAMPLE, source, log], check=True, capture_output=True)
    return log


def test_each_exposure_is_a_request_of_its_own_with_its_events(tmp_path: Path) -> None:
    log = read_log(converted(tmp_path, ROWS, "log"), events)
    requests = log.requests(log.start_ms, log.end_ms + 1)
    assert len(requests) == len({one.request_id for one in requests}) == len(ROWS)
    assert all(one.positions == [-1] and one.query == "" for one in requests)
    happened = [[one.event for one in log.outcomes(request, [])] for request in requests]
    assert happened == [
        ["impressions"],
        ["impressions", "clicks", "plays", "likes", "plays", "plays"],
        ["impressions", "clicks", "plays", "plays"],
        ["impressions", "plays", "likes", "plays"],
    ]
    assert not log.layout.unused


def test_only_ids_times_and_play_lengths_are_kept(tmp_path: Path) -> None:
    names = pq.read_schema(converted(tmp_path, ROWS, "log")).names
    assert names == [
        *("request_id", "user_id", "query", "item_id"),
        *("request_ts_ms", "impression_ts_ms", "click_ts_ms", "play_ts_ms"),
        *("play_ms", "duration_ms", "like_ts_ms"),
    ]


def test_the_order_of_the_source_changes_nothing(tmp_path: Path) -> None:
    one = pq.read_table(converted(tmp_path, ROWS, "one"))
    assert one == pq.read_table(converted(tmp_path, ROWS[::-1], "other"))
