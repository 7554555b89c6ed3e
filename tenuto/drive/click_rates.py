"""What the ranker was worth: click rates of the slices of a run's traffic, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tenuto.drive.simulation import RANKER
from tenuto.snapshot.dataset import Samples
from tenuto.trainer.metrics.lift import lift

_COLUMNS = ["user_id", "request_ts_ms", "impressed", "clicked", "policy", "slice"]


def click_rates(samples: Path) -> dict[str, Any]:
    """Click rate by slice of the traffic, and the ranker's lift over the others.

    Only requests from the first that the ranker ordered on count, so that the slices are of the
    same time. Intervals are a bootstrap by user, 95 %.

    Returns:
        ``ctr_ranker``, ``ctr_smoothed`` and ``ctr_random`` (clicks per impression, None without
        any) with their requests ``n_…``; ``lift``, ``lift_low``, ``lift_high`` over random, and
        ``lift_over_smoothed…``.
    """
    table = Samples(samples).table([*_COLUMNS, "request_id"])
    policy, share, users, requests = (
        np.asarray(table.column(name).to_pylist(), object)
        for name in ("policy", "slice", "user_id", "request_id")
    )
    ts_ms = table.column("request_ts_ms").to_numpy()
    ranked = policy == RANKER
    counted = table.column("impressed").to_numpy() == 1
    counted &= ts_ms >= (ts_ms[ranked].min() if ranked.any() else np.iinfo(np.int64).max)
    clicked = table.column("clicked").to_numpy().astype(np.float64)
    slices = {
        "ranker": counted & ranked,
        "smoothed": counted & (share == "smoothed_ctr"),
        "random": counted & (share == "shuffle"),
    }
    found: dict[str, Any] = {}
    for name, rows in slices.items():
        found[f"ctr_{name}"] = float(clicked[rows].mean()) if rows.any() else None
        found[f"n_{name}"] = len(set(requests[rows]))
    users = np.unique(users.astype(str), return_inverse=True)[1]
    for other, key in (("random", "lift"), ("smoothed", "lift_over_smoothed")):
        rows = slices["ranker"] | slices[other]
        estimate = lift(clicked[rows], users[rows], slices["ranker"][rows], slices[other][rows])
        values = estimate.value, estimate.low, estimate.high
        for suffix, value in zip(("", "_low", "_high"), values, strict=True):
            found[key + suffix] = float(value) if np.isfinite(value) else None
    return found
