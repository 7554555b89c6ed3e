"""Speed of the video preset's ranker on one thread: learning rows, and scoring 200 candidates.

Seeded rows in memory, ten to a request, with the ids and values of a small world; nothing of Kafka
or files. Run ``python benchmarks/ranker.py``; ``--help`` lists what can be varied. Learning is
timed as the trainer does it live: each mini-batch is scored and learnt in one pass. A score starts
at the matrix that a read returns. On a machine that does other things too, look at processor time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from tenuto.features.matrix import Matrix, Stamp
from tenuto.features.schema import Column
from tenuto.presets.video import app
from tenuto.trainer.learner import Learner
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.ranker import Ranker
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--scores", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    fix(1)
    spec = app.model_spec(ModelSettings())
    learner, rows = Learner(spec), world(spec, args.rows, args.seed)
    batches = [rows.slice(s, s + args.batch) for s in range(0, args.rows, args.batch)]
    started = time.perf_counter(), time.thread_time()
    for number, batch in enumerate(batches):
        learner.learn_scored(batch, batch=number, newest_ts_ms=int(batch.request_ts_ms[-1]))
    waited_s, worked_s = time.perf_counter() - started[0], time.thread_time() - started[1]
    sizes = ", ".join(f"{table.name} {table.rows - 1}" for table in learner.tables)
    print(f"{len(spec.columns)} columns; ids with rows of their own: {sizes}")
    rates = f"{args.rows / waited_s:,.0f} rows/s, {args.rows / worked_s:,.0f} of processor time"
    print(f"learn: {rates}, in batches of {args.batch}")

    ranker = Ranker.load(spec, learner.serving_tensors(), learner.dictionary(), "benchmark")
    matrix = matrix_of(spec, world(spec, args.candidates, args.seed + 1))
    for clock in (time.perf_counter, time.thread_time):
        times = []
        for _ in range(args.scores):
            started = clock()
            ranker.score(matrix)
            times.append(clock() - started)
        p50, p99 = np.percentile(times[args.scores // 10 :], [50, 99]) * 1e3
        kind = "of processor time" if clock is time.thread_time else "as waited for"
        print(f"score: {args.candidates} candidates: p50 {p50:.2f} ms, p99 {p99:.2f} ms {kind}")


if __name__ == "__main__":
    main()
