"""Scoring: the ranker's probabilities of a request's candidates, on one thread.

From the matrix that a read returns to the scores. Beside the same forward pass of a plain PyTorch
module of these sizes, dictionary lookups left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks import rows
from benchmarks.harness import OURS, Bench, Figures, percentiles
from tenuto.presets.video import app
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.ranker import Ranker

TITLE = "Scoring: the ranker's answer for a request's candidates"
CANDIDATES = (50, 200, 1_000)


def run(bench: Bench) -> None:
    """A ranker that has learnt a little, at three sizes of a request."""
    fix(1)
    spec = app.model_spec(ModelSettings())
    learner = rows.learnt(spec, bench.size(100_000, 20_000))
    ranker = Ranker.load(spec, learner.serving_tensors(), learner.dictionary(), "benchmark")
    settings = spec.settings
    width = len(spec.columns) * settings.bucket_size + len(spec.ids) * settings.id_size
    plain = _plain(width)
    sides: dict[str, Callable[[], Figures]] = {}
    for n in CANDIDATES:
        matrix = rows.matrix_of(spec, rows.world(spec, n, 1))
        inputs = torch.rand(n, width)
        sides[f"{OURS}, {n} candidates"] = partial(
            _timed, partial(ranker.score, matrix), bench.size(2_000, 200)
        )
        sides[f"plain PyTorch, {n} candidates"] = partial(
            _timed, partial(_forward, plain, inputs), bench.size(2_000, 200)
        )
    bench.interleave(sides)
    bench.delivers("plain PyTorch", "experts, gates and towers alone, of tensors that are there")


def _plain(width: int) -> torch.nn.ModuleDict:
    s = ModelSettings()

    def expert() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(width, s.expert_hidden), torch.nn.ReLU(),
            torch.nn.Linear(s.expert_hidden, s.expert_size), torch.nn.ReLU(),
        )  # fmt: skip

    def tower() -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(s.expert_size, s.tower_size), torch.nn.ReLU(),
            torch.nn.Linear(s.tower_size, 1),
        )  # fmt: skip

    return torch.nn.ModuleDict({
        "experts": torch.nn.ModuleList(expert() for _ in range(s.experts)),
        "gates": torch.nn.ModuleList(torch.nn.Linear(width, s.experts) for _ in app.tasks),
        "towers": torch.nn.ModuleList(tower() for _ in app.tasks),
    })  # fmt: skip


def _forward(model: torch.nn.ModuleDict, inputs: torch.Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        experts = torch.stack([expert(inputs) for expert in model["experts"]], 1)
        found = []
        for gate, tower in zip(model["gates"], model["towers"], strict=True):
            mixed = (torch.softmax(gate(inputs), 1).unsqueeze(2) * experts).sum(1)
            found.append(torch.sigmoid(tower(mixed)).numpy())
        return found


def _timed(score: Callable[[], object], times: int) -> Figures:
    took_ms = []
    for _ in range(times):
        began_s = time.perf_counter()
        score()
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    return percentiles(took_ms[times // 10 :])
