"""How much a row was examined, apart from its merit: known when learning, neutral when serving.

A click's logit is the main network's plus ``tower(position, columns) - tower(0, columns)``, as in
the shallow tower of Zhao et al., *Recommending What Video to Watch Next* (RecSys 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tenuto.trainer.model.noise import generator
from tenuto.trainer.model.soft_bucket import SoftBuckets
from tenuto.trainer.spec import Transform

REFERENCE = 0
"""The position that serving predicts at."""


class PositionTower(nn.Module):
    """One hidden layer over the position and the columns of role ``position``.

    Args:
        positions: told apart; a deeper one counts as the last.
        transforms: of its columns, ``C``; may be none.
        buckets: of each column.
        size: of the hidden layer.
        heads: logits that come out: of the heads that are not given another.
        seed: of its first values.
    """

    def __init__(
        self,
        positions: int,
        transforms: Sequence[Transform],
        buckets: int,
        size: int,
        heads: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.positions = positions
        first = generator(seed, "position.table")
        # The last row is that of a position that is not known.
        self.table = nn.Parameter(torch.randn(positions + 1, size, generator=first))
        self.columns = (
            SoftBuckets(transforms, buckets, size, seed=seed, name="position.columns")
            if transforms
            else None
        )
        self.out = nn.Parameter(torch.zeros(size, heads))

    def codes(self, positions: Tensor) -> Tensor:
        """Rows of its table for ``(n,)`` positions; -1 is one that is not known."""
        deepest = positions.clamp(max=self.positions - 1)
        return torch.where(positions < 0, self.positions, deepest).long()

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        """Difference to the reference position.

        Args:
            codes: ``(n,) int64``, of :meth:`codes`.
            values: ``(n, C)`` raw values of its columns, NaN where missing.

        Returns:
            ``(n, heads)``, 0 in rows at the reference.
        """
        here, there = self.table[codes], self.table[REFERENCE]
        if self.columns is not None:
            beside = self.columns(values).sum(1)
            here, there = here + beside, there + beside
        return (torch.relu(here) - torch.relu(there)) @ self.out
