"""How good one probability of a ranker is, over its lifetime and over the newest rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenuto.trainer.metrics.bootstrap import RESAMPLES, Estimate
from tenuto.trainer.metrics.gauc import group_aucs, mean_auc
from tenuto.trainer.metrics.intervals import intervals
from tenuto.trainer.metrics.predictions import Predictions
from tenuto.trainer.metrics.score_histogram import ScoreHistogram
from tenuto.trainer.metrics.scored_rows import ScoredRows
from tenuto.trainer.metrics.window import Window

Kind = Literal["next", "as_of", "served"]
Span = Literal["lifetime", "window"]


class TaskMetrics:
    """Metrics of one probability, scored in one way.

    ``next`` is scored just before learning, ``as_of`` by weights that had learnt only what was
    final at the row's request, ``served`` as the ranker logged it: docs/training.md says when each
    lies.

    GAUC over the lifetime takes rows in blocks of ``window_rows`` and averages over (user, block):
    a user's rows are compared within a block only, so that memory does not grow with users.

    Args:
        output: name of the probability, such as ``"ctr"``.
        kind: how the rows were scored.
        window_rows: of the window.
        keep_rows: keep every row, so that :meth:`intervals` can be asked for.

    Attributes:
        skipped: rows left out because they have no score, or one outside ``[0, 1]``.
    """

    def __init__(
        self, output: str, kind: Kind, *, window_rows: int, keep_rows: bool = False
    ) -> None:
        self.output = output
        self.kind = kind
        self.skipped = 0
        self._lifetime = ScoreHistogram()
        self._window = Window(window_rows)
        self._kept = Predictions() if keep_rows else None
        self._in_block = 0
        self._blocks = np.zeros(2)  # Σ w AUC and Σ w of the finished blocks' users

    def update(
        self, labels: ArrayLike, scores: ArrayLike, users: ArrayLike, weights: ArrayLike
    ) -> None:
        """Add scored rows, each argument ``(n,)``; see :class:`ScoredRows` for what counts.

        Pass impressed rows only, or 0 as the weight of the others.
        """
        rows, skipped = ScoredRows.of(labels, scores, users, weights)
        self.skipped += skipped
        self._lifetime.update(rows)
        if self._kept is not None:
            self._kept.append(rows)
        while len(rows):
            part = rows.slice(0, self._window.size - self._in_block)
            rows = rows.slice(len(part))
            self._window.update(part)
            self._in_block += len(part)
            if self._in_block == self._window.size:
                self._blocks = self._all_blocks()
                self._in_block = 0

    def read(self) -> dict[Span, dict[str, float]]:
        """Metrics by span and name, NaN where they are not defined.

        Costs a few sorts of the window: read once a second or a checkpoint, not once a batch.
        """
        lifetime = {**self._lifetime.values(), "gauc": mean_auc(*self._all_blocks().tolist())}
        return {"lifetime": lifetime, "window": self._window.values()}

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
        """Lifetime metrics with 95 % intervals by a bootstrap of users, exact AUC and GAUC.

        Raises:
            ValueError: rows were not kept.
        """
        if self._kept is None:
            raise ValueError(f"{self.output} {self.kind}: intervals need keep_rows=True")
        return intervals(self._kept.rows(), resamples=resamples, seed=seed)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays of its own by flat names: a resume goes on bit for bit."""
        parts = {"lifetime": self._lifetime.state(), "window": self._window.state()}
        if self._kept is not None:
            parts["kept"] = self._kept.state()
        state = {
            f"{part}.{name}": a for part, arrays in parts.items() for name, a in arrays.items()
        }
        state["blocks"] = self._blocks.copy()
        state["counts"] = np.array([self.skipped, self._in_block], np.int64)
        return state

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Take what :meth:`state` gave; the window may have had another size.

        Raises:
            KeyError: an array is missing, such as the rows of one that did not keep them.
        """
        self._lifetime.load(_part(state, "lifetime"))
        self._window.load(_part(state, "window"))
        if self._kept is not None:
            self._kept.load(_part(state, "kept"))
        self._blocks = np.array(state["blocks"], np.float64)
        self.skipped, in_block = (int(number) for number in state["counts"])
        self._in_block = min(in_block, self._window.size - 1)

    def _all_blocks(self) -> NDArray[np.float64]:
        """Σ w AUC and Σ w over the users of all blocks, the unfinished one included."""
        rows = self._window.rows(self._in_block)
        aucs = group_aucs(rows.labels, rows.scores, rows.users, rows.weights)
        return np.add(self._blocks, aucs.total)


def _part(state: dict[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    prefix = part + "."
    return {name[len(prefix) :]: a for name, a in state.items() if name.startswith(prefix)}
