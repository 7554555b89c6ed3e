"""One pass of our trainer, in a process of its own: ``python -m benchmarks.train_side``.

``kafka``: the trainer as ``tenuto train`` runs it, checkpoints included. ``memory``: its learner
over rows that were read and decoded before.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import tenuto
from tenuto.presets.video import app
from tenuto.settings import Settings, load
from tenuto.trainer.learner import Learner
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.rows import concat, learnt_label, rows_of
from tenuto.trainer.spec import ModelSpec
from tenuto.training import trainer_of


def from_kafka(settings: Settings) -> dict[str, Any]:
    """Until the topic's end marks."""
    trainer = trainer_of(settings, app)
    began_s = time.perf_counter()
    trainer.run(until_end=True)
    seconds = time.perf_counter() - began_s
    trainer.close()
    report = json.loads(Path(settings.trainer.metrics_file).read_text())
    metrics = report["metrics"]["next"]
    figures = {f"auc_{task}": of["lifetime"]["auc"] for task, of in metrics.items()}
    return {"seconds": seconds, "rows": report["seen_rows"], "figures": figures}


def from_memory(settings: Settings, topic: str, spec: ModelSpec) -> dict[str, Any]:
    """Mini-batches of the same size, nothing but learnt and scored."""
    fix(settings.trainer.threads)
    samples = tenuto.Samples(topic=topic, bootstrap=settings.kafka.bootstrap)
    rows = concat([rows_of(batch, spec) for batch in samples.batches()]).seen()
    learner, size, newest_ms, scores = Learner(spec), settings.trainer.batch_rows, 0, []
    began_s = time.perf_counter()
    for number, start in enumerate(range(0, len(rows), size)):
        part = rows.slice(start, min(start + size, len(rows)))
        newest_ms = max(newest_ms, int(part.request_ts_ms.max()))
        scores.append(learner.learn_scored(part, batch=number, newest_ts_ms=newest_ms)[1])
    seconds = time.perf_counter() - began_s
    figures = {}
    for index, head in enumerate(spec.heads):
        own = np.concatenate([one[head.learnt] for one in scores])
        figures[f"auc_{head.learnt}"] = roc_auc_score(learnt_label(rows, spec.heads, index), own)
    return {"seconds": seconds, "rows": len(rows), "figures": figures}


def main() -> None:
    """Run one and tell it in one line."""
    source, topic = sys.argv[1:]
    settings = load().settings
    spec = app.model_spec(settings.model, settings.time.rules())
    found = from_kafka(settings) if source == "kafka" else from_memory(settings, topic, spec)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
