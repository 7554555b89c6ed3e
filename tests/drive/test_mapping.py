"""Which column is read as what, and what a mapping that does not fit is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenuto.drive.mapping import FileColumn, InteractionLogError, log_layout, read_map
from tenuto.features.feature import Context
from tenuto.presets.video_events import events

HEADER = ["user_id", "item_id", "request_ts_ms"]


def test_a_mapping_names_columns_and_units(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[columns]\nuser_id = "uid"\nrequest_ts_ms = { from = "t", unit = "s" }\n')
    assert read_map(path) == {
        "user_id": FileColumn("uid", "ms"),
        "request_ts_ms": FileColumn("t", "s"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mapping has one table, [columns]"),
        ("[columns]\n[units]\n", "a mapping has one table, [columns], not [units]"),
        ("[columns]\na = 3", 'columns.a: write "column" or { from = "column", unit = "ms" }'),
        ('[columns]\na = {from = "b", unit = "h"}', "columns.a: unit 'h' is not one of ms, s, iso"),
        (
            '[columns]\na = {from = "b", units = "s"}',
            "columns.a: unknown key 'units'; known: from, unit",
        ),
    ],
)
def test_a_mapping_that_is_none_says_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(InteractionLogError) as error:
        read_map(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_mapping_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InteractionLogError, match=r"map\.toml: .*No such file"):
        read_map(tmp_path / "map.toml")


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            HEADER,
            {"mapping": {"user_id": FileColumn("uid")}},
            "user_id is mapped to column 'uid', which the file lacks; "
            "it has: user_id, item_id, request_ts_ms",
        ),
        (
            HEADER,
            {"mapping": {"user_id": FileColumn("item_id", "s")}},
            "user_id is not a time: it cannot have unit 's'",
        ),
        (
            [*HEADER, "click_ts_ms", "clicks_ts_ms"],
            {},
            "columns click_ts_ms and clicks_ts_ms both time clicks",
        ),
        (
            HEADER,
            {"context": ["recall"], "declared_context": [Context("device")]},
            "context 'recall' is not declared; declared: device",
        ),
        (
            HEADER,
            {"context": ["recall"], "declared_context": [Context("recall")]},
            "context 'recall': the file has no such column; it has: user_id, item_id, "
            "request_ts_ms",
        ),
        (
            [*HEADER, "click_ts_ms"],
            {"context": ["click_ts_ms"], "declared_context": [Context("click_ts_ms")]},
            "context 'click_ts_ms': the log's own column, never a context",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    header: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InteractionLogError) as error:
        log_layout(header, events, **options)
    assert str(error.value) == message


def test_a_mapped_name_that_nothing_reads_is_refused() -> None:
    with pytest.raises(InteractionLogError, match="'usr_id' is mapped, but nothing reads it"):
        log_layout(HEADER, events, mapping={"usr_id": FileColumn("user_id")})


def test_every_column_left_out_has_its_reason() -> None:
    header = [*HEADER, "uid", "play_ms", "is_click"]
    layout = log_layout(header, events, mapping={"user_id": FileColumn("uid")})
    assert layout.unused == {
        "user_id": "user_id is read from uid",
        "play_ms": "the log has no time of plays",
        "is_click": "not named: most columns of a log are outcomes",
    }
