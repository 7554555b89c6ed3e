"""Scoring: the ranker's probabilities of a request's candidates, asked by one thread or by many.

From the matrix that a read returns to the scores. Beside the same forward pass of a plain PyTorch
module of these sizes, dictionary lookups left out. Scores are compared with the model's formulas,
written out once more in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import rows
from benchmarks.harness import OURS, Bench, Figures, percentiles
from benchmarks.peers.timing import timed
from tenuto.features.matrix import Matrix
from tenuto.presets.video import app
from tenuto.trainer.dictionary import RARE
from tenuto.trainer.model import tensors as named
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.ranker import Ranker
from tenuto.trainer.spec import ModelSpec, Transform

TITLE = "Scoring: the ranker's answer for a request's candidates"
Floats = NDArray[np.float64]

CANDIDATES = (50, 200, 1_000)
THREADS = (1, 16)


def run(bench: Bench) -> None:
    """A ranker that has learnt a little, at three sizes of a request."""
    fix(1)
    spec = app.model_spec(ModelSettings())
    learner = rows.learnt(spec, bench.size(100_000, 20_000))
    tensors, dictionary = learner.serving_tensors(), learner.dictionary()
    ranker = Ranker.load(spec, tensors, dictionary, "benchmark")
    settings = spec.settings
    width = len(spec.columns) * settings.bucket_size + len(spec.ids) * settings.id_size
    plain = _plain(width)
    seconds = bench.size(3, 1)
    sides: dict[str, Callable[[], Figures]] = {}
    for n in CANDIDATES:
        matrix = rows.matrix_of(spec, rows.world(spec, n, 1))
        scores = ranker.score(matrix)
        for name, expected in _by_formulas(spec, tensors, dictionary, matrix).items():
            close = np.allclose(scores[name], expected, rtol=1e-3, atol=1e-6)
            bench.check(f"{name} of each candidate, by the formulas in float64", close, True)
        inputs = torch.rand(n, width)
        asked: dict[str, Callable[[], object]] = {
            OURS: partial(ranker.score, matrix),
            "plain PyTorch": partial(_forward, plain, inputs),
        }
        for threads in THREADS:
            for side, score in asked.items():
                sides[f"{side}, {n} × {threads}"] = partial(_timed, score, threads, seconds)
    bench.interleave(sides)
    bench.delivers("plain PyTorch", "experts, gates and towers alone, of tensors that are there")


def _by_formulas(
    spec: ModelSpec,
    tensors: Mapping[str, torch.Tensor],
    dictionary: Mapping[str, Sequence[str]],
    matrix: Matrix,
) -> dict[str, Floats]:
    """What the model of docs/training.md says of each candidate, none of the ranker's code used."""
    w = {
        name.removeprefix(named.NETWORK): tensor.double().numpy()
        for name, tensor in tensors.items()
        if name.startswith(named.NETWORK)
    }
    main = [column for column in spec.columns if column.role == "main"]
    transforms = [column.transform for column in main]
    raw = np.stack([matrix.column(column.name) for column in main], 1).astype(np.float64)
    tables = w["buckets.table"]
    found = []
    for values, asked in zip(raw, matrix.items, strict=True):
        parts = [_embedded(*one) for one in zip(values, transforms, tables, strict=False)]
        if spec.settings.example_age:
            # As of a request: no age, the first row after that of missing values.
            parts.append(tables[-1][1])
        for name in spec.ids:
            one = {"item": asked, "user": matrix.user_id, "query": matrix.query}[name]
            ids = dictionary[name]
            code = list(ids).index(one) + RARE + 1 if one in ids else RARE
            parts.append(tensors[named.IDS + name][code].double().numpy())
        x = np.concatenate(parts)
        standard = (values - w["wide.means"]) * w["wide.inverse_deviations"]
        wide = w["wide.weight"] @ (1 / (1 + np.exp(-np.nan_to_num(standard))) - 0.5)
        found.append(_mmoe(w, x) + wide + w["bias"])
    probability = 1 / (1 + np.exp(-np.array(found)))
    return {head.name: probability[:, index] for index, head in enumerate(spec.heads)}


def _embedded(value: float, transform: Transform, table: Floats) -> Floats:
    """The mix of two rows of one column's table; the first one where the value is missing."""
    missing: Floats = table[0]
    rows = table[1:]
    if math.isnan(value):
        return missing
    last, scaled = len(rows) - 1, value / transform.unit
    if transform.kind == "linear":
        place = scaled
    else:
        middle = last / 2 if transform.kind == "signed" else 0.0
        spread = math.copysign(math.log1p(abs(scaled)), scaled)
        place = middle + spread * (last - middle) / math.log1p(transform.reach / transform.unit)
    place = min(max(place, 0.0), float(last))
    lower = min(int(place), last - 1)
    mixed: Floats = rows[lower] * (lower + 1 - place) + rows[lower + 1] * (place - lower)
    return mixed


def _mmoe(w: Mapping[str, Floats], x: Floats) -> Floats:
    hidden = np.maximum(np.einsum("d,deh->eh", x, w["mmoe.hidden"]) + w["mmoe.hidden_bias"], 0)
    expert = np.einsum("eh,ehs->es", hidden, w["mmoe.expert"]) + w["mmoe.expert_bias"][:, 0]
    gate = np.exp(np.einsum("d,dte->te", x, w["mmoe.gate"]) + w["mmoe.gate_bias"])
    mixed = (gate / gate.sum(1, keepdims=True)) @ np.maximum(expert, 0)
    tower = np.einsum("ts,tsw->tw", mixed, w["mmoe.tower"]) + w["mmoe.tower_bias"][:, 0]
    logits: Floats = np.einsum("tw,tw->t", np.maximum(tower, 0), w["mmoe.out"][:, :, 0])
    return logits


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


def _forward(model: torch.nn.ModuleDict, inputs: torch.Tensor) -> list[Floats]:
    experts_of, gates, towers = (
        cast("torch.nn.ModuleList", model[name]) for name in ("experts", "gates", "towers")
    )
    with torch.inference_mode():
        experts = torch.stack([expert(inputs) for expert in experts_of], 1)
        found = []
        for gate, tower in zip(gates, towers, strict=True):
            mixed = (torch.softmax(gate(inputs), 1).unsqueeze(2) * experts).sum(1)
            found.append(torch.sigmoid(tower(mixed)).numpy())
        return found


def _timed(score: Callable[[], object], threads: int, seconds: float) -> Figures:
    took_ms, lasted_s = timed(score, threads, seconds)
    return {**percentiles(took_ms), "requests_per_s": len(took_ms) / lasted_s}
