"""A model that learns: predicts rows, learns a mini-batch, and says all that a restart needs.

What it does is a function of the rows, their cut into batches and the seed. Order, batches,
metrics and files are the loop's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenuto.trainer.model import tensors as named
from tenuto.trainer.model.adam import Adam
from tenuto.trainer.model.adoption import adopted, fresh_parts
from tenuto.trainer.model.id_tables import IdTable
from tenuto.trainer.model.lookup import Lookup
from tenuto.trainer.model.losses import binary_loss, joint_loss
from tenuto.trainer.model.network import Network
from tenuto.trainer.model.noise import hidden
from tenuto.trainer.model.outputs import probabilities
from tenuto.trainer.model.wide import Moments
from tenuto.trainer.rows import MISSING_POSITION, Rows, learnt_label
from tenuto.trainer.spec import ModelSpec

Predictions = dict[str, NDArray[np.float32]]
"""Probabilities by name of ``ModelSpec.outputs``, ``(n,) float32`` each."""


class BadLossError(ArithmeticError):
    """A loss or gradient that is not finite; nothing was learnt of the batch."""


class Learner:
    """A model and its optimisers.

    Args:
        spec: of the model; a fresh one follows from it, its seed included.

    Attributes:
        tables: embeddings of ids, in the spec's order.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.tables = [IdTable(name, spec.settings) for name in spec.ids]
        self._network = Network(spec)
        self._parameters = dict(self._network.named_parameters())
        self._adam = Adam(self._parameters, spec.settings)
        self._moments = Moments.empty(len(self._network.main))
        self._weights = torch.tensor([head.weight for head in spec.heads])

    def predict(
        self, rows: Rows, *, at: Literal["logged", "reference"], newest_ts_ms: int | None = None
    ) -> Predictions:
        """Probabilities of rows.

        Args:
            rows: any number.
            at: ``logged``: at the position and age that the rows have, for metrics; ``reference``:
                as serving sees them.
            newest_ts_ms: newest request time learnt of, for ``logged``; None: no row has an age.
        """
        lookups = [Lookup.of(table.dictionary, rows.ids[table.name]) for table in self.tables]
        tables = zip(self.tables, lookups, strict=True)
        with torch.inference_mode():
            ids = torch.cat([table.weights[found.rows] for table, found in tables], 1)
            values = torch.from_numpy(rows.values)
            main = self._network.main_of(values)
            if at == "reference":
                return probabilities(self.spec.heads, self._network(main, ids))
            logits = self._network(main, ids, _ages_s(rows, newest_ts_ms))
            return probabilities(self.spec.heads, logits + self._placed(rows.position, values))

    def learn(self, rows: Rows, *, batch: int, newest_ts_ms: int) -> dict[str, float]:
        """Learn a mini-batch, as :meth:`learn_scored`; only the losses."""
        return self.learn_scored(rows, batch=batch, newest_ts_ms=newest_ts_ms)[0]

    def learn_scored(
        self, rows: Rows, *, batch: int, newest_ts_ms: int
    ) -> tuple[dict[str, float], Predictions]:
        """Learn the seen rows of a mini-batch, and say what was predicted of them before.

        The predictions are of the very forward pass that is learnt from, with every position as
        logged: what :meth:`predict` ``at="logged"`` gives, without a second pass.

        Args:
            rows: of whole requests.
            batch: number of the mini-batch; with the seed it keys what is random.
            newest_ts_ms: newest request time learnt of, this batch included.

        Returns:
            Losses by ``Head.learnt``, and predictions of ``rows.seen()``; nothing is learnt and no
            loss named where that is empty.

        Raises:
            BadLossError: a loss or gradient is not finite; nothing changed.
        """
        seen = rows.seen()
        if len(seen) == 0:
            return {}, {name: np.zeros(0, np.float32) for name in self.spec.outputs}
        lookups = [Lookup.of(table.dictionary, seen.ids[table.name]) for table in self.tables]
        losses, gradients, predictions = self._backward(seen, lookups, batch, newest_ts_ms)
        _check(losses, gradients, batch)
        self._adam.step(gradients.dense)
        for table, own, gradient in zip(self.tables, gradients.rows, gradients.ids, strict=True):
            # Of the sum over rows and not their mean: a row's step depends on no batch size.
            table.learn(own, gradient * len(seen))
        for table, found in zip(self.tables, lookups, strict=True):
            table.admit(found.counts())
        enough = self.spec.settings.standardise_rows
        if (self._moments.rows < enough).any():
            self._moments = self._moments.add(seen.values[:, self._network.main], enough)
            self._network.wide.standardise_by(self._moments)
        return losses, predictions

    def _backward(
        self, seen: Rows, lookups: Sequence[Lookup], batch: int, newest_ts_ms: int
    ) -> tuple[dict[str, float], _Gradients, Predictions]:
        """Losses, gradients and undisturbed predictions of a mini-batch; changes nothing."""
        settings, heads = self.spec.settings, self.spec.heads
        distinct = [found.distinct() for found in lookups]
        used = [
            table.weights[rows].requires_grad_()
            for table, (rows, _) in zip(self.tables, distinct, strict=True)
        ]
        pairs = zip(used, distinct, strict=True)
        ids = torch.cat([own.index_select(0, place) for own, (_, place) in pairs], 1)
        values = torch.from_numpy(seen.values)
        ages_s = _ages_s(seen, newest_ts_ms)
        logits = self._network(self._network.main_of(values), ids, ages_s)
        with torch.no_grad():
            predictions = probabilities(heads, logits + self._placed(seen.position, values))
        drawn = hidden(settings.seed, batch, len(seen), settings.position_dropout)
        positions = np.where(drawn, MISSING_POSITION, seen.position)
        losses = self._losses(seen, logits + self._placed(positions, values))
        total = torch.stack(list(losses.values())) @ self._weights
        found = torch.autograd.grad(total, [*self._parameters.values(), *used])
        dense = found[: len(self._parameters)]
        rows = [rows for rows, _ in distinct]
        gradients = _Gradients(dense, rows, found[len(self._parameters) :])
        return {name: loss.item() for name, loss in losses.items()}, gradients, predictions

    def _losses(self, seen: Rows, logits: Tensor) -> dict[str, Tensor]:
        heads = self.spec.heads
        at = {head.name: index for index, head in enumerate(heads)}
        weights = torch.from_numpy(seen.weight)
        found = {}
        for index, head in enumerate(heads):
            labels = torch.from_numpy(learnt_label(seen, heads, index).astype(np.float32))
            own = logits[:, index]
            if head.given is None:
                found[head.learnt] = binary_loss(own, labels, weights)
            else:
                found[head.learnt] = joint_loss(logits[:, at[head.given]], own, labels, weights)
        return found

    def _placed(self, positions: NDArray[np.int32], values: Tensor) -> Tensor:
        beside = self._network.beside_of(values)
        return self._network.at_position(torch.tensor(positions), beside)

    def serving_tensors(self) -> dict[str, Tensor]:
        """What a ranker needs, by name: ``network.…`` and ``ids.<table>``, the rows in use.

        Like all tensors here they share memory with the learner: write them before it learns on.
        """
        ids = {named.IDS + t.name: t.weights[: t.rows] for t in self.tables}
        return {**named.of_network(self._network), **ids}

    def training_tensors(self) -> dict[str, Tensor]:
        """What learning on needs beside: ``adam.…``, ``adagrad.<table>`` and ``moments.…``."""
        sums = {named.ADAGRAD + t.name: t.accumulators[: t.rows] for t in self.tables}
        return {**self._adam.tensors(), **sums, **self._moments.tensors()}

    def dictionary(self) -> dict[str, list[str]]:
        """Ids of each table, in the order of its rows from the second on; a ranker needs them."""
        return {table.name: table.dictionary.ids for table in self.tables}

    def state(self) -> dict[str, Any]:
        """What learning on needs and is no tensor, as JSON."""
        pending = {table.name: table.dictionary.state() for table in self.tables}
        return {"steps": self._adam.steps, "pending": pending}

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        serving_tensors: Mapping[str, Tensor],
        training_tensors: Mapping[str, Tensor],
        dictionary: Mapping[str, Sequence[str]],
        state: Mapping[str, Any],
    ) -> Self:
        """Go on from what was saved, bit for bit.

        Raises:
            TensorError: a tensor is missing, or of another shape or type than the spec's.
        """
        learner = cls(spec)
        learner._restore(serving_tensors, training_tensors, state)
        for table in learner.tables:
            name, ids = table.name, dictionary[table.name]
            shape = (len(ids) + 1, spec.settings.id_size)
            weights = named.take(serving_tensors, named.IDS + name, shape, torch.float32)
            sums = named.take(training_tensors, named.ADAGRAD + name, shape[:1], torch.float32)
            table.load(ids, weights, sums, state["pending"][name])
        return learner

    def adopt(self, older: Learner) -> list[str]:
        """Take over all that an older model of another spec has learnt and this one means too.

        Columns, heads and inputs are matched by name and definition; the rest of this model starts
        so that it changes no prediction. Optimisers' sums come along.

        Returns:
            Names of the columns and heads that start anew.

        Raises:
            ValueError: a size in the settings changed.
        """
        found = adopted(self._dense(), self.spec, older._dense(), older.spec)
        self._restore(found, found, older.state())
        tables = {table.name: table for table in older.tables}
        for table in self.tables:
            if old := tables.get(table.name):
                rows = old.rows
                pending = old.dictionary.state()
                table.load(old.dictionary.ids, old.weights[:rows], old.accumulators[:rows], pending)
        return fresh_parts(self.spec, older.spec)

    def _dense(self) -> dict[str, Tensor]:
        """Everything but the tables of ids."""
        network = named.of_network(self._network)
        return {**network, **self._adam.tensors(), **self._moments.tensors()}

    def _restore(
        self,
        serving: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Take over what :meth:`_dense` gives."""
        named.into_network(self._network, serving)
        self._adam.load(training, int(state["steps"]))
        self._moments = Moments.of(training, len(self._network.main))


@dataclass(frozen=True)
class _Gradients:
    """Of the mean losses.

    Attributes:
        dense: of each dense parameter.
        rows: of each table, the rows that the batch has.
        ids: of those rows.
    """

    dense: Sequence[Tensor]
    rows: Sequence[Tensor]
    ids: Sequence[Tensor]


def _ages_s(rows: Rows, newest_ts_ms: int | None) -> Tensor:
    """How much older than the newest each row is, seconds ``(n,) float32``."""
    newest = rows.request_ts_ms if newest_ts_ms is None else newest_ts_ms
    ages = np.maximum(newest - rows.request_ts_ms, 0) / 1000.0
    return torch.from_numpy(ages.astype(np.float32))


def _check(losses: Mapping[str, float], gradients: _Gradients, batch: int) -> None:
    bad = [f"{name} = {loss}" for name, loss in losses.items() if not np.isfinite(loss)]
    if bad:
        raise BadLossError(f"batch {batch}: loss {', '.join(bad)}")
    norms = torch.stack(torch._foreach_norm([*gradients.dense, *gradients.ids]))
    if not bool(norms.isfinite().all()):
        raise BadLossError(f"batch {batch}: a gradient is not finite")
