"""An equivariant network for crystals: features of degree 0 to 2 on the atoms, CP convolutions over all pairs.

CSPNet knows directions only as numbers along the lattice vectors. Here atoms also carry vectors and quadrupoles, so
that a bond, a coordination shell or a strain is one feature in whatever cell it is described.

What a displacement is. Pairs of atoms differ by an angle d per axis, and any function of it must have period 2π:
the vector wrap(d)/2π · μ jumps where an atom crosses the cell, and a cutoff over images has no meaning for the
lattices of the beginning, which are zero or noise. We take the lowest Fourier terms that agree with displacements at
short range,

    v   = Σ_a sin d_a / 2π · μ_a                                  (degree 1)
    v⊗v + Σ_a ((1 − cos d_a) / 2π)² · μ_a⊗μ_a  =  T               (degree 2),      r² = tr T,

μ_a the rows of the believed lattice. Half a cell away v vanishes, as it must between two equal images, and T does
not: it is positive semidefinite, and zero where d is, as of an atom and itself, with every harmonic above degree 0.
All is smooth. Higher frequencies are invariants that enter the weights, as in CSPNet.

The convolution is that of `atomml.potentials.tdn`. Weights depend on the pair and, unlike there, on both atoms, as
elements are beliefs here and cannot choose among matrices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from e3nn import o3
from torch import nn
from torch.nn.functional import pad, silu

from atomml.crystals.circle import wrap
from atomml.crystals.config import EquivariantConfig
from atomml.crystals.network import NetworkInput, NetworkOutput, dual_of, fourier_features, time_features
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.coupling import Grouping
from atomml.kernels.cp_factors import load_factors, load_group_factors
from atomml.nn.cp_product import CPConvolution, SelfProduct
from atomml.nn.linear import DegreeLinear, degree_of_component
from atomml.nn.nonlinearity import Gate
from atomml.nn.radial import SILU_GAIN, BesselBasis
from atomml.shapes import Bool, Float, Tensor

__all__ = ["EquivariantNet", "all_pairs", "pair_harmonics"]

REACH = 2.0
"""Distance, in units of the scaled lattice, up to which the radial functions tell most."""
SOFT = 0.1
"""Distance below which directions fade: r = √(tr T + 0.1²)."""


class Pairs(NamedTuple):
    """All pairs of atoms of each crystal, sorted by the first.

    Attributes:
        edges: atoms of each pair; the centre is the first.
        harmonics: of the displacement from the centre to the neighbour.
        features: invariants of the pair and its crystal.
        n_atoms: of the crystal of each atom.
    """

    edges: EdgeIndex
    harmonics: Float[Tensor, "pairs dim"]
    features: Float[Tensor, "pairs features"]
    n_atoms: Float[Tensor, " atoms"]


class EquivariantNet(nn.Module):
    """Layers of messages between all pairs of atoms, see `EquivariantLayer`, and four heads.

    x_i = W [E(2θ_i − 1), τ(t), lc_i] + Σ_a w_a Y(μ_a)
    x̂_i = wrap(m_i + W_x s_i + (μ μᵀ + 0.05)⁻¹ μ g_i),   L̂ = (W_L mean_i s_i) μ + mean_i G_i,   logits_i = W_a s_i

    with s_i the scalars of x_i, g_i and the three rows of G_i vectors made of its degree 1. The third term of x̂ is a
    shift by the vector g_i in units of the lattice vectors; G is where a strain enters, μ S = Σ of degrees 1 × 2.

    Symmetries are those of CSPNet: coordinates move with any translation of m, L̂ with any rotation or mirror of μ
    (from the right), all with any permutation of the atoms.

    Args:
        config: sizes.
        n_elements: K.
    """

    def __init__(self, config: EquivariantConfig, n_elements: int) -> None:
        super().__init__()
        hidden, lmax = config.hidden, config.lmax
        self.lmax, self.frequencies, self.time_channels = lmax, config.frequencies, config.time_channels
        self.embedding = nn.Linear(n_elements, hidden)
        self.first = nn.Linear(hidden + config.time_channels + 3, hidden)
        self.frame = DegreeLinear(lmax, 3, hidden)
        self.radial = BesselBasis(config.radial_basis, REACH)
        self.layers = nn.ModuleList(EquivariantLayer(config) for _ in range(config.layers))
        self.norm = DegreeNorm(lmax, hidden)
        self.coordinates = nn.Linear(hidden, 3, bias=False)
        self.lattice = nn.Linear(hidden, 9, bias=False)
        self.vectors = nn.Linear(hidden, 4, bias=False)
        self.types = nn.Linear(hidden, n_elements)

    def forward(self, x: NetworkInput) -> NetworkOutput:
        """Expected crystals from beliefs."""
        mask, lattice = x.mask, x.lattice
        crystal = mask.nonzero()[:, 0]
        with torch.autocast(lattice.device.type, enabled=False):  # lattices need more than three digits
            pairs = self._pairs(x)
        time = time_features(x.time, self.time_channels)[crystal]
        scalars = self.first(torch.cat([self.embedding(x.types[mask]), time, x.feature[mask]], -1))
        if x.condition is not None:
            scalars = scalars + x.condition[crystal]
        frame = self.frame(_solid_harmonics(lattice, self.lmax).transpose(1, 2))[crystal]
        h = frame + pad(scalars[:, None], (0, 0, 0, frame.shape[1] - 1))
        for layer in self.layers:
            h = layer(h, pairs)
        h = self.norm(h)
        scalars, vectors = h[:, 0], self.vectors(h[:, 1:4]).transpose(1, 2).to(lattice)
        shift = self.coordinates(scalars) + (dual_of(lattice)[crystal] * vectors[:, :1]).sum(2)
        parts = torch.cat([self.lattice(scalars).to(lattice), vectors[:, 1:].flatten(1)], 1)
        factor, rest = (
            (_padded(parts, mask).sum(1) / mask.sum(1, keepdim=True)).unflatten(1, (2, 3, 3)).unbind(1)
        )
        return NetworkOutput(
            wrap(x.mean + _padded(shift, mask)),
            (factor[..., None] * lattice[:, None]).sum(2) + rest,
            _padded(self.types(scalars), mask),
        )

    def _pairs(self, x: NetworkInput) -> Pairs:
        both = _both(x.mask)
        crystal = both.nonzero()[:, 0]
        angle = (x.mean[:, None] - x.mean[:, :, None])[both]
        harmonics, r = pair_harmonics(angle, x.lattice[crystal], self.lmax)
        metric = _metric(x.lattice).flatten(1)[crystal]
        features = torch.cat([fourier_features(angle, self.frequencies), self.radial(r), metric], 1)
        n_atoms = x.mask.sum(1, keepdim=True).expand_as(x.mask)[x.mask]
        return Pairs(all_pairs(x.mask), harmonics, features, n_atoms.to(r))


class EquivariantLayer(nn.Module):
    """One round of messages; a pair is c = (Fourier(d_ij), b(r_ij), μ μᵀ), b Bessel functions.

    y   = norm(x),   w_ij = W₂ SiLU(A y⁰_i + B y⁰_j + C c_ij)
    m_i = mean_j of CP-convolution of y_j, Y_ij, w_ij
    x  ← x + U gate(V [y, m, m ⊗ m])                              (U, V: per degree)

    The factors are exact, so that what is computed does not depend on which ones the package ships.
    """

    def __init__(self, config: EquivariantConfig) -> None:
        super().__init__()
        hidden, lmax = config.hidden, config.lmax
        grouping: Grouping = "fused" if config.path_weights == "shared" else "per_l2"
        factors = load_group_factors(lmax, "cg_even", grouping)
        self.shape = (len(factors.groups), hidden)
        self.norm = DegreeNorm(lmax, hidden)
        self.center = nn.Linear(hidden, hidden, bias=False)
        self.neighbor = nn.Linear(hidden, hidden, bias=False)
        self.pair = nn.Linear(6 * config.frequencies + config.radial_basis + 9, hidden)
        self.weight = nn.Linear(hidden, math.prod(self.shape))
        nn.init.normal_(self.weight.weight, std=SILU_GAIN / math.sqrt(hidden))
        self.convolution = CPConvolution(factors)
        self.product = SelfProduct(load_factors(lmax, "cg_even"))
        self.mix = DegreeLinear(lmax, 3 * hidden, hidden)
        self.gate = Gate(lmax, hidden)
        self.out = DegreeLinear(lmax, hidden, hidden)

    def forward(
        self, x: Float[Tensor, "atoms dim channels"], pairs: Pairs
    ) -> Float[Tensor, "atoms dim channels"]:
        """New features of the atoms."""
        y, edges = self.norm(x), pairs.edges
        atoms = self.center(y[:, 0])[edges.center] + self.neighbor(y[:, 0])[edges.neighbor]
        w = self.weight(silu(self.pair(pairs.features) + atoms)).unflatten(1, self.shape)
        q = self.convolution.harmonics_to_rank(pairs.harmonics)
        m = self.convolution(y, q, w, edges) / pairs.n_atoms[:, None, None]
        return x + self.out(self.gate(self.mix(torch.cat([y, m, self.product(m, m)], -1))))


class DegreeNorm(nn.Module):
    """LayerNorm of the scalars; x_l / √(1 + mean x_l²) of each degree above: small vectors stay small."""

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(channels)
        self.sizes = [2 * degree + 1 for degree in range(lmax + 1)]

    def forward(self, x: Float[Tensor, "atoms dim channels"]) -> Float[Tensor, "atoms dim channels"]:
        """Features of order one."""
        scalars, *above = x.split(self.sizes, 1)
        bounded = [v * (1 + v.square().mean((1, 2), keepdim=True)).rsqrt() for v in above]
        return torch.cat([self.scalars(scalars), *bounded], 1)


def all_pairs(mask: Bool[Tensor, "crystals atoms"]) -> EdgeIndex:
    """All pairs (i, j) of atoms of one crystal, i = j included, atoms counted without padding."""
    both = _both(mask)
    atom = (mask.flatten().cumsum(0) - 1).view_as(mask)
    pair = (both.flatten().cumsum(0) - 1).view_as(both)
    starts = pad(mask.sum(1, keepdim=True).expand_as(mask)[mask].cumsum(0), (1, 0))
    return EdgeIndex(
        neighbor=atom[:, None].expand_as(both)[both],
        center=atom[:, :, None].expand_as(both)[both],
        row_ptr=starts,
        transpose=pair.transpose(1, 2)[both],  # a pair and its mirror: both orders have the same pointers
        col_ptr=starts,
    )


def pair_harmonics(
    angle: Float[Tensor, "pairs 3"], lattice: Float[Tensor, "pairs 3 3"], lmax: int
) -> tuple[Float[Tensor, "pairs dim"], Float[Tensor, " pairs"]]:
    """Y_l / r^l of degree 0 to ``lmax`` ≤ 2 of displacements, and softened distances r, see the top of the module.

    Args:
        angle: d, differences of the coordinates.
        lattice: μ of the crystal of each pair.
        lmax: highest degree.

    Returns:
        Harmonics in e3nn order, of component normalisation for one vector of length r; r in units of μ.
    """
    vector = (angle.sin()[..., None] * lattice).sum(1) / (2 * math.pi)
    rest = ((1 - angle.cos()) / (2 * math.pi))[..., None] * lattice
    r = (vector.square().sum(1) + rest.square().sum((1, 2)) + SOFT**2).sqrt()
    odd, even = _solid_harmonics(vector, lmax), _solid_harmonics(rest, lmax).sum(1)
    solid = torch.cat([odd[:, :4], odd[:, 4:] + even[:, 4:]], 1)
    return solid / r[:, None] ** degree_of_component(lmax).to(r.device), r


def _solid_harmonics(vectors: Float[Tensor, "*vectors 3"], lmax: int) -> Float[Tensor, "*vectors dim"]:
    degrees = list(range(lmax + 1))
    return o3.spherical_harmonics(degrees, vectors, normalize=False, normalization="component")


def _metric(lattice: Float[Tensor, "crystals 3 3"]) -> Float[Tensor, "crystals 3 3"]:
    return lattice @ lattice.transpose(1, 2)


def _both(mask: Bool[Tensor, "crystals atoms"]) -> Bool[Tensor, "crystals atoms atoms"]:
    return mask[:, :, None] & mask[:, None]


def _padded(
    values: Float[Tensor, "total channels"], mask: Bool[Tensor, "crystals atoms"]
) -> Float[Tensor, "crystals atoms channels"]:
    out = values.new_zeros(*mask.shape, values.shape[1])
    out[mask] = values
    return out
