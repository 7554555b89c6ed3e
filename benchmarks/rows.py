"""Seeded rows in memory, ten to a request, with the ids and values of a small world.

For what is measured without Kafka: a model that has learnt something, and a request's matrix.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.schema import Column
from tenuto.trainer.learner import Learner
from tenuto.trainer.rows import Rows
from tenuto.trainer.spec import ModelSpec

EPOCH_MS = 1_704_067_200_000
SHOWN = 10


def world(spec: ModelSpec, rows: int, seed: int) -> Rows:
    """Rows of requests of one user and query each; a tenth of the values are missing."""
    draw = np.random.default_rng(seed)
    requests = -(-rows // SHOWN)
    of_row = np.repeat(np.arange(requests), SHOWN)[:rows]
    values = draw.lognormal(1.0, 2.0, (rows, len(spec.columns))).astype(np.float32)
    values[draw.random(values.shape) < 0.1] = np.nan
    clicked = draw.random(rows) < 0.1

    def ids(name: str, numbers: np.ndarray) -> pa.Array:
        return pa.array([f"{name}-{number:08d}" for number in numbers])

    return Rows(
        partition=np.zeros(rows, np.int32),
        offset=of_row.astype(np.int64),
        item_index=(np.arange(rows) % SHOWN).astype(np.int32),
        arrival_ms=EPOCH_MS + of_row * 10,
        request_ts_ms=EPOCH_MS + of_row * 10,
        values=values,
        ids={
            "user": ids("user", draw.zipf(1.3, requests)[of_row] % 20_000),
            "query": ids("query", draw.zipf(1.5, requests)[of_row] % 500),
            "item": ids("item", draw.zipf(1.2, rows) % 50_000),
        },
        position=(np.arange(rows) % SHOWN).astype(np.int32),
        labels=np.stack([clicked, clicked & (draw.random(rows) < 0.5)], 1).astype(np.uint8),
        impressed=np.ones(rows, np.uint8),
        weight=np.ones(rows, np.float32),
        served={},
    )


def learnt(spec: ModelSpec, rows: int, seed: int = 0, batch: int = 512) -> Learner:
    """A learner that has learnt a world."""
    learner, found = Learner(spec), world(spec, rows, seed)
    for number, start in enumerate(range(0, rows, batch)):
        part = found.slice(start, min(start + batch, rows))
        learner.learn(part, batch=number, newest_ts_ms=int(part.request_ts_ms[-1]))
    return learner


def matrix_of(spec: ModelSpec, rows: Rows) -> Matrix:
    """Rows as the candidates of one request."""
    return Matrix(
        items=rows.ids["item"].to_pylist(),
        columns=tuple(Column(c.name, c.hash) for c in spec.columns),
        values=rows.values,
        states=np.zeros(rows.values.shape, np.uint8),
        as_of_ms=EPOCH_MS,
        stamp=Stamp((), np.zeros((0, 1))),
        layout="",
        context={},
        user_id=rows.ids["user"][0].as_py(),
        query=rows.ids["query"][0].as_py(),
    )
