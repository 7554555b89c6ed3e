"""The plots of docs/benchmarks.md: which figures of a benchmark are drawn, and drawing them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import OURS, Result

_OURS_COLOUR, _PEERS_COLOUR = "#1b6ca8", "#b8b8b8"


@dataclass(frozen=True)
class Plot:
    """Bars, one for each side; of several metrics, stacked.

    Attributes:
        name: of the file, after the benchmark's.
        axis: what is drawn, with its unit.
        metrics: by name, what a legend says of them.
        sides: which ones, a pattern; its groups are what a bar is called, where there are any.
        log: whether the axis is logarithmic.
    """

    name: str
    axis: str
    metrics: Mapping[str, str]
    sides: str = ".*"
    log: bool = False

    def rows(self, result: Result) -> dict[str, list[float]]:
        """Medians of the metrics, by what a bar is called; of sides that have all of them."""
        found = {}
        for side, own in result.sides.items():
            match = re.fullmatch(self.sides, side)
            if match and all(metric in own for metric in self.metrics):
                called = ", ".join(match.groups()) or side
                found[called] = [statistics.median(own[metric]) for metric in self.metrics]
        return found


def _one(metric: str, axis: str, sides: str = ".*", *, log: bool = False) -> Plot:
    return Plot(metric.replace("_", "-"), axis, {metric: ""}, sides, log)


PLOTS: dict[str, tuple[Plot, ...]] = {
    "ingest": (
        _one(
            "events_per_s", "events a second, one count of items and users", "(?!preset).*",
            log=True,
        ),
    ),
    "freshness": (
        _one("p50_ms", "milliseconds from event to readable, median", log=True),
        _one("p99_ms", "milliseconds from event to readable, 99th percentile", log=True),
    ),
    "read": (
        _one(
            "p50_ms", "milliseconds to read 200 candidates, median, one client",
            "small, (idle|half), 200 × 1: (.*)", log=True,
        ),
        _one(
            "requests_per_s", "reads of 200 candidates a second, 16 clients",
            "small, (idle|half), 200 × 16: (.*)", log=True,
        ),
    ),
    "join": (_one("impressions_per_s", "impressions a second"),),
    "samples": (_one("rows_per_s", "rows a second"),),
    "train": (_one("rows_per_s", "rows a second"),),
    "score": (_one("requests_per_s", "requests scored a second; candidates × threads"),),
    "checkpoint": (_one("answers_after_ms", "milliseconds from publish to an answer with it"),),
    "growth": (
        Plot(
            "cost", "microseconds of a core for an event",
            {"worker_cpu_us_per_event": "worker", "redis_cpu_us_per_event": "Redis"},
        ),
    ),
    "loop": (
        Plot(
            "cost", "milliseconds of a core for a request",
            {
                f"{name}_cpu_ms": called
                for name, called in {
                    "clients": "clients", "features": "feature worker", "join": "joiner",
                    "sink": "sink", "train": "trainer", "broker": "broker", "redis": "Redis",
                }.items()
            },
        ),
    ),
}  # fmt: skip
"""By benchmark, in the order of the page."""


def draw(result: Result, plot: Plot, folder: Path, number: Callable[[float], str]) -> Path | None:
    """Write one plot as SVG; None where the result has nothing of it.

    Args:
        number: a figure as it stands beside its bar.
    """
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file: no date, no random ids.
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    from matplotlib import pyplot

    rows = plot.rows(result)
    if not rows:
        return None
    # The first is to be on top.
    called = list(rows)[::-1]
    figure, axes = pyplot.subplots(figsize=(7.0, 0.8 + 0.3 * len(rows)), layout="constrained")
    left = [0.0] * len(rows)
    several = len(plot.metrics) > 1
    for at, text in enumerate(plot.metrics.values()):
        widths = [rows[side][at] for side in called]
        colours = [_OURS_COLOUR if OURS in side else _PEERS_COLOUR for side in called]
        bars = axes.barh(
            called, widths, left=left if several else None, log=plot.log, label=text,
            color=None if several else colours,
        )  # fmt: skip
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.bar_label(bars, [number(whole) for whole in left], padding=3)
    axes.set_xlabel(plot.axis)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    if several:
        figure.legend(loc="outside upper center", ncols=min(4, len(plot.metrics)), frameon=False)
    folder.mkdir(exist_ok=True)
    path = folder / f"{result.name}-{plot.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
