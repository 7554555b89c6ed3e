"""Checkpoints: from the trainer's decision to publish to an answer by a server that follows.

The announcement goes through Kafka, the files through a directory, both as in production. Beside
``torch.save`` of the same state and a reader that is told at once.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import rows
from benchmarks.deployment import Deployment, stack_kind
from benchmarks.harness import OURS, Bench, Figures
from tenuto import local
from tenuto.features.matrix import Matrix
from tenuto.presets.video import app
from tenuto.trainer.checkpoints.announcer import TopicAnnouncer
from tenuto.trainer.checkpoints.feed import CheckpointFeed
from tenuto.trainer.checkpoints.manifest import Origin
from tenuto.trainer.checkpoints.writer import Publisher
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.progress import Progress
from tenuto.trainer.ranker import Ranker
from tenuto.trainer.resume import TrainerState, checkpoint_of
from tenuto.trainer.scoreboard import Scoreboard

TITLE = "Checkpoint: publish → serving answers with it"
MODEL = "bench"
_HORIZON_MS = 600_000


def run(bench: Bench) -> None:
    """A model with tens of thousands of ids, published again and again."""
    kind = stack_kind()
    runtime = fix(1)
    spec = app.model_spec(ModelSettings(admit_after=1))
    learner = rows.learnt(spec, bench.size(300_000, 30_000))
    scoreboard = Scoreboard(spec, "live", window_rows=50_000)
    state = TrainerState(learner, Progress("live"), scoreboard)
    matrix = rows.matrix_of(spec, rows.world(spec, 200, 1))
    ids = sum(table.rows for table in learner.tables)
    bench.note(f"{len(spec.columns)} columns, {ids:,} ids with an embedding of their own")
    with local.start(kind) as stack, tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(stack, "small", partitions=1)
        topic = deployment.names.checkpoints
        store, kafka = f"{folder}/store", deployment.settings.kafka.kafka_python()
        publisher = Publisher(store, MODEL, keep=3, announcers=[TopicAnnouncer(topic, kafka)])
        publisher.recover(None)
        feed = CheckpointFeed(
            f"kafka://{stack.bootstrap}/{topic}", model=MODEL, store=store, every_s=0.05
        )
        side = _Side(state, runtime, publisher, feed, matrix, Path(store))
        times = bench.size(5, 2)
        for _ in range(times):
            bench.interleave({
                OURS: lambda: side.publish(bench),
                "torch.save": lambda: _torch_save(bench, state, matrix, Path(folder) / "state.pt"),
            }, rounds=1)  # fmt: skip
        feed.close()
    bench.delivers(OURS, "verified hashes, atomic, whole history, resumable bit for bit")
    bench.delivers("torch.save", "one file with an fsync; loaded with weights_only by who knows it")


@dataclass
class _Side:
    """A trainer that publishes, and a server that follows it."""

    state: TrainerState
    runtime: dict[str, Any]
    publisher: Publisher
    feed: CheckpointFeed
    matrix: Matrix
    store: Path
    number: int = field(default=0)

    def publish(self, bench: Bench) -> Figures:
        """Milliseconds of the pause, and until the server has scored with it."""
        self.number += 1
        self.state.progress.front_ms = 1_700_000_000_000 + self.number * _HORIZON_MS
        self.state.progress.batches += 1
        before, answered = self.feed.version, threading.Event()
        at_s: list[float] = []

        def serve() -> None:
            while not answered.is_set():
                if self.feed.version != before:
                    self.feed.ranker.score(self.matrix)
                    at_s.append(time.perf_counter())
                    return
                time.sleep(0.001)

        server = threading.Thread(target=serve)
        server.start()
        size = _bytes(self.store)
        began_s = time.perf_counter()
        origin = Origin("samples", "0" * 32)
        checkpoint = checkpoint_of(
            self.state, horizon_ms=_HORIZON_MS, samples=origin, runtime=self.runtime
        )
        self.publisher.publish(checkpoint)
        pause_s = time.perf_counter() - began_s
        server.join(30.0)
        answered.set()
        found = self.feed.ranker
        bench.check("the server has the version that was published", bool(at_s), True)
        mine = Ranker.load(
            self.state.learner.spec, self.state.learner.serving_tensors(),
            self.state.learner.dictionary(), "own",
        )  # fmt: skip
        same = all(
            found.score(self.matrix)[name].tobytes() == scores.tobytes()
            for name, scores in mine.score(self.matrix).items()
        )
        bench.check("its scores are the trainer's, bit for bit", same, True)
        return {
            "pause_ms": pause_s * 1e3,
            "answers_after_ms": (at_s[0] - began_s) * 1e3,
            "megabytes": (_bytes(self.store) - size) / 1e6 if self.number == 1 else None,
        }


def _torch_save(bench: Bench, state: TrainerState, matrix: Matrix, path: Path) -> Figures:
    learner = state.learner
    began_s = time.perf_counter()
    whole = {
        "serving": learner.serving_tensors(), "training": learner.training_tensors(),
        "metrics": {name: torch.from_numpy(a) for name, a in state.scoreboard.state().items()},
        "dictionary": learner.dictionary(),
    }  # fmt: skip
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(whole, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    pause_s = time.perf_counter() - began_s
    read = torch.load(path, weights_only=True)
    ranker = Ranker.load(learner.spec, read["serving"], read["dictionary"], "saved")
    ranker.score(matrix)
    answered_s = time.perf_counter() - began_s
    return {
        "pause_ms": pause_s * 1e3, "answers_after_ms": answered_s * 1e3,
        "megabytes": path.stat().st_size / 1e6,
    }  # fmt: skip


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
