"""An entity's report as text."""

from __future__ import annotations

from collections.abc import Iterator

from tenuto.features.durations import duration_text
from tenuto.features.progress import UNKNOWN_ARRIVAL
from tenuto.inspection.entities import EntityReport, StreamReport, ViewReport
from tenuto.inspection.text import moment, span, table


def entity_lines(report: EntityReport) -> Iterator[str]:
    """Lines for a terminal."""
    yield f"as of {moment(report.as_of_ms)} ({report.as_of_origin}), layout {report.layout}"
    for view in report.views:
        yield ""
        yield from _view_lines(view)
    yield ""
    yield "streams behind it"
    header = ("stream", "entered", "slowest", "behind as_of", "rebuilding", "log joined at")
    yield from table(header, [_stream_row(stream) for stream in report.streams])


def _view_lines(view: ViewReport) -> Iterator[str]:
    ids = ", ".join(f"{field} {value!r}" for field, value in view.key.items())
    yield f"{view.entity}{' ' if ids else ''}{ids}"
    yield f"  redis key    {view.redis_key}  ({view.bytes} bytes)"
    sight = moment(view.first_seen_ms) if view.seen else "not in the longest window"
    yield f"  first sight  {sight}"
    yield ""
    counters = list(dict.fromkeys(name for window in view.windows for name in window.sums))
    rows = [
        [w.window, duration_text(w.tile_ms), moment(w.newest_tile_ms)]
        + [w.sums.get(name) for name in counters]
        for w in view.windows
    ]
    yield from table(["window", "tile", "newest tile", *counters], rows)
    for window in view.windows:
        for name, parts in window.buckets.items():
            yield f"  {name} over {window.window} by position bucket: {' '.join(map(str, parts))}"
    if view.features:
        yield ""
        yield from table(
            ("feature", "value", "state"), [(f.name, f.value, f.state) for f in view.features]
        )


def _stream_row(stream: StreamReport) -> tuple[str, ...]:
    rebuilding = ", ".join(f"[{number}]" for number in stream.rebuilding[:8])
    more = len(stream.rebuilding) - 8
    return (
        stream.topic,
        f"{stream.entered}/{stream.count}",
        "" if stream.slowest is None else f"[{stream.slowest}]",
        "" if stream.behind_ms is None else span(stream.behind_ms),
        f"{rebuilding} and {more} more" if more > 0 else rebuilding or "no",
        _joined(stream.joined_ms),
    )


def _joined(joined_ms: int) -> str:
    if joined_ms == UNKNOWN_ARRIVAL:
        return "unknown until a record comes"
    return moment(joined_ms) if joined_ms else "its start"
