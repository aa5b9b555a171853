"""Nonlinear functions that commute with rotations and reflections."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import silu

from atomml.nn.linear import degree_of_component
from atomml.shapes import Float, Tensor

__all__ = ["Gate", "NormActivation"]


class Gate(nn.Module):
    """Scalars pass SiLU; every degree l > 0 is multiplied by sigmoid(x₀ W_l), gates made of the scalars x₀."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax, self.channels = lmax, channels
        self.degree: Tensor
        self.register_buffer("degree", degree_of_component(lmax)[1:] - 1, persistent=False)
        self.gates = nn.Linear(channels, lmax * channels) if lmax > 0 else None

    def forward(self, x: Float[Tensor, "atoms dim channels"]) -> Float[Tensor, "atoms dim channels"]:
        """Gated features, same shape."""
        scalars = x[:, :1]
        if self.gates is None:
            return silu(scalars)
        gates = torch.sigmoid(self.gates(x[:, 0])).unflatten(-1, (self.lmax, self.channels))
        return torch.cat([silu(scalars), x[:, 1:] * gates[:, self.degree]], 1)


class NormActivation(nn.Module):
    """x_l ↦ x_l · sigmoid(a_l n_l + b_l) with the squared norm n_l = Σ_m x_lm² / (2l+1), per degree and channel."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.degree: Tensor
        self.register_buffer("degree", degree_of_component(lmax), persistent=False)
        self.slope = nn.Parameter(torch.ones(lmax + 1, channels))
        self.shift = nn.Parameter(torch.zeros(lmax + 1, channels))

    def forward(self, x: Float[Tensor, "atoms dim channels"]) -> Float[Tensor, "atoms dim channels"]:
        """Activated features, same shape."""
        norm = torch.stack(
            [x[:, degree**2 : (degree + 1) ** 2].square().mean(1) for degree in range(self.lmax + 1)], 1
        )
        return x * torch.sigmoid(self.slope * norm + self.shift)[:, self.degree]
