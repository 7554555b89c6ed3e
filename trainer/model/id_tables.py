"""Embeddings of ids that grow while learning: rows, their Adagrad sums, and who has which.

Row 0 is the rare row, shared by every id that was not admitted. Serving reads such a table and
never changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenuto.trainer.dictionary import RARE, Dictionary
from tenuto.trainer.model import rowwise_adagrad
from tenuto.trainer.model.noise import id_noise
from tenuto.trainer.model_settings import ModelSettings

_CAPACITY = 1024
_NOISE = 0.01
_FLOOR = 0.01


class IdTable:
    """A dictionary and its embeddings.

    Args:
        name: of the table, such as ``"item"``.
        settings: of the model.

    Attributes:
        dictionary: of the ids.
        weights: ``(capacity, id_size) float32``; rows beyond those admitted are zero.
        accumulators: ``(capacity,) float32``, row-wise Adagrad's.
    """

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self.name = name
        self.dictionary = Dictionary(settings.admit_after, settings.max_ids)
        self._settings = settings
        self.weights = torch.zeros(_CAPACITY, settings.id_size)
        self.accumulators = torch.zeros(_CAPACITY)
        self.weights[RARE] = torch.from_numpy(self._noise(""))

    @property
    def rows(self) -> int:
        """Rows in use: the rare one and those admitted."""
        return len(self.dictionary) + 1

    def learn(self, rows: Tensor, gradients: Tensor) -> None:
        """Update different rows by their gradients, ``(m,) int64`` and ``(m, id_size)``."""
        rate = self._settings.id_learning_rate
        rowwise_adagrad.step(self.weights, self.accumulators, rows, gradients, rate, _FLOOR)

    def admit(self, counts: Sequence[tuple[str, int]]) -> None:
        """Count the ids of learnt rows; those admitted start as the rare row and some noise."""
        start = self.rows
        admitted = self.dictionary.learn(counts)
        if not admitted:
            return
        self._grow(self.rows)
        noise = torch.from_numpy(np.stack([self._noise(one) for one in admitted]))
        self.weights[start : self.rows] = self.weights[RARE] + noise

    def load(self, ids: Sequence[str], weights: Tensor, accumulators: Tensor, state: Any) -> None:
        """Go on from what was saved: rows in use, of ``ids`` and the rare one."""
        self.dictionary.load(ids, state)
        self._grow(self.rows)
        self.weights[: self.rows] = weights
        self.accumulators[: self.rows] = accumulators

    def _grow(self, rows: int) -> None:
        capacity = len(self.weights)
        while capacity < rows:
            capacity *= 2
        if capacity > len(self.weights):
            more = capacity - len(self.weights)
            self.weights = torch.cat(
                [self.weights, self.weights.new_zeros(more, self.weights.shape[1])]
            )
            self.accumulators = torch.cat([self.accumulators, self.accumulators.new_zeros(more)])

    def _noise(self, one: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        settings = self._settings
        return id_noise(settings.seed, self.name, one, settings.id_size) * np.float32(_NOISE)
