"""What of the process decides the bits of the weights: fixed once, and named in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch


def fix(threads: int) -> dict[str, Any]:
    """Make torch deterministic, with this many threads, for the whole process.

    Returns:
        What was fixed and torch's version: weights are a function of samples only where these are
        equal.
    """
    torch.set_num_threads(threads)
    # The same as use_deterministic_algorithms(True), which imports the compiler first: two seconds.
    torch.set_deterministic_debug_mode("error")
    # Else each empty tensor is written once more, lest someone reads it; nothing here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return {"threads": threads, "deterministic": True, "torch": str(torch.__version__)}
