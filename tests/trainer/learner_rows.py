"""Seeded rows and a small model's spec for the tests of the learner and the ranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.schema import Column
from tenuto.trainer.learner import Learner
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.rows import Rows
from tenuto.trainer.spec import Head, InputColumn, ModelSpec, Transform

EPOCH_MS = 1_700_000_000_000
HEADS = (
    Head("ctr", "clicked", None, "", 1.0, 0.1),
    Head("cvr", "converted", "ctr", "ctcvr", 1.0, 0.3),
)
COLUMNS = (
    InputColumn("item_ctr", "h1", Transform("log", 0.01, 1.0)),
    InputColumn("balance", "h2", Transform("signed", 0.1, 1e4)),
    InputColumn("hour", "h3", Transform("linear", 1.5)),
    InputColumn("device", "h4", Transform("linear", 1.0), "position"),
)
SMALL = ModelSettings(
    experts=2, expert_hidden=8, expert_size=6, tower_size=5, id_size=4, buckets=8, bucket_size=3
)


def spec_of(columns: Sequence[InputColumn] = COLUMNS, **changed: Any) -> ModelSpec:
    """A click and a conversion head."""
    settings = msgspec.structs.replace(SMALL, **changed)
    return ModelSpec(tuple(columns), ("user", "query", "item"), HEADS, settings)


def rows_of(spec: ModelSpec, seed: int, n: int = 64, **changed: Any) -> Rows:
    """``n`` rows, some unseen, some of missing values and positions; columns are named by seed."""
    draw = np.random.default_rng(seed)
    known = {"item_ctr": draw.beta(1, 9, n), "balance": draw.normal(0, 100, n)}
    known |= {"hour": draw.integers(0, 24, n), "device": draw.integers(0, 3, n)}
    values = np.zeros((n, len(spec.columns)), np.float32)
    for index, column in enumerate(spec.columns):
        values[:, index] = known.get(column.name, draw.random(n))
    values[draw.random(values.shape) < 0.1] = np.nan
    position = draw.integers(-1, 12, n).astype(np.int32)
    chance = np.where(position == 0, 0.6, 0.2)
    clicked = draw.random(n) < chance
    parts: dict[str, Any] = {
        "partition": np.zeros(n, np.int32),
        "offset": np.arange(n) // 8 + seed * n,
        "item_index": (np.arange(n) % 8).astype(np.int32),
        "arrival_ms": np.full(n, EPOCH_MS + seed, np.int64),
        "request_ts_ms": EPOCH_MS + np.sort(draw.integers(0, 60_000, n)),
        "values": values,
        "ids": {
            "user": pa.array([f"u{one}" for one in draw.integers(0, 9, n)]),
            "query": pa.array([f"q{one}" for one in draw.integers(0, 3, n)]),
            "item": pa.array([f"i{one}" for one in draw.integers(0, 40, n)]),
        },
        "position": position,
        "labels": np.stack([clicked, draw.random(n) < 0.5], 1).astype(np.uint8),
        "impressed": (draw.random(n) < 0.8).astype(np.uint8),
        "weight": draw.uniform(0.5, 2.0, n).astype(np.float32),
        "served": {},
    }
    return Rows(**{**parts, **changed})


def taught(
    spec: ModelSpec, batches: int, *, first: int = 0, learner: Learner | None = None
) -> Learner:
    """A learner after some batches, fresh ones or further ones."""
    learner = learner or Learner(spec)
    for batch in range(first, first + batches):
        learner.learn(rows_of(spec, batch), batch=batch, newest_ts_ms=EPOCH_MS + 60_000)
    return learner


def tensors_of(learner: Learner) -> dict[str, np.ndarray[Any, Any]]:
    """All of its tensors, copied."""
    found = {**learner.serving_tensors(), **learner.training_tensors()}
    return {name: tensor.numpy().copy() for name, tensor in found.items()}


def matrix_of(spec: ModelSpec, rows: Rows) -> Matrix:
    """Rows as if they were the candidates of one request; user and query of the first."""
    columns = tuple(Column(c.name, c.hash) for c in spec.columns)
    stamp = Stamp((), np.zeros((0, 1)))
    states = np.zeros(rows.values.shape, np.uint8)
    return Matrix(
        items=rows.ids["item"].to_pylist(),
        columns=columns,
        values=rows.values,
        states=states,
        as_of_ms=EPOCH_MS,
        stamp=stamp,
        layout="",
        context={},
        user_id=rows.ids["user"][0].as_py(),
        query=rows.ids["query"][0].as_py(),
    )
