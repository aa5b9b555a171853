"""RACE: many-body message passing by many plain layers, each of which is read out.

Source of the idea: arXiv 2510.03046. Convolution kernel, dense features, species tables, the one matrix of all
readouts and the quiet start are our own.
"""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import nn
from torch.nn.functional import pad, silu

from atomml.graph.atom_graph import EdgeIndex
from atomml.nn.parity import ParityConvolution, ParityLinear
from atomml.nn.radial import SILU_GAIN, RadialNetwork, mlp
from atomml.potentials.body import BodyOutput
from atomml.potentials.race_config import RACEConfig
from atomml.shapes import Float, Int64, Tensor

__all__ = ["RACE", "RACELayer"]

QUIET_START = 0.1
"""Size of the energies of an untrained network, which then says little rather than something random."""


class RACELayer(nn.Module):
    """One layer, linear in the features, that raises their body order by one.

    h   = x U                                                       (per degree and parity)
    m_i = Σ_j Σ_paths w_path(r_ij) ∘ C_path(h_j, Y(r̂_ij)) / (average number of neighbours)
    x'  = (m D) V_species + x S_species                             (matrices of the atom's own species)

    The published layer also concatenates the neighbour's features as they are, times a radial weight: those are
    the paths (l, 0, l). It multiplies m with an embedding of the species, all channels with all, before it mixes
    them: Σ_fc a_z[f] m[c] W[f, c, c'] = Σ_c m[c] V_z[c, c'] with V_z = Σ_f a_z[f] W[f], so that a table V does
    the same without the large product.
    """

    def __init__(
        self,
        config: RACEConfig,
        n_species: int,
        average_neighbors: float,
        *,
        lmax_in: int,
        parities_in: int,
        parities_out: int,
    ) -> None:
        super().__init__()
        lmax, channels = config.lmax, config.channels
        self.average_neighbors = average_neighbors
        self.kept = min(parities_in, parities_out) * channels
        self.up = ParityLinear(lmax_in, channels, parities_in)
        self.convolution = ParityConvolution(
            (lmax_in, config.lmax_harmonics, lmax), channels, parities_in, parities_out
        )
        self.radial = nn.ModuleList(
            RadialNetwork(
                config.radial_basis,
                list(config.radial_hidden),
                paths,
                width,
                config.cutoff,
                config.envelope_power,
            )
            for paths, width in self.convolution.weights
        )
        self.down = ParityLinear(lmax, channels, parities_out)
        self.mix = ParityLinear(lmax, channels, parities_out, n_species=n_species)
        self.skip = ParityLinear(lmax_in, channels, min(parities_in, parities_out), n_species=n_species)

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        species: Int64[Tensor, " atoms"],
        r: Float[Tensor, " edges"],
        harmonics: Float[Tensor, "edges dim_y"],
        index: EdgeIndex,
    ) -> Float[Tensor, "atoms dim_out channels_out"]:
        """New node features; ``r`` in Å, ``harmonics`` Y(r̂) in e3nn order and component normalisation."""
        weights = [radial(r) for radial in self.radial]
        message = self.convolution(self.up(x), harmonics, weights, index) / self.average_neighbors
        out = self.mix(self.down(message), species)
        skip = self.skip(x[..., : self.kept], species)
        return out + pad(skip, (0, out.shape[2] - skip.shape[2], 0, out.shape[1] - skip.shape[1]))


class RACE(nn.Module):
    """Equivariant network E_i = bias_z + Σ_t w_t · SiLU(W_t x_i^t), x^t the scalars after layer t; see `RACELayer`.

    Every component of x^t is a sum over clusters of at most t + 1 atoms, so that layer t gives the nominal
    (t + 1)-body stratum of the energy (the SiLU mixes orders). ``features`` are the hidden outputs SiLU(W_t x^t)
    of all layers side by side, so that energies = bias + features · `last_layer`. ``layers`` are the natural-parity
    features.

    Exactly invariant under rotations, mirrors, translations and permutations; three times continuously
    differentiable at the cutoff.

    Args:
        config: sizes.
        n_species: number of elements.
        average_neighbors: mean number of neighbours within the cutoff.
    """

    conservative = True
    intensive = False

    def __init__(self, config: RACEConfig, n_species: int, average_neighbors: float) -> None:
        super().__init__()
        self.cutoff, self.channels = config.cutoff, config.channels
        self.degrees = list(range(config.lmax_harmonics + 1))
        self.embedding = nn.Parameter(torch.randn(n_species, config.channels))
        # no odd path leads to a scalar: what is unnatural after the last layer but one cannot reach the energy
        carried = range(2, config.layers - 1) if config.parity == "both" else ()
        parities = [2 if t in carried else 1 for t in range(config.layers + 1)]
        self.layers = nn.ModuleList(
            RACELayer(
                config,
                n_species,
                average_neighbors,
                lmax_in=config.lmax if t > 0 else 0,
                parities_in=parities[t],
                parities_out=parities[t + 1],
            )
            for t in range(config.layers)
        )
        self.readouts = nn.ModuleList(mlp([config.channels, config.readout_hidden]) for _ in self.layers)
        n_features = config.layers * config.readout_hidden
        std = QUIET_START * SILU_GAIN / math.sqrt(n_features)
        self.last = nn.Parameter(std * torch.randn(n_features))
        self.bias = nn.Parameter(torch.zeros(n_species))

    def last_layer(self) -> Float[Tensor, " features"]:
        """Weights w of the last linear layers of all readouts side by side: energies = bias + features · w."""
        return self.last

    def forward(
        self, species: Int64[Tensor, " atoms"], vectors: Float[Tensor, "edges 3"], index: EdgeIndex
    ) -> BodyOutput:
        """Atomic energies in units of the potential's scale, and what they are made of."""
        r = vectors.norm(dim=1)
        harmonics = o3.spherical_harmonics(self.degrees, vectors, normalize=True, normalization="component")
        x = self.embedding[species][:, None]
        hidden, layers = [], []
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            x = layer(x, species, r, harmonics, index)
            layers.append(x[..., : self.channels])
            hidden.append(silu(readout(x[:, 0, : self.channels])))
        features = torch.cat(hidden, 1)
        energies = self.bias[species] + features @ self.last
        return BodyOutput(energies, features, tuple(layers))
