"""The metrics file: where a trainer stands and how good it is, as JSON for whoever waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tenuto.snapshot.durable import make_directory, write_durably
from tenuto.trainer.resume import TrainerState


def write_report(
    path: Path, model: str, version: str, state: TrainerState, *, final: bool = False
) -> None:
    """Replace the file at ``path``.

    Metrics are ``metrics[kind][probability][span][name]``, null where they are not defined.

    Args:
        path: of the file.
        model, version: what was published last.
        state: of the trainer.
        final: with the intervals of ``as_of`` metrics, which cost some passes over all rows.

    Raises:
        OSError: it cannot be written.
    """
    progress = state.progress
    figures: dict[str, Any] = {
        "model": model,
        "version": version,
        "mode": progress.mode,
        "front_ms": progress.front_ms,
        "ended": progress.ended,
        "batches": progress.batches,
        "bad_batches": progress.bad_batches,
        "rows": progress.rows,
        "seen_rows": progress.seen_rows,
        "unattributed": progress.unattributed,
        "metrics": state.scoreboard.values(),
    }
    if final:
        figures["intervals"] = state.scoreboard.intervals()
    make_directory(path.parent)
    write_durably(path, orjson.dumps(figures, option=orjson.OPT_INDENT_2))
