"""What a run shows while it runs: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

_EVERY_S, _LINE_EVERY_S = 0.25, 5.0


class LiveTable:
    """Shows a run's counts; a context manager.

    Args:
        speed: event time per wall time, to be told.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._live: Any = None
        self._shown_s = 0.0
        self._line_s = -_LINE_EVERY_S
        self._seen: tuple[float, int] | None = None
        self._rate = 0.0

    def __enter__(self) -> LiveTable:
        click.echo(
            f"a simulated day fills the windows, then event time runs up to {self._speed:g} times "
            "as fast as the clock"
        )
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the live table; what follows is printed below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, run: Any, simulation: Any) -> None:
        """Show how far a simulated run is, at most a few times a second."""
        counts = simulation.counts
        now = time.monotonic()
        if now - self._shown_s < _EVERY_S:
            return
        self._shown_s = now
        events = sum(counts.events.values())
        if self._seen is None:
            self._seen = (now, events)
        elif now - self._seen[0] >= 1.0:
            self._rate = (events - self._seen[1]) / (now - self._seen[0])
            self._seen = (now, events)
        rows = [*self._rows(run, counts), *_learning(run, simulation)]
        if self._live is not None:
            self._live.update(_table(rows))
        elif now - self._line_s >= _LINE_EVERY_S:
            self._line_s = now
            click.echo("  ".join(f"{name} {value}" for name, value in rows))

    def _rows(self, run: Any, counts: Any) -> list[tuple[str, str]]:
        recent = sorted(counts.freshness_ms[-500:]) or [0.0]
        p50, p99 = (recent[int(q * (len(recent) - 1))] for q in (0.5, 0.99))
        clock = datetime.fromtimestamp(counts.event_time_ms / 1000.0, UTC)
        return [
            ("event time", clock.strftime("%a %H:%M:%S")),
            ("events/s", f"{self._rate:,.0f}"),
            ("events", f"{sum(counts.events.values()):,}"),
            ("freshness p50/p99 ms", f"{p50:.0f}/{p99:.0f}"),
            ("snapshots", f"{counts.requests:,}"),
            ("samples", f"{run.total('tenuto_samples_total'):,}"),
            ("dead letters", f"{run.total('tenuto_dead_letters_total'):,}"),
            ("restarts", str(sum(run.workers.all_restarts().values()))),
        ]


def _learning(run: Any, simulation: Any) -> list[tuple[str, str]]:
    """How the ranker does; nothing where there is none."""
    live = simulation.ranker
    if live is None:
        return []
    quality = run.quality()
    shown = [
        (f"{task} AUC/NE", f"{found['auc']:.3f}/{found['ne']:.3f}")
        for task, found in quality.items()
    ]
    age_min = (simulation.counts.event_time_ms - live.trained_to_ms) / 60_000
    shown.append(
        ("checkpoint", f"{live.versions[-1]}, {age_min:.0f} min old" if live.versions else "-")
    )
    shown += [
        (f"click rate {policy}", f"{seen.click_rate:.4f}")
        for policy, seen in sorted(simulation.seen.items())
    ]
    return shown


def _table(rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    return table
