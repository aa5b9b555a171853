"""Parts of the published attention network: a linear map shared by all degrees, layer norm, attention."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import dropout, silu

from atomml.kernels.cp_factors import CPFactors
from atomml.nn.constants import ConstantModule
from atomml.nn.linear import degree_of_component
from atomml.shapes import Float, Int64, Tensor

__all__ = [
    "DegreeLayerNorm",
    "EdgeProduct",
    "GraphAttention",
    "RadialProfile",
    "SharedLinear",
    "edge_softmax",
    "gate",
]


class SharedLinear(nn.Module):
    """y = x W with one matrix for all degrees; a bias on the scalars only. W ~ U(±1/√fan-in)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Float[Tensor, "rows dim channels"]) -> Float[Tensor, "rows dim out"]:
        """Mixed channels."""
        y = x @ self.weight
        return y if self.bias is None else torch.cat([y[:, :1] + self.bias, y[:, 1:]], 1)


class DegreeLayerNorm(nn.Module):
    """x_l / √(mean over channels and components of x_l² + 1e-5) · γ_l; the scalars are centred and shifted by β."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.degree: Tensor
        self.register_buffer("degree", degree_of_component(lmax), persistent=False)
        self.gamma = nn.Parameter(torch.ones(lmax + 1, channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "atoms dim channels"]) -> Float[Tensor, "atoms dim channels"]:
        """Normalised features."""
        scalars = x[:, :1] - x[:, :1].mean(-1, keepdim=True)
        x = torch.cat([scalars, x[:, 1:]], 1)
        norm = torch.stack([x[:, k**2 : (k + 1) ** 2].square().mean((1, 2)) for k in range(self.lmax + 1)], 1)
        x = x * ((norm + 1e-5).rsqrt()[:, :, None] * self.gamma)[:, self.degree]
        return torch.cat([x[:, :1] + self.beta, x[:, 1:]], 1)


def gate(x: Float[Tensor, "rows dim doubled"]) -> Float[Tensor, "rows dim channels"]:
    """First half of the channels: scalars through SiLU, the rest times sigmoid of the scalars of the second half."""
    value, gates = x.chunk(2, -1)
    return torch.cat([silu(value[:, :1]), value[:, 1:] * torch.sigmoid(gates[:, :1])], 1)


def smooth_leaky_relu(x: Float[Tensor, ...], slope: float = 0.2) -> Float[Tensor, ...]:
    """((1+a)/2) x + ((1−a)/2) x (2σ(x) − 1)."""
    return (1 + slope) / 2 * x + (1 - slope) / 2 * x * (2 * torch.sigmoid(x) - 1)


class RadialProfile(nn.Module):
    """Radial weights from edge features: hidden layers Linear–LayerNorm–SiLU, then Linear plus a learned offset."""

    def __init__(self, n_in: int, hidden: list[int], n_out: int) -> None:
        super().__init__()
        widths = [n_in, *hidden]
        self.hidden = nn.Sequential(
            *[nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()) for a, b in pairwise(widths)]
        )
        self.out = nn.Linear(widths[-1], n_out, bias=False)
        bound = 1 / math.sqrt(widths[-1])
        self.offset = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, edge_features: Float[Tensor, "edges basis"]) -> Float[Tensor, "edges channels"]:
        """W [E, C]."""
        return self.out(self.hidden(edge_features)) + self.offset


class EdgeProduct(ConstantModule):
    """out[e,k,c] = w[e,c] Σ_r D_kr (Aᵀx)[e,r,c] (Bᵀy)[e,r] for features that live on edges."""

    a: Tensor
    b: Tensor
    d: Tensor

    def __init__(self, factors: CPFactors) -> None:
        super().__init__()
        for name in ("a", "b", "d"):
            self.add_constant(name, getattr(factors, name))

    def forward(
        self,
        x: Float[Tensor, "edges dim channels"],
        y: Float[Tensor, "edges dim"],
        w: Float[Tensor, "edges channels"],
    ) -> Float[Tensor, "edges dim channels"]:
        """Product of edge features with spherical harmonics."""
        in_rank = torch.matmul(self.a.T, x) * (y @ self.b)[:, :, None]
        return torch.matmul(self.d, in_rank) * w[:, None]


def edge_softmax(
    score: Float[Tensor, "edges heads"], center: Int64[Tensor, " edges"], n_atoms: int
) -> Float[Tensor, "edges heads"]:
    """exp(s_e) / Σ exp(s_e') over the edges of one centre."""
    rows = center[:, None].expand_as(score)
    top = score.new_full((n_atoms, score.shape[1]), -torch.inf).scatter_reduce(
        0, rows, score.detach(), "amax"
    )
    weight = torch.exp(score - top[center])
    total = weight.new_zeros((n_atoms, score.shape[1])).index_add(0, center, weight)
    return weight / total[center]


class GraphAttention(nn.Module):
    """Attention over neighbours with nonlinear messages.

    m = product(x_j W_s + x_i W_d, Y, w);  α = softmax_i(a · leaky(m₀ W_α));  v = product(gate(m W_v), Y, w);
    out_i = (Σ_e α_e v_e) W_p, all per head. Both products share the radial weights w.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        n_basis: int,
        radial_hidden: list[int],
        dropout_rate: float,
        factors: CPFactors,
    ) -> None:
        super().__init__()
        self.heads, self.dropout_rate = heads, dropout_rate
        self.source = SharedLinear(channels, channels)
        self.target = SharedLinear(channels, channels, bias=False)
        self.radial = RadialProfile(n_basis, radial_hidden, channels)
        self.score = SharedLinear(channels, channels)
        bound = math.sqrt(6 / (heads + channels // heads))
        self.query = nn.Parameter(torch.empty(heads, channels // heads).uniform_(-bound, bound))
        self.value = SharedLinear(channels, 2 * channels)
        self.project = SharedLinear(channels, channels)
        self.product = EdgeProduct(factors)

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        edge_features: Float[Tensor, "edges basis"],
        y: Float[Tensor, "edges dim"],
        neighbor: Int64[Tensor, " edges"],
        center: Int64[Tensor, " edges"],
    ) -> Float[Tensor, "atoms dim channels"]:
        """Attended features of each atom; zero before the last map for an atom without neighbours."""
        w = self.radial(edge_features)
        m = self.product(self.source(x)[neighbor] + self.target(x)[center], y, w)
        score = smooth_leaky_relu(self.score(m[:, :1])[:, 0]).unflatten(-1, (self.heads, -1))
        alpha = edge_softmax((score * self.query).sum(-1), center, x.shape[0])
        alpha = dropout(alpha, self.dropout_rate, self.training)
        v = self.product(gate(self.value(m)), y, w)
        v = (v.unflatten(-1, (self.heads, -1)) * alpha[:, None, :, None]).flatten(-2)
        return self.project(torch.zeros_like(x).index_add(0, center, v))
