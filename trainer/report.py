"""The metrics file: where a trainer stands and how good it is, as JSON for whoever waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tenuto.snapshot.durable import make_directory, write_durably
from tenuto.trainer.progress import Progress


def write_report(
    path: Path, model: str, version: str, progress: Progress, metrics: Any, intervals: Any = None
) -> None:
    """Replace the file at ``path``.

    Args:
        path: of the file.
        model, version: what was published last.
        progress: of the trainer.
        metrics: ``[kind][probability][span][name]``, null where they are not defined.
        intervals: of ``as_of`` metrics, ``[probability][name]``, at the end of a replay.

    Raises:
        OSError: it cannot be written.
    """
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
        "metrics": metrics,
    }
    if intervals is not None:
        figures["intervals"] = intervals
    make_directory(path.parent)
    write_durably(path, orjson.dumps(figures, option=orjson.OPT_INDENT_2))
