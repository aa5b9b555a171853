"""The published tensor decomposition network: graph attention with CP products, energy per atom, direct forces."""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import nn
from torch.nn.functional import pad, silu

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cp_factors import CPFactors
from atomml.nn.attention import (
    DegreeLayerNorm,
    EdgeProduct,
    GraphAttention,
    RadialProfile,
    SharedLinear,
    gate,
)
from atomml.nn.radial import GaussianBasis
from atomml.potentials.body import BodyOutput
from atomml.potentials.config import PaperTDNConfig
from atomml.shapes import Bool, Float, Int64, Tensor

__all__ = ["PaperTDN", "nearest_edges"]

MAX_ATOMIC_NUMBER = 80


class FeedForward(nn.Module):
    """W₂ gate(x W₁)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand, self.contract = SharedLinear(channels, 2 * channels), SharedLinear(channels, channels)

    def forward(self, x: Float[Tensor, "atoms dim channels"]) -> Float[Tensor, "atoms dim channels"]:
        """New features."""
        return self.contract(gate(self.expand(x)))


class Block(nn.Module):
    """x += attention(norm(x)); x += feed-forward(norm(x))."""

    def __init__(self, config: PaperTDNConfig, factors: CPFactors) -> None:
        super().__init__()
        self.norm_attention = DegreeLayerNorm(config.lmax, config.channels)
        self.attention = _attention(config, factors)
        self.norm_feed_forward = DegreeLayerNorm(config.lmax, config.channels)
        self.feed_forward = FeedForward(config.channels)

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        edge_features: Float[Tensor, "edges basis"],
        y: Float[Tensor, "edges dim"],
        neighbor: Int64[Tensor, " edges"],
        center: Int64[Tensor, " edges"],
    ) -> Float[Tensor, "atoms dim channels"]:
        """New features."""
        x = x + self.attention(self.norm_attention(x), edge_features, y, neighbor, center)
        return x + self.feed_forward(self.norm_feed_forward(x))


class PaperTDN(nn.Module):
    """Lin et al., arXiv 2507.01131: six attention blocks of 256 channels at L = 1 have 4,476,676 parameters.

    The sum of the atomic outputs over √(average atoms) is the energy PER ATOM relative to the reference
    energies; forces come from one more attention. There is no cutoff envelope. Atoms without neighbours are
    kept, where the published code drops them.
    """

    conservative = False
    intensive = True

    def __init__(self, config: PaperTDNConfig, elements: list[int], factors: CPFactors) -> None:
        super().__init__()
        self.config, self.cutoff = config, config.cutoff
        self.degrees = list(range(config.lmax + 1))
        channels = config.channels
        self.basis = GaussianBasis(config.gaussians, config.cutoff)
        self.embedding = nn.Linear(MAX_ATOMIC_NUMBER, channels)
        with torch.no_grad():
            self.embedding.weight.mul_(math.sqrt(MAX_ATOMIC_NUMBER))
        self.z: Tensor
        self.register_buffer("z", torch.tensor(elements), persistent=False)
        self.degree_in = SharedLinear(channels, channels)
        self.degree_radial = RadialProfile(config.gaussians, list(config.radial_hidden), channels)
        self.degree_product = EdgeProduct(factors)
        self.degree_out = SharedLinear(channels, channels)
        self.blocks = nn.ModuleList(Block(config, factors) for _ in range(config.layers))
        self.norm = DegreeLayerNorm(config.lmax, channels)
        self.energy_hidden, self.energy_out = SharedLinear(channels, channels), SharedLinear(channels, 1)
        self.force_attention, self.force_out = _attention(config, factors), SharedLinear(channels, 1)

    def forward(
        self, species: Int64[Tensor, " atoms"], vectors: Float[Tensor, "edges 3"], index: EdgeIndex
    ) -> BodyOutput:
        """Contributions to the energy per atom in eV and forces in eV/Å."""
        r = vectors.norm(dim=1)
        keep = nearest_edges(r, index.center, index.row_ptr, self.config.max_neighbors)
        # the published network looks from the neighbour to the centre along pos[source] - pos[target] = r_ij
        vectors, r = vectors[keep], r[keep]
        neighbor, center = index.neighbor[keep], index.center[keep]
        y = o3.spherical_harmonics(self.degrees, vectors, normalize=True, normalization="component")
        edge_features = self.basis(r)
        x = self._embed(species, edge_features, y, center)
        for block in self.blocks:
            x = block(x, edge_features, y, neighbor, center)
        x = self.norm(x)
        hidden = silu(self.energy_hidden(x[:, :1]))
        energies = self.energy_out(hidden)[:, 0, 0] / math.sqrt(self.config.average_atoms)
        attended = self.force_attention(x, edge_features, y, neighbor, center)
        return BodyOutput(energies, hidden[:, 0], forces=self.force_out(attended)[:, 1:4, 0])

    def _embed(self, species: Tensor, edge_features: Tensor, y: Tensor, center: Tensor) -> Tensor:
        """Species embedding plus degree embedding, the sum over neighbours of a radial and angular function."""
        one_hot = nn.functional.one_hot(self.z[species] - 1, MAX_ATOMIC_NUMBER).to(y.dtype)
        higher = (0, 0, 0, (self.config.lmax + 1) ** 2 - 1)
        atom = pad(self.embedding(one_hot)[:, None], higher)
        ones = self.degree_in(torch.ones_like(atom[:, :1]))
        message = self.degree_product(pad(ones, higher)[center], y, self.degree_radial(edge_features))
        degree = torch.zeros_like(atom).index_add(0, center, self.degree_out(message))
        return atom + degree / math.sqrt(self.config.average_degree)


def nearest_edges(
    r: Float[Tensor, " edges"], center: Int64[Tensor, " edges"], row_ptr: Int64[Tensor, " rows"], limit: int
) -> Bool[Tensor, " edges"]:
    """Which edges are among the ``limit`` shortest of their centre; ties go to the earlier edge."""
    by_length = torch.argsort(r.detach(), stable=True)
    order = by_length[torch.argsort(center[by_length], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=r.device) - row_ptr[center[order]]
    return rank < limit


def _attention(config: PaperTDNConfig, factors: CPFactors) -> GraphAttention:
    return GraphAttention(
        config.channels,
        config.heads,
        config.gaussians,
        list(config.radial_hidden),
        config.dropout,
        factors,
    )
