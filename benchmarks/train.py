"""Training: one pass over samples by our trainer, and by torch-rechub's MMoE.

Ours takes them from Kafka, or, to see what that costs, from memory; beside it its learner alone.
torch-rechub learns by its own trainer and DataLoader, and in the barest loop around its model.

The samples are of a made-up world with a teacher: clicks follow from some columns, from the item
and from the position, conversions from others, so that an AUC says whether something was learnt.
Every side has four experts of 64 and 32, towers of 32, embeddings of 8 for columns and of 16 for
ids (torch-rechub: 8), mini-batches of 512 rows and one thread; each row is judged before it is
learnt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import tenuto
from benchmarks import environments
from benchmarks.deployment import ROOT, Deployment, stack_kind
from benchmarks.harness import OURS, Bench, Figures
from benchmarks.world import SHOWN, Chosen, World, snapshots, values
from tenuto import local
from tenuto.presets import video
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.rows import Rows, concat, learnt_label, rows_of

TITLE = "Training: one pass over the samples"
BATCH, THREADS = 512, 1


def run(bench: Bench) -> None:
    """All sides over the very same rows."""
    kind = stack_kind()
    world = World(bench.size(400_000, 40_000), per_s=200, items=5_000, users=20_000, queries=500)
    with local.start(kind) as stack, tempfile.TemporaryDirectory() as folder:
        ours = Deployment(stack, "small", partitions=1)
        rows = _samples(ours, world)
        files = Path(folder) / "rows.npz"
        _export(rows, files)
        sides = {
            f"{OURS}, Kafka": partial(_ours, bench, ours, "kafka", len(rows)),
            f"{OURS}, memory": partial(_ours, bench, ours, "memory", len(rows)),
            f"{OURS}, learner alone": partial(_ours, bench, ours, "learner", len(rows)),
            "torch-rechub": partial(_rechub, bench, files, len(rows), "trainer"),
            "torch-rechub, bare loop": partial(_rechub, bench, files, len(rows), "bare"),
        }
        bench.interleave(sides)
    bench.delivers(OURS, "deterministic weights, metrics, checkpoints each ten minutes of events")
    bench.delivers(f"{OURS}, learner alone", "weights; rows in memory as one array")
    for side in ("torch-rechub", "torch-rechub, bare loop"):
        bench.delivers(side, "weights; rows in memory, ids numbered and columns cut before")
    kafka = f"{OURS}, Kafka"
    in_memory = bench.ratio("rows_per_s", f"{OURS}, memory", kafka)
    bench.at_least("from Kafka ≥ 90 % of in-memory speed", in_memory, 0.9)
    rechub = bench.ratio("rows_per_s", "torch-rechub", kafka)
    bench.at_least("≥ 3× torch-rechub's MMoE and trainer", rechub, 3.0)
    bare = bench.ratio("rows_per_s", "torch-rechub, bare loop", kafka)
    bench.at_least("≥ 3× torch-rechub's MMoE without its trainer", bare, 3.0)
    for task in ("ctr", "ctcvr"):
        mine = bench.result.median(kafka, f"auc_{task}")
        theirs = bench.result.median("torch-rechub, bare loop", f"auc_{task}")
        if mine is not None and theirs is not None:
            bench.at_least(f"AUC of {task} no worse than torch-rechub's", mine - theirs, 0.0)


def _samples(ours: Deployment, world: World) -> Rows:
    """A samples topic of the world, made by a joiner; and what it holds."""
    columns, requests = ours.features.columns, round(world.events / (SHOWN * 1.25))
    saw = values(requests, len(columns), world.seed)
    log = world.log(_taught(world, saw))
    ours.publish(log.records | {"snapshots": snapshots(log, ours.features, 1, saw)})
    ours.end(log.last_ts_ms)
    ours.join(len(log.ts_ms))
    spec = ours.platform.model_spec(ModelSettings(), ours.settings.time.rules())
    topic = tenuto.Samples(topic=ours.samples_topic, bootstrap=ours.stack.bootstrap)
    return concat([rows_of(batch, spec) for batch in topic.batches()]).seen()


def _taught(world: World, saw: NDArray[np.float32]) -> Chosen:
    """What users do who look at a few columns, at the item and at its place."""
    rng = np.random.default_rng(world.seed)
    requests = len(saw)
    # As the world draws them.
    plain = World(**world.__dict__).log(Chosen.regular(requests))
    item = plain.item.reshape(requests, SHOWN)
    liking = rng.normal(0.0, 1.0, world.items)
    seen = np.log1p(np.nan_to_num(saw, nan=1.0)) - 1.5
    clicks = -2.2 + 0.5 * seen[..., 0] - 0.4 * seen[..., 5] + 0.8 * liking[item]
    clicks -= 0.15 * np.arange(SHOWN)
    plays = -0.5 + 0.6 * seen[..., 12] + 0.5 * liking[item]
    clicked = rng.random(clicks.shape) < 1 / (1 + np.exp(-clicks))
    return Chosen(clicked, clicked & (rng.random(plays.shape) < 1 / (1 + np.exp(-plays))))


def _export(rows: Rows, path: Path) -> None:
    """Rows as arrays for a peer: ids numbered, values in sixteen buckets of their logarithm."""
    settings = ModelSettings()
    logs = np.log1p(np.nan_to_num(rows.values, nan=-0.5))
    edges = np.linspace(0.0, 8.0, settings.buckets - 1)
    buckets = np.where(np.isnan(rows.values), 0, 1 + np.searchsorted(edges, logs)).astype(np.int32)
    heads = ours_heads()
    labels = np.stack([learnt_label(rows, heads, index) for index in range(len(heads))], 1)
    numbered = {
        name: pa.array(ids).dictionary_encode().indices.to_numpy().astype(np.int32)
        for name, ids in rows.ids.items()
    }
    np.savez(path, buckets=buckets, labels=labels, **numbered)


def ours_heads() -> Any:
    """The preset's tasks."""
    return video.app.model_spec(ModelSettings()).heads


def _ours(bench: Bench, ours: Deployment, source: str, rows: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | ours.env | {
            "TENUTO_TRAINER__STORE": f"{folder}/checkpoints",
            "TENUTO_TRAINER__METRICS_FILE": f"{folder}/metrics.json",
            "TENUTO_TRAINER__THREADS": str(THREADS),
            "TENUTO_TRAINER__BATCH_ROWS": str(BATCH),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.train_side", source, ours.samples_topic],
            env=env, capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            raise environments.PeerError(done.stderr[-2_000:])
        found = json.loads(done.stdout.strip().splitlines()[-1])
    bench.check(f"{OURS}: rows learnt from {source}", found["rows"], rows)
    return {"rows_per_s": rows / found["seconds"], **found["figures"]}


def _rechub(bench: Bench, path: Path, rows: int, loop: str) -> Figures:
    settings = ModelSettings()
    found = environments.run("rechub", "train", {
        "loop": loop, "rows": str(path), "threads": THREADS, "batch": BATCH,
        "buckets": settings.buckets, "bucket_size": settings.bucket_size,
        "experts": settings.experts, "expert_hidden": settings.expert_hidden,
        "expert_size": settings.expert_size, "tower_size": settings.tower_size,
    })  # fmt: skip
    bench.check(f"torch-rechub: rows learnt, {loop}", found["rows"], rows)
    figures = {"rows_per_s": rows / found["seconds"]}
    if loop == "bare":
        figures |= dict(zip(("auc_ctr", "auc_ctcvr"), found["auc"], strict=True))
        figures["dense_parameters"] = found["dense_parameters"]
    return figures
