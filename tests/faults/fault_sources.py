"""What a schedule is driven by: a small simulated world, or a slice of an interaction log."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tenuto.drive.interactions import InteractionLog, read_log
from tenuto.drive.simulator import Simulator
from tenuto.drive.world import SimulatorSettings
from tenuto.platform import Platform

MINUTE_MS = 60_000
ROWS = 300
_EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand.py"


def world(seed: int) -> Simulator:
    """Some minutes of a few users."""
    return Simulator(
        SimulatorSettings(
            users=30,
            items=200,
            topics=5,
            queries=8,
            duration_ms=7 * MINUTE_MS,
            requests_per_s=0.35,
            preroll_ms=20 * MINUTE_MS,
            preroll_requests_per_s=0.06,
            seed=seed,
        )
    )


def interaction_log(
    platform: Platform, path: Path | None, folder: Path, seed: int
) -> tuple[InteractionLog, str]:
    """A slice of the log at ``path``, KuaiRand's own or one that ``tenuto replay`` reads; without
    it, one made from the simulator. Returns what it is too."""
    if path is None:
        made = folder / "own.csv"
        _write_own(made, seed)
        return read_log(made, platform.events), "own log"
    if path.suffix != ".parquet":
        converted = folder / "converted.parquet"
        command = [sys.executable, str(_EXAMPLE), str(path), str(converted)]
        subprocess.run(command, check=True, capture_output=True)
        path = converted
    table = pq.read_table(path).sort_by("request_ts_ms")
    first = random.Random(seed).randrange(max(1, len(table) - ROWS))
    part = folder / "slice.parquet"
    pq.write_table(table.slice(first, ROWS), part)
    return read_log(part, platform.events), f"rows {first} to {first + ROWS}"


def _write_own(path: Path, seed: int) -> None:
    simulator = world(seed)
    with path.open("w", newline="") as file:
        names = [
            "request_id", "user_id", "query", "item_id", "position", "request_ts_ms",
            "impression_ts_ms", "click_ts_ms", "like_ts_ms", "play_ts_ms", "play_ms", "duration_ms",
        ]  # fmt: skip
        rows = csv.DictWriter(file, names)
        rows.writeheader()
        for request in simulator.requests(simulator.start_ms, simulator.end_ms + 1):
            shown = simulator.shuffled(request)[:10]
            found: dict[str, dict[str, int]] = {}
            for event in simulator.outcomes(request, shown):
                own = found.setdefault(event.fields["item_id"], {})
                name = event.event.rstrip("s")
                if name == "play":
                    own.setdefault("play_ts_ms", event.fields["started_ts"])
                    own["play_ms"] = event.fields["play_ms"]
                    own["duration_ms"] = event.fields["duration_ms"]
                else:
                    own[f"{name}_ts_ms"] = event.ts_ms
            for position, index in enumerate(shown):
                item = request.candidates[index]
                base = {
                    "request_id": request.request_id, "user_id": request.user_id,
                    "query": request.query, "item_id": item, "position": position,
                    "request_ts_ms": request.ts_ms,
                }  # fmt: skip
                rows.writerow({**base, **found.get(item, {})})
