"""Adam with decoupled weight decay over the dense weights, and its sums by name.

Kingma & Ba, 2015; Loshchilov & Hutter, 2019. Embeddings of ids have row-wise Adagrad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tenuto.trainer.model.tensors import take
from tenuto.trainer.model_settings import ModelSettings

_PREFIX = "adam."
_PARTS = ("exp_avg", "exp_avg_sq")
_BETAS, _EPS = (0.9, 0.999), 1e-8


class Adam:
    """torch's fused AdamW, with all of its state from the start.

    Its functional form: the class imports torch's compiler, two seconds of each start.

    Args:
        parameters: by name.
        settings: rates.

    Attributes:
        steps: taken so far.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: ModelSettings) -> None:
        self.steps = 0
        self._names = list(parameters)
        self._parameters = [parameter.detach() for parameter in parameters.values()]
        self._sums = {part: [torch.zeros_like(p) for p in self._parameters] for part in _PARTS}
        self._counts = [torch.tensor(0.0) for _ in self._parameters]
        self._settings = settings

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update every parameter by its gradient, in the order of the parameters."""
        averages, squares = (self._sums[part] for part in _PARTS)
        adamw(
            self._parameters, list(gradients), averages, squares, [], self._counts,
            fused=True, amsgrad=False, beta1=_BETAS[0], beta2=_BETAS[1],
            lr=self._settings.learning_rate, weight_decay=self._settings.weight_decay,
            eps=_EPS, maximize=False,
        )  # fmt: skip
        self.steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """Its sums, as ``adam.<part>.<parameter>``."""
        return {
            f"{_PREFIX}{part}.{name}": sums
            for part, every in self._sums.items()
            for name, sums in zip(self._names, every, strict=True)
        }

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from saved sums.

        Raises:
            TensorError: one is missing or does not fit.
        """
        self.steps = steps
        for count in self._counts:
            count.fill_(steps)
        for name, own in self.tensors().items():
            own.copy_(take(tensors, name, tuple(own.shape), own.dtype))
