"""The conservative tensor decomposition network."""

from __future__ import annotations

import math
from typing import cast

import torch
from e3nn import o3
from torch import nn
from torch.nn.functional import pad

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.cp_factors import CPFactors
from atomml.nn.cp_product import CPConvolution, SelfProduct
from atomml.nn.linear import DegreeLinear, SpeciesScale
from atomml.nn.nonlinearity import Gate, NormActivation
from atomml.nn.radial import RadialNetwork, mlp
from atomml.potentials.body import BodyOutput
from atomml.potentials.config import TDNConfig
from atomml.shapes import Float, Int64, Tensor

__all__ = ["TDN", "TDNLayer"]

QUIET_START = 0.1
"""Factor of the first readout weights: an untrained network then says little rather than something random."""


class TDNLayer(nn.Module):
    """One message-passing layer.

    h   = x W                                         (per degree)
    m_i = CP-convolution of h, Y(r̂), w(r) / √(average neighbours)
    b   = s⁰ ∘ m + s¹ ∘ (m ⊗ m) + s² ∘ ((m ⊗ m) ⊗ m) + …   (s: per species, degree and channel)
    x'  = f(b V + x U_species)                         (residual map of the atom's own species)
    """

    def __init__(
        self,
        config: TDNConfig,
        n_species: int,
        average_neighbors: float,
        convolution: CPFactors,
        product: CPFactors,
    ) -> None:
        super().__init__()
        lmax, channels = config.lmax, config.channels
        self.normalization = 1 / math.sqrt(average_neighbors)
        self.radial = RadialNetwork(
            config.radial_basis,
            list(config.radial_hidden),
            len(convolution.groups),
            channels,
            config.cutoff,
            config.envelope_power,
        )
        self.linear_in = DegreeLinear(lmax, channels, channels)
        self.convolution = CPConvolution(convolution)
        self.linear_message = DegreeLinear(lmax, channels, channels)
        self.product = SelfProduct(product)
        self.scales = nn.ModuleList(
            SpeciesScale(lmax, channels, n_species) for _ in range(config.products + 1)
        )
        self.linear_out = DegreeLinear(lmax, channels, channels)
        self.residual = DegreeLinear(lmax, channels, channels, n_species=n_species)
        self.activation: nn.Module = {
            "gate": lambda: Gate(lmax, channels),
            "norm": lambda: NormActivation(lmax, channels),
            "none": nn.Identity,
        }[config.nonlinearity]()

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        species: Int64[Tensor, " atoms"],
        r: Float[Tensor, " edges"],
        harmonics: Float[Tensor, "edges dim"],
        index: EdgeIndex,
    ) -> Float[Tensor, "atoms dim channels"]:
        """New node features; ``r`` in Å, ``harmonics`` Y(r̂) in e3nn order and component normalisation."""
        q = self.convolution.harmonics_to_rank(harmonics)
        message = self.convolution(self.linear_in(x), q, self.radial(r), index) * self.normalization
        message = self.linear_message(message)
        power, many_body = message, self.scales[0](message, species)
        for scale in list(self.scales)[1:]:
            power = self.product(power, message)
            many_body = many_body + scale(power, species)
        out = self.linear_out(many_body) + self.residual(x, species)
        return self.activation(out / math.sqrt(2))


class TDN(nn.Module):
    """Equivariant network E_i = Σ_t readout_t(x_i^t) with exact CP convolutions; see `TDNLayer`.

    Exactly invariant under rotations, translations and permutations (and mirrors, unless ``coupling: so3``),
    twice continuously differentiable at the cutoff. Source of the idea: Lin et al., arXiv 2507.01131; exact
    ranks, node factorisation, envelope and many-body products are our own.
    """

    conservative = True
    intensive = False

    def __init__(
        self,
        config: TDNConfig,
        n_species: int,
        average_neighbors: float,
        convolution: CPFactors,
        product: CPFactors,
    ) -> None:
        super().__init__()
        self.cutoff, self.lmax = config.cutoff, config.lmax
        self.degrees = list(range(config.lmax + 1))
        self.embedding = nn.Parameter(torch.randn(n_species, config.channels))
        self.layers = nn.ModuleList(
            TDNLayer(config, n_species, average_neighbors, convolution, product) for _ in range(config.layers)
        )
        linear = [mlp([config.channels, 1]) for _ in range(config.layers - 1)]
        self.readouts = nn.ModuleList([*linear, mlp([config.channels, config.readout_hidden, 1])])
        with torch.no_grad():
            for last in self._last_layers():
                last.weight.mul_(QUIET_START)
        self.bias = nn.Parameter(torch.zeros(n_species))

    def last_layer(self) -> Float[Tensor, " features"]:
        """Weights w of all readouts side by side: energies = bias + features · w."""
        return torch.cat([last.weight[0] for last in self._last_layers()])

    def _last_layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, cast(nn.Sequential, readout)[-1]) for readout in self.readouts]

    def forward(
        self, species: Int64[Tensor, " atoms"], vectors: Float[Tensor, "edges 3"], index: EdgeIndex
    ) -> BodyOutput:
        """Atomic energies in units of the potential's scale, and the features that they are linear in."""
        r = vectors.norm(dim=1)
        harmonics = o3.spherical_harmonics(self.degrees, vectors, normalize=True, normalization="component")
        x = pad(self.embedding[species][:, None], (0, 0, 0, (self.lmax + 1) ** 2 - 1))
        layers: list[Tensor] = []
        features: list[Tensor] = []
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            x = layer(x, species, r, harmonics, index)
            layers.append(x)
            features.append(cast(nn.Sequential, readout)[:-1](x[:, 0]))
        energies = self.bias[species]
        for last, feature in zip(self._last_layers(), features, strict=True):
            energies = energies + last(feature)[:, 0]
        return BodyOutput(energies, torch.cat(features, 1), tuple(layers))
