"""Adam with decoupled weight decay over the dense weights, and its sums by name.

Kingma & Ba, 2015; Loshchilov & Hutter, 2019. Embeddings of ids have row-wise Adagrad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tenuto.trainer.model.tensors import take
from tenuto.trainer.model_settings import ModelSettings

_PREFIX = "adam."
_PARTS = ("exp_avg", "exp_avg_sq")


class Adam:
    """torch's, with all of its state from the start.

    Args:
        parameters: by name.
        settings: rates.

    Attributes:
        steps: taken so far.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: ModelSettings) -> None:
        self.steps = 0
        self._parameters = parameters
        self._torch = torch.optim.AdamW(
            list(parameters.values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        for parameter in parameters.values():
            sums = {part: torch.zeros_like(parameter) for part in _PARTS}
            self._torch.state[parameter] = {"step": torch.tensor(0.0), **sums}

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update every parameter by its gradient, in the order of the parameters."""
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._torch.step()
        self.steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """Its sums, as ``adam.<part>.<parameter>``."""
        return {
            f"{_PREFIX}{part}.{name}": self._torch.state[parameter][part]
            for name, parameter in self._parameters.items()
            for part in _PARTS
        }

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from saved sums.

        Raises:
            TensorError: one is missing or does not fit.
        """
        self.steps = steps
        for parameter in self._parameters.values():
            self._torch.state[parameter]["step"].fill_(steps)
        for name, own in self.tensors().items():
            own.copy_(take(tensors, name, tuple(own.shape), own.dtype))
