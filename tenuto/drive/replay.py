"""A replay: an interaction log through the real components, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tenuto.drive.driver import Counts
from tenuto.drive.interactions import InteractionLog
from tenuto.drive.run import Run, RunOptions, figures


def replay(
    log: InteractionLog,
    options: RunOptions,
    on_boundary: Callable[[Run, Counts], None] = lambda run, counts: None,
) -> dict[str, Any]:
    """Run a log and leave its samples in ``options.out_dir``; learn along where options say so.

    Args:
        log: requests and what came of them.
        options: of the run.
        on_boundary: called after each boundary; a crash test kills workers in it.

    Returns:
        Figures, as written to the JSON file; under ``audit`` the findings, where it was asked for.
    """
    started = time.monotonic()
    with Run(options) as run:
        driver = run.driver(log)
        with run.interrupts:
            counts = driver.run(lambda counts: on_boundary(run, counts))
        run.wait_for_samples()
        learnt = run.wait_for_training() if options.training is not None else {}
        workers = run.workers.all_restarts()
        letters = run.dead_letters()
        judged = run.audit()
    return {
        **figures(counts, started),
        "samples_dirs": {
            stream.name: str(options.samples_dir(stream.name))
            for stream in options.platform.samples
        },
        "dead_letters": sum(letters.values()),
        "dead_letters_by_reason": letters,
        "skipped_rows": dict(log.problems.by_reason),
        "restarts": workers,
        **learnt,
        **judged,
    }
