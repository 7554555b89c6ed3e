"""Metrics of all tasks of a model, by how their rows were scored; arrays for a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenuto.snapshot.string_hash import hash64
from tenuto.trainer.metrics.bootstrap import Estimate
from tenuto.trainer.metrics.task_metrics import Kind, Span, TaskMetrics
from tenuto.trainer.rows import Rows, learnt_label
from tenuto.trainer.spec import ModelSpec
from tenuto.trainer.train_settings import Mode

Values = dict[str, dict[str, dict[Span, dict[str, float]]]]
"""kind -> probability -> span -> metric -> value."""


class Scoreboard:
    """Metrics of every probability that a loss is of.

    Args:
        spec: of the model.
        mode: of the trainer, which scores for ``next`` or for ``as_of``; what was served is
            judged beside.
        window_rows: of windowed metrics.
    """

    def __init__(self, spec: ModelSpec, mode: Mode, *, window_rows: int) -> None:
        self._spec = spec
        self._kind: Kind = "next" if mode == "live" else "as_of"
        self._tasks = {
            (of, head.learnt): TaskMetrics(
                head.learnt, of, window_rows=window_rows, keep_rows=of == "as_of"
            )
            for of in (self._kind, "served")
            for head in spec.heads
        }

    def judge(self, seen: Rows, scores: Mapping[str, NDArray[np.float32]]) -> None:
        """Add scored rows, and what they were served with.

        Args:
            seen: rows with an impression.
            scores: of these rows, by probability.
        """
        users = hash64(seen.ids["user"]).view(np.int64)
        for index, head in enumerate(self._spec.heads):
            labels = learnt_label(seen, self._spec.heads, index)
            for kind, given in ((self._kind, scores), ("served", seen.served)):
                metrics = self._tasks[kind, head.learnt]
                metrics.update(labels, given[head.learnt], users, seen.weight)

    def values(self) -> Values:
        """All metrics; costs sorts of the windows."""
        found: Values = {}
        for (kind, output), metrics in self._tasks.items():
            found.setdefault(kind, {})[output] = metrics.read()
        return found

    def intervals(self) -> dict[str, dict[str, Estimate]]:
        """Of ``as_of``: lifetime metrics by probability with 95 % intervals; else none."""
        return {
            output: metrics.intervals()
            for (kind, output), metrics in self._tasks.items()
            if kind == "as_of"
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays by flat names."""
        return {
            f"{kind}.{output}.{name}": array
            for (kind, output), metrics in self._tasks.items()
            for name, array in metrics.state().items()
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take what :meth:`state` gave; probabilities that it does not know begin anew."""
        for (kind, output), metrics in self._tasks.items():
            prefix = f"{kind}.{output}."
            own = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
            if own:
                metrics.load(own)
