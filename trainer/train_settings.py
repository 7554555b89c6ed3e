"""How a trainer runs, as settings give it; no torch here."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Mode = Literal["live", "as_of"]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[trainer]``: order and batches decide the weights, the rest does not.

    Attributes:
        store: where checkpoints go: a directory, or a URL that fsspec knows.
        model: its name in the store; that of the application by default.
        mode: ``live`` learns each batch at once; ``as_of`` only when its labels could have been
            known, so that its metrics are those of a ranker in use (docs/training.md).
        batch_rows: rows of a mini-batch, which ends with a whole request.
        checkpoint_every: distance of checkpoints in event time; whole seconds.
        keep: newest versions that stay in the store.
        window_rows: rows that windowed metrics are of.
        max_bad_batches: batches with a loss that is not finite that may follow one another; one
            more, and training stops with an error.
        waiting_rows: rows in memory of partitions that run ahead of the others.
        threads: of torch; part of what decides the weights' bits.
        metrics_file: JSON written with each checkpoint; none where empty.
    """

    store: str = "checkpoints"
    model: str = ""
    mode: Mode = "live"
    batch_rows: Count = 512
    checkpoint_every: str = "10m"
    keep: Count = 5
    window_rows: Count = 50_000
    max_bad_batches: Annotated[int, msgspec.Meta(ge=0)] = 3
    waiting_rows: Count = 200_000
    threads: Count = 1
    metrics_file: str = ""
