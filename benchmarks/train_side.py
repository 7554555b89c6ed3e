"""One pass of our trainer, in a process of its own: ``python -m benchmarks.train_side``.

``kafka``: the trainer as ``tenuto train`` runs it, metrics and checkpoints included. ``memory``:
the same trainer, of records that were read and decoded before. ``learner``: what learns alone, over
one array of rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import tenuto
from tenuto import training
from tenuto.presets.video import app
from tenuto.settings import Settings, load
from tenuto.trainer.learner import Learner
from tenuto.trainer.model.determinism import fix
from tenuto.trainer.rows import concat, learnt_label, rows_of
from tenuto.trainer.sample_source import Read
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.topic_source import TopicSource


class Kept:
    """A source whose records are all in memory already.

    Args:
        source: where they come from; asked until every partition has ended.
    """

    def __init__(self, source: TopicSource) -> None:
        self.partitions = source.partitions
        self.missed = self.gaps = 0
        self.exhausted = False
        self._reads: list[list[Read]] = []
        open_ = set(self.partitions)
        while open_:
            if found := source.poll(()):
                self._reads.append(found)
                open_ -= {read.partition for read in found if read.is_end}
        source.close()

    def poll(self, ahead: Collection[int]) -> list[Read]:
        """What the topic gave at its next poll."""
        return self._reads.pop(0)

    def lag(self) -> dict[int, int]:
        """Nothing waits elsewhere."""
        return dict.fromkeys(self.partitions, 0)

    def close(self) -> None:
        """Nothing is open."""


def by_trainer(settings: Settings, source: str) -> dict[str, Any]:
    """Until the topic's end marks."""
    if source == "memory":
        vars(training)["TopicSource"] = lambda *given, **named: Kept(TopicSource(*given, **named))
    trainer = training.trainer_of(settings, app)
    began_s = time.perf_counter()
    trainer.run(until_end=True)
    seconds = time.perf_counter() - began_s
    trainer.close()
    report = json.loads(Path(settings.trainer.metrics_file).read_text())
    metrics = report["metrics"]["next"]
    figures = {f"auc_{task}": of["lifetime"]["auc"] for task, of in metrics.items()}
    return {"seconds": seconds, "rows": report["seen_rows"], "figures": figures}


def by_learner(settings: Settings, topic: str, spec: ModelSpec) -> dict[str, Any]:
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
    if source == "learner":
        found = by_learner(settings, topic, spec)
    else:
        found = by_trainer(settings, source)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
