"""Logits of the heads to probabilities by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tenuto.trainer.model.losses import log_joint
from tenuto.trainer.spec import Head


def probabilities(heads: Sequence[Head], logits: Tensor) -> dict[str, NDArray[np.float32]]:
    """Probabilities of ``(n, heads)`` logits, ``(n,) float32`` for each of ``ModelSpec.outputs``.

    A joint one is the product with its ``given``, formed in log space.
    """
    at = {head.name: index for index, head in enumerate(heads)}
    found = {}
    for index, head in enumerate(heads):
        own = logits[:, index]
        found[head.name] = own.sigmoid().numpy()
        if head.given is not None:
            found[head.joint] = log_joint(logits[:, at[head.given]], own).exp().numpy()
    return found
