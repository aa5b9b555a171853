"""Radial functions: distance → weights of the convolution."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from atomml.nn.cutoff import polynomial_envelope
from atomml.shapes import Float, Tensor

__all__ = ["BesselBasis", "GaussianBasis", "RadialNetwork", "mlp"]


class BesselBasis(nn.Module):
    """Spherical Bessel basis b_n(r) = √(2/r_c) · sin(nπ r/r_c) / r for n = 1..N, r in Å.

    Source: Gasteiger, Groß, Günnemann, ICLR 2020, eq. 7. The values are multiplied by r_c^(3/2) / π, so that
    they are of order one whatever the cutoff.
    """

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n: Tensor
        self.register_buffer("n", torch.arange(1, n_basis + 1, dtype=torch.get_default_dtype()))

    def forward(self, r: Float[Tensor, " edges"]) -> Float[Tensor, "edges basis"]:
        """Basis values [edges, N]; finite at r = 0."""
        x = (r / self.cutoff)[:, None]
        return math.sqrt(2) * self.n * torch.sinc(self.n * x)


class GaussianBasis(nn.Module):
    """Learnable Gaussians g_k = exp(−((t − μ_k)/s_k)²/2) / (√(2π) s_k) of t = a·r/r_c + b.

    s_k = |σ_k| + 1e-5; μ_k ~ U(0, 1), σ_k ~ U(1/K, 1), a = 1, b = 0 at the start, all learned.
    """

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))
        self.mean = nn.Parameter(torch.rand(n_basis))
        self.width = nn.Parameter(torch.empty(n_basis).uniform_(1 / n_basis, 1))

    def forward(self, r: Float[Tensor, " edges"]) -> Float[Tensor, "edges basis"]:
        """Basis values [edges, K]."""
        t = self.scale * (r / self.cutoff)[:, None] + self.shift
        s = self.width.abs() + 1e-5
        return torch.exp(-0.5 * ((t - self.mean) / s) ** 2) / (math.sqrt(2 * math.pi) * s)


SILU_GAIN = 1.6765
"""1 / √E[SiLU(x)²] for x ~ N(0, 1)."""


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear–SiLU–…–Linear without biases, weights of variance gain²/fan-in."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        linear = nn.Linear(n_in, n_out, bias=False)
        nn.init.normal_(linear.weight, std=(1.0 if i == 0 else SILU_GAIN) / math.sqrt(n_in))
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class RadialNetwork(nn.Module):
    """w(r) = u(r) · MLP(b(r)): one weight per path group and channel, zero with two derivatives at the cutoff."""

    def __init__(
        self, n_basis: int, hidden: list[int], groups: int, channels: int, cutoff: float, envelope_power: int
    ) -> None:
        super().__init__()
        self.cutoff, self.envelope_power = cutoff, envelope_power
        self.shape = (groups, channels)
        self.basis = BesselBasis(n_basis, cutoff)
        self.network = mlp([n_basis, *hidden, groups * channels])

    def forward(self, r: Float[Tensor, " edges"]) -> Float[Tensor, "edges groups channels"]:
        """Radial weights for distances r in Å."""
        u = polynomial_envelope(r, self.cutoff, self.envelope_power)
        # the last layer is linear without bias, and has far more outputs than inputs
        hidden = self.network[:-1](self.basis(r))
        return self.network[-1](hidden * u[:, None]).unflatten(-1, self.shape)
