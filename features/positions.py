"""Buckets of the position at which an item was shown.

What is seen less is clicked less, so expectations are kept per bucket. The edges are part of the
stored layout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Lower edges of the buckets of known positions; one more bucket holds the unknown ones.
POSITION_EDGES = (0, 1, 2, 4, 8, 16)
POSITION_BUCKETS = len(POSITION_EDGES) + 1
MISSING_POSITION = -1


def position_bucket(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket of each position: ``0 … 5``, and the last one where it is missing (negative)."""
    known = np.searchsorted(POSITION_EDGES, positions, side="right") - 1
    return np.where(positions < 0, POSITION_BUCKETS - 1, known)
