"""How well the video preset's ranker predicts samples that it learns once, and yardsticks.

Run ``python benchmarks/ranker_quality.py SAMPLES`` on a directory that the sink wrote, such as that
of ``tenuto simulate``. The ranker goes over the seen rows once in their order and is judged on each
mini-batch just before it learns it (``next``). Logistic regression and boosted trees, of
scikit-learn, learn the first 70 % as often as they like, with the position, and are judged on the
rest; a constant of the position shows how much of an AUC is that alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

import tenuto
from tenuto.presets.video import app
from tenuto.trainer.learner import Learner
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.model_settings import ModelSettings
from tenuto.trainer.rows import Rows, concat, learnt_label, rows_of

Floats = NDArray[np.float32]


def show(model: str, span: str, labels: NDArray[np.bool_], scores: Floats) -> None:
    """A line of the table: normalized entropy, AUC, calibration."""
    base = log_loss(labels, np.full(len(labels), labels.mean()))
    ne = log_loss(labels, np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)) / base
    auc, calibration = roc_auc_score(labels, scores), scores.sum() / labels.sum()
    print(f"  {model:22} {span:12} NE {ne:.4f}  AUC {auc:.4f}  calibration {calibration:.3f}")


def scored_once(rows: Rows, batch: int, settings: ModelSettings) -> dict[str, Floats]:
    """The ranker's ``next`` predictions of all rows."""
    spec = app.model_spec(settings)
    learner, found, newest = Learner(spec), [], 0
    for number, start in enumerate(range(0, len(rows), batch)):
        part = rows.slice(start, min(start + batch, len(rows)))
        newest = max(newest, int(part.request_ts_ms.max()))
        found.append(learner.learn_scored(part, batch=number, newest_ts_ms=newest)[1])
    return {name: np.concatenate([one[name] for one in found]) for name in spec.outputs}


def yardsticks(rows: Rows, labels: NDArray[np.bool_], cut: int) -> Iterator[tuple[str, Floats]]:
    """Names and predictions of the rows from ``cut`` on, by models of those before."""
    position = rows.position[:, None].astype(np.float32)
    slots = (position == np.unique(position)).astype(np.float32)
    raw = np.sign(rows.values) * np.log1p(np.abs(rows.values) / 0.01)
    wide = StandardScaler().fit_transform(np.hstack([np.nan_to_num(raw), np.isnan(raw)]))
    models: list[tuple[str, Any, Floats]] = [
        ("position alone", LogisticRegression(max_iter=500), slots),
        ("logistic regression", LogisticRegression(max_iter=500), np.hstack([wide, slots])),
        (
            "boosted trees",
            HistGradientBoostingClassifier(
                learning_rate=0.03, max_iter=150, max_leaf_nodes=8, min_samples_leaf=100
            ),
            np.hstack([rows.values, position]),
        ),
    ]
    for name, model, inputs in models:
        model.fit(inputs[:cut], labels[:cut])
        yield name, model.predict_proba(inputs[cut:])[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("samples", help="directory")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    fix(1)
    settings = ModelSettings(seed=args.seed)
    spec = app.model_spec(settings)
    rows = concat([rows_of(batch, spec) for batch in tenuto.Samples(args.samples)]).seen()
    scores = scored_once(rows, args.batch, settings)
    cut = int(0.7 * len(rows))
    for index, head in enumerate(spec.heads):
        labels, own = learnt_label(rows, spec.heads, index), scores[head.learnt]
        print(f"{head.learnt}: {len(rows)} seen rows, {labels.sum()} positive")
        show("ranker, once", "all", labels, own)
        show("ranker, once", "first 20 %", labels[: len(rows) // 5], own[: len(rows) // 5])
        show("ranker, once", "last 30 %", labels[cut:], own[cut:])
        for name, other in yardsticks(rows, labels, cut):
            show(name, "last 30 %", labels[cut:], other)


if __name__ == "__main__":
    main()
