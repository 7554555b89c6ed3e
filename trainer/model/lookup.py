"""The ids of a batch as rows of a table, each id looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenuto.trainer.dictionary import Dictionary


@dataclass(frozen=True)
class Lookup:
    """A batch's ids.

    Attributes:
        ids: the different ones, in the order in which they first come.
        index: which of them each row has, ``(n,)``.
        codes: their codes, ``(len(ids),)``; ids that were not admitted share one.
    """

    ids: list[str]
    index: NDArray[Any]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, dictionary: Dictionary, ids: pa.StringArray) -> Lookup:
        """Look up ``(n,)`` ids."""
        encoded = ids.dictionary_encode()
        different = encoded.dictionary.to_pylist()
        codes = np.array(dictionary.codes(different), np.int64)
        return cls(different, encoded.indices.to_numpy(), codes)

    @property
    def rows(self) -> Tensor:
        """Row of the table of each row of the batch, ``(n,) int64``."""
        return torch.from_numpy(self.codes[self.index])

    def distinct(self) -> tuple[Tensor, Tensor]:
        """The different rows of the table, and which of them each row of the batch has."""
        rows, place = np.unique(self.codes, return_inverse=True)
        return torch.from_numpy(rows), torch.from_numpy(place[self.index])

    def counts(self) -> list[tuple[str, int]]:
        """How many rows of the batch have each id."""
        found = np.bincount(self.index, minlength=len(self.ids))
        return list(zip(self.ids, found.tolist(), strict=True))
