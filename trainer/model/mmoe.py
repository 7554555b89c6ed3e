"""Multi-gate Mixture-of-Experts: shared experts, mixed for each head by its own gate.

Ma et al., *Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts*, KDD 2018. All experts are one product of matrices, all heads another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tenuto.trainer.model.noise import generator


class Mmoe(nn.Module):
    """From one input to ``T`` logits.

    Args:
        inputs: D, width of the input.
        heads: T.
        experts: E.
        hidden, size: H and S, widths of an expert's two layers.
        tower: width of a head's hidden layer.
        seed: of its first values.
    """

    def __init__(
        self, inputs: int, heads: int, experts: int, hidden: int, size: int, tower: int, seed: int
    ) -> None:
        super().__init__()

        def drawn(name: str, fan_in: int, *shape: int) -> nn.Parameter:
            values = torch.randn(*shape, generator=generator(seed, f"mmoe.{name}"))
            return nn.Parameter(values * math.sqrt(2.0 / fan_in))

        self.hidden = drawn("hidden", inputs, inputs, experts, hidden)
        self.hidden_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.expert = drawn("expert", hidden, experts, hidden, size)
        self.expert_bias = nn.Parameter(torch.zeros(experts, 1, size))
        # Gates start even.
        self.gate = nn.Parameter(torch.zeros(inputs, heads, experts))
        self.gate_bias = nn.Parameter(torch.zeros(heads, experts))
        self.tower = drawn("tower", size, heads, size, tower)
        self.tower_bias = nn.Parameter(torch.zeros(heads, 1, tower))
        # Towers start silent, so that a fresh model predicts its prior.
        self.out = nn.Parameter(torch.zeros(heads, tower, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """``(n, D)`` to ``(n, T)``."""
        width, experts, size = self.hidden.shape
        n, heads = len(inputs), len(self.gate_bias)
        # Experts and gates in one product: one of few columns costs as much as one of a hundred.
        weight = torch.cat([self.hidden.view(width, -1), self.gate.view(width, -1)], 1)
        bias = torch.cat([self.hidden_bias.view(-1), self.gate_bias.view(-1)])
        both = torch.addmm(bias, inputs, weight)
        hidden, gates = torch.split_with_sizes(both, [experts * size, heads * experts], 1)
        first = hidden.relu().view(n, experts, size).transpose(0, 1)
        second = torch.baddbmm(self.expert_bias, first, self.expert).relu_()
        shares = gates.view(n, heads, experts).softmax(2).permute(1, 2, 0).unsqueeze(3)
        mixed = (shares * second.unsqueeze(0)).sum(1)
        third = torch.baddbmm(self.tower_bias, mixed, self.tower).relu_()
        return torch.bmm(third, self.out).squeeze(2).t()
