"""Named tensors in and out of a model, each checked against what the model has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

NETWORK = "network."
IDS = "ids."
ADAGRAD = "adagrad."


class TensorError(ValueError):
    """A saved tensor that does not fit: names it, what it is and what it must be."""


def take(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A tensor by name.

    Raises:
        TensorError: it is not there, or is of another shape or type.
    """
    found = tensors.get(name)
    if found is None:
        raise TensorError(f"tensor {name!r} is missing")
    if tuple(found.shape) != shape:
        raise TensorError(f"tensor {name!r}: shape {tuple(found.shape)}: must be {shape}")
    if found.dtype != dtype:
        raise TensorError(f"tensor {name!r}: {found.dtype}: must be {dtype}")
    return found


def of_network(network: nn.Module) -> dict[str, Tensor]:
    """Weights and standardisation, by name."""
    return {NETWORK + name: value for name, value in network.state_dict().items()}


def into_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take weights and standardisation over.

    Raises:
        TensorError: one is missing or does not fit.
    """
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_(take(tensors, NETWORK + name, tuple(value.shape), value.dtype))
