"""Who orders the slate of a simulated request, and the shuffled order itself.

Both are hashes of the request, so that they are the same in every run. The other policies need a
matrix: the driver orders those.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Policy = Literal["shuffle", "smoothed_ctr", "ranker"]

SLATE = 10
"""How many of the candidates are shown."""

SHUFFLED_SHARE = 0.20
SMOOTHED_CTR_SHARE = 0.10


def policy_of(request_id: str) -> Policy:
    """The policy of a request: 20 % shuffle, 10 % smoothed CTR, the rest the ranker."""
    share = int.from_bytes(_hashed(f"policy:{request_id}")[:8], "little") / 2.0**64
    if share < SHUFFLED_SHARE:
        return "shuffle"
    return "smoothed_ctr" if share < SHUFFLED_SHARE + SMOOTHED_CTR_SHARE else "ranker"


def shuffled(request_id: str, n: int, seed: int = 0) -> list[int]:
    """A uniform permutation of ``range(n)``, the same for the same arguments."""
    keys: list[bytes] = []
    for block in range(-(-n // 8)):
        digest = _hashed(f"shuffle:{seed}:{block}:{request_id}")
        keys += [digest[at : at + 8] for at in range(0, 64, 8)]
    return sorted(range(n), key=lambda index: (keys[index], index))


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode()).digest()
