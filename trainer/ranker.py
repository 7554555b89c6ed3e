"""What serving loads: a model that scores candidates and never learns or grows.

It runs the trainer's own network, at the reference position and with no age.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenuto.features.matrix import Matrix
from tenuto.features.schema import Column
from tenuto.features.turns import Turns
from tenuto.trainer.dictionary import RARE
from tenuto.trainer.model import tensors as named
from tenuto.trainer.model.network import Network, main_shapes
from tenuto.trainer.model.outputs import probabilities
from tenuto.trainer.spec import ModelSpec

# Matrices are multiplied at the same time.
_scoring = Turns(at_once=os.cpu_count() or 1)


class ColumnError(ValueError):
    """A matrix that the model cannot score: a column is not there, or is defined otherwise."""


class Scores(Mapping[str, NDArray[np.float32]]):
    """Probabilities of ``n`` candidates by name, such as ``p["ctr"]``, ``(n,) float32`` each.

    Attributes:
        version: of the model.
    """

    def __init__(self, values: Mapping[str, NDArray[np.float32]], version: str) -> None:
        self.version = version
        self._values = values

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"no score {name!r}: there are {', '.join(self._values)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread, of the calling thread only; afterwards as before.

    A request is too small to share. Where cores are busy, threads that wait for each other spin
    away whole time slices: a p99 of 80 ms in place of 5, at ten times the processor time.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Ranker:
    """Scores matrices as they were read: raw values go in, missing ones too.

    Attributes:
        spec: of the model.
        version: of its checkpoint.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: Network,
        tables: Mapping[str, tuple[Mapping[str, int], Tensor]],
        version: str,
    ) -> None:
        self.spec = spec
        self.version = version
        self._network = network
        self._tables = tables
        self._needed = [spec.columns[index] for index in network.main]
        # One value, so that threads that score matrices of other schemas do not mix them up.
        self._found: tuple[tuple[Column, ...], list[int]] = ((), [])

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        tensors: Mapping[str, Tensor],
        dictionary: Mapping[str, Sequence[str]],
        version: str,
    ) -> Self:
        """From the serving part of a checkpoint.

        Args:
            spec: of the model.
            tensors: ``Learner.serving_tensors()``.
            dictionary: ``Learner.dictionary()``.
            version: of the checkpoint.

        Raises:
            TensorError: a tensor is missing, or of another shape or type than the spec's.
        """
        # A spec may claim any size: what it claims is there already, or nothing is made of it.
        for name, main in main_shapes(spec).items():
            named.take(tensors, named.NETWORK + name, main, torch.float32)
        network = Network(spec).requires_grad_(False)
        named.into_network(network, tensors)
        tables = {}
        for name in spec.ids:
            ids = dictionary[name]
            shape = (len(ids) + 1, spec.settings.id_size)
            rows = named.take(tensors, named.IDS + name, shape, torch.float32)
            tables[name] = ({one: code for code, one in enumerate(ids, RARE + 1)}, rows.clone())
        return cls(spec, network, tables, version)

    @property
    def objective(self) -> str:
        """Name of the probability to order by; see ``ModelSpec.objective``."""
        return self.spec.objective

    def score(self, matrix: Matrix) -> Scores:
        """Probabilities of the candidates of a request, computed on the calling thread alone.

        Args:
            matrix: as read; of its columns the model takes those that it knows, by name.

        Returns:
            By names of ``spec.outputs``, in the order of the candidates.

        Raises:
            ColumnError: a column that the model needs is not there or was redefined.
        """
        columns, places = self._found
        if columns is not matrix.columns:
            places = self._find(matrix.columns)
            self._found = matrix.columns, places
        with _scoring, torch.inference_mode(), _one_thread():
            values = torch.from_numpy(matrix.values[:, places])
            ids = torch.cat([self._rows(name, matrix) for name in self.spec.ids], 1)
            return Scores(probabilities(self.spec.heads, self._network(values, ids)), self.version)

    def _rows(self, table: str, matrix: Matrix) -> Tensor:
        codes, rows = self._tables[table]
        n = len(matrix.items)
        if table == "item":
            return rows[
                torch.tensor([codes.get(one, RARE) for one in matrix.items], dtype=torch.long)
            ]
        asked = matrix.user_id if table == "user" else matrix.query
        return rows[codes.get(asked, RARE)].expand(n, -1)

    def _find(self, columns: tuple[Column, ...]) -> list[int]:
        at = {column.name: index for index, column in enumerate(columns)}
        for needed in self._needed:
            if needed.name not in at:
                raise ColumnError(
                    f"column {needed.name!r}: model {self.version} needs it and the matrix has it "
                    f"not: declare the feature again, or train a model without it"
                )
            found = columns[at[needed.name]].hash
            if found != needed.hash:
                raise ColumnError(
                    f"column {needed.name!r}: the matrix defines it as {found!r}, model "
                    f"{self.version} as {needed.hash!r}: train a model on the new definition"
                )
        return [at[needed.name] for needed in self._needed]
