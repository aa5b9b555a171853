"""CSPNet: all pairs of atoms of a crystal, with Fourier features of their distances around the circle.

Source of the network: DiffCSP (arXiv 2309.04475), as CrysBFN uses it. Dense masked batches, the split of the first
matrix of an edge into parts of nodes, crystal and pair, the condition, moves after every layer and distances of
images are our own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear, silu

from atomml.crystals.circle import wrap
from atomml.crystals.config import CSPNetConfig
from atomml.crystals.images import Images, images_within
from atomml.shapes import Bool, Float, Int64, Tensor

__all__ = [
    "CSPNet",
    "NetworkInput",
    "NetworkOutput",
    "dual_of",
    "fourier_features",
    "shape_of",
    "time_features",
]

FLAT = 0.05
"""Added to μ μᵀ before it is inverted: lattices of noise are flat."""
SHAPE = 8
"""Numbers that say what shape a cell has."""
PULLS = 4
"""Frequencies 1 … P of the moves along the distance of two atoms."""
TIME_SCALE = 1000.0
"""Times 0 to 1 are embedded as positions 0 to 1000, whatever the number of steps."""


class NetworkInput(NamedTuple):
    """What is believed about B crystals of at most N atoms.

    Attributes:
        types: 2θ − 1 of the probabilities θ of the K elements.
        mean: direction m of the belief about each coordinate, an angle.
        feature: how sure it is, 0 to 1.
        lattice: mean of the belief about the scaled lattice.
        time: share of the flow that is done, 0 to 1.
        mask: where there is an atom.
        condition: of H channels, from properties that are asked for.
    """

    types: Float[Tensor, "crystals atoms elements"]
    mean: Float[Tensor, "crystals atoms 3"]
    feature: Float[Tensor, "crystals atoms 3"]
    lattice: Float[Tensor, "crystals 3 3"]
    time: Float[Tensor, " crystals"]
    mask: Bool[Tensor, "crystals atoms"]
    condition: Float[Tensor, "crystals hidden"] | None = None


class NetworkOutput(NamedTuple):
    """What the crystals are expected to be.

    Attributes:
        angles: coordinates θ = 2πf − π.
        lattice: the scaled lattice.
        logits: of the elements.
    """

    angles: Float[Tensor, "crystals atoms 3"]
    lattice: Float[Tensor, "crystals 3 3"]
    logits: Float[Tensor, "crystals atoms elements"]


class Geometry(NamedTuple):
    """Where atoms are to each other.

    Attributes:
        angle: distance around the circle along each axis, of every second atom from every first one.
        features: of each pair: Fourier features and, if wanted, functions of the distances summed over images.
        images: for distances.
    """

    angle: Float[Tensor, "crystals atoms atoms 3"]
    features: Float[Tensor, "crystals atoms atoms features"]
    images: Images | None


class CSPNet(nn.Module):
    """Messages between all pairs of atoms, the atom itself included.

    h_i = W [E(2θ_i − 1), τ(t), lc_i]
    e_ij = φ_e(LN h_i, LN h_j, vec(μ μᵀ), Fourier(m_j − m_i)),   h_i ← h_i + φ_h(LN h_i, mean_j e_ij)
    x̂_i = wrap(m_i + W_x LN h_i),   L̂ = (W_L mean_i LN h_i) μ,   logits_i = W_a LN h_i

    With ``distances``, functions of the distances between i and the images n of j, Σ_n g(r_ijn), stand beside the
    Fourier features, see `images_within`, and `shape_of` the cell, volume per atom first, beside μ μᵀ. Then
    L̂ = F μ + G (μ μᵀ + 0.05)⁻¹ μ, F and G from a perceptron of mean_i LN h_i and the cell: the second term is where
    a volume that is known corrects noise. With ``refine``, m moves after every layer (see `Move`) instead of once at
    the end, and the next layer sees the new distances.

    Coordinates move with any translation of m, L̂ with any rotation or mirror of μ (from the right), all with any
    permutation of the atoms.

    Args:
        config: sizes.
        n_elements: K.
    """

    def __init__(self, config: CSPNetConfig, n_elements: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.frequencies, self.time_channels = config.frequencies, config.time_channels
        self.distances = config.distances
        self.embedding = nn.Linear(n_elements, hidden)
        self.first = nn.Linear(hidden + config.time_channels + 3, hidden)
        features = 6 * config.frequencies + config.distances
        whole = 9 + (SHAPE if config.distances else 0)
        self.layers = nn.ModuleList(CSPLayer(hidden, whole, features) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden)
        self.moves: nn.ModuleList | None = None
        if config.refine:
            self.moves = nn.ModuleList(Move(hidden, config.distances) for _ in range(config.layers))
        else:
            self.coordinates = nn.Linear(hidden, 3, bias=False)
        self.lattice: nn.Module = nn.Linear(hidden, 9, bias=False)
        if config.distances:
            self.lattice = nn.Sequential(nn.Linear(hidden + whole, hidden), nn.SiLU(), nn.Linear(hidden, 18))
        self.types = nn.Linear(hidden, n_elements)

    def forward(self, x: NetworkInput) -> NetworkOutput:
        """Expected crystals from beliefs."""
        time = time_features(x.time, self.time_channels)
        time = time[:, None].expand(-1, x.mask.shape[1], -1)
        h = self.first(torch.cat([self.embedding(x.types), time, x.feature], -1))
        if x.condition is not None:
            h = h + x.condition[:, None]
        whole = _product(x.lattice, x.lattice.transpose(1, 2)).flatten(1)
        if self.distances:
            whole = torch.cat([whole, shape_of(x.lattice, x.mask.sum(1))], 1)
        mean, geometry = x.mean, self._geometry(x.mean, x)
        for k, layer in enumerate(self.layers):
            if k and self.moves is not None:
                geometry = self._geometry(mean, x)
            h, message = layer(h, whole, geometry.features, x.mask)
            if self.moves is not None:
                mean = mean + self.moves[k](self.norm(h), message, geometry, x.mask)
        h = self.norm(h)
        if self.moves is None:
            mean = mean + self.coordinates(h)
        return NetworkOutput(wrap(mean), self._lattice(h, whole, x), self.types(h))

    def _lattice(
        self,
        h: Float[Tensor, "crystals atoms hidden"],
        whole: Float[Tensor, "crystals whole"],
        x: NetworkInput,
    ) -> Float[Tensor, "crystals 3 3"]:
        """L̂, from normed features and the cell."""
        pooled = _mean_over_atoms(h, x.mask)
        if not self.distances:
            return _product(self.lattice(pooled).unflatten(1, (3, 3)).to(x.lattice), x.lattice)
        factor, rest = (
            self.lattice(torch.cat([pooled, whole], 1)).to(x.lattice).unflatten(1, (2, 3, 3)).unbind(1)
        )
        return _product(factor, x.lattice) + _product(rest, dual_of(x.lattice))

    def _geometry(self, mean: Float[Tensor, "crystals atoms 3"], x: NetworkInput) -> Geometry:
        """Of atoms at ``mean``; gradients do not go through it."""
        angle = (mean[:, None] - mean[:, :, None]).detach()
        fourier = fourier_features(angle, self.frequencies)
        if not self.distances:
            return Geometry(angle, fourier, None)
        with torch.autocast(angle.device.type, enabled=False):
            images = images_within(angle, x.lattice, x.mask, self.distances)
        return Geometry(angle, torch.cat([fourier, images.sum(images.radial)], -1), images)


class Move(nn.Module):
    """Where the atoms go after a layer, as angles.

    Δ_i = W LN h_i + mean_j Σ_k (W_k e_ij) sin k d_ij + Σ_jn (W_r e_ij · g(r_ijn)) f_ijn

    The second term draws an atom to another, or to the other side of the cell, along each axis apart, d_ij their
    distance around the circle and k = 1 … 4; the third along the straight line to the image n, at f_ijn in units of
    the lattice vectors.

    Args:
        hidden: channels.
        distances: functions of the distances, 0 for none.
    """

    def __init__(self, hidden: int, distances: int) -> None:
        super().__init__()
        self.atom = nn.Linear(hidden, 3, bias=False)
        self.pair = nn.Linear(hidden, 3 * PULLS, bias=False)
        self.image = nn.Linear(hidden, distances, bias=False) if distances else None
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.002)  # atoms hardly move at first

    def forward(
        self,
        h: Float[Tensor, "crystals atoms hidden"],
        message: Float[Tensor, "crystals atoms atoms hidden"],
        geometry: Geometry,
        mask: Bool[Tensor, "crystals atoms"],
    ) -> Float[Tensor, "crystals atoms 3"]:
        """Δ of every atom, from its normed features."""
        angle, images = geometry.angle, geometry.images
        k = torch.arange(1, PULLS + 1, dtype=angle.dtype, device=angle.device)
        weights = self.pair(message).unflatten(-1, (3, PULLS)).to(angle)
        along = (weights * torch.sin(angle[..., None] * k)).sum(-1)
        count = mask.sum(1)[:, None, None]
        move = self.atom(h).to(angle) + torch.einsum("bj,bija->bia", mask.to(angle), along) / count
        if self.image is None or images is None:
            return move
        drawn = self.image(message).flatten(0, 2)[images.pair].to(angle) * images.radial
        return move + images.sum(drawn.sum(1, keepdim=True) * images.displacement).sum(2)


class CSPLayer(nn.Module):
    """One round of messages, see `CSPNet`; the first matrix of φ_e acts on atoms, crystals and pairs apart."""

    def __init__(self, hidden: int, whole: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.sizes = [hidden, hidden, whole, features]
        self.edge_in = nn.Linear(sum(self.sizes), hidden)
        self.edge_out = nn.Linear(hidden, hidden)
        self.node_in = nn.Linear(2 * hidden, hidden)
        self.node_out = nn.Linear(hidden, hidden)

    def forward(
        self,
        h: Float[Tensor, "crystals atoms hidden"],
        whole: Float[Tensor, "crystals whole"],
        pair: Float[Tensor, "crystals atoms atoms features"],
        mask: Bool[Tensor, "crystals atoms"],
    ) -> tuple[Float[Tensor, "crystals atoms hidden"], Float[Tensor, "crystals atoms atoms hidden"]]:
        """New features of the atoms, and the messages they came from."""
        normed = self.norm(h)
        first, second, crystal, features = self.edge_in.weight.split(self.sizes, 1)
        atoms = linear(normed, first)[:, :, None] + linear(normed, second)[:, None]
        cell = linear(whole, crystal, self.edge_in.bias)[:, None, None]
        message = silu(self.edge_out(silu(linear(pair, features) + atoms + cell)))
        mean = torch.einsum("bj,bijh->bih", mask.to(message), message) / mask.sum(1)[:, None, None]
        return h + silu(self.node_out(silu(self.node_in(torch.cat([normed, mean], -1))))), message


def fourier_features(angle: Float[Tensor, "*pairs 3"], frequencies: int) -> Float[Tensor, "*pairs fourier"]:
    """sin(k d) of k = 0 … F−1 for each of the three angles d, then cos(k d): 6F numbers of period 2π."""
    k = torch.arange(frequencies, dtype=angle.dtype, device=angle.device)
    phase = (angle.detach()[..., None] * k).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], -1)


def dual_of(lattice: Float[Tensor, "crystals 3 3"]) -> Float[Tensor, "crystals 3 3"]:
    """(μ μᵀ + 0.05)⁻¹ μ: the reciprocal vectors of μ, bounded where it is flat."""
    with torch.autocast(lattice.device.type, enabled=False):
        flat = FLAT * torch.eye(3, dtype=lattice.dtype, device=lattice.device)
        return torch.linalg.inv_ex(lattice @ lattice.transpose(1, 2) + flat).inverse @ lattice


def shape_of(
    lattice: Float[Tensor, "crystals 3 3"], n_atoms: Int64[Tensor, " crystals"]
) -> Float[Tensor, "crystals shape"]:
    """log(V/N + 0.01), log N, the lengths of the vectors, and the cosines between them, 0 if one has no length."""
    lengths = lattice.square().sum(2).sqrt()
    volume = (lattice[:, 0] * torch.linalg.cross(lattice[:, 1], lattice[:, 2])).sum(1).abs()
    next_ = [1, 2, 0]
    cosines = (lattice * lattice[:, next_]).sum(2) / (lengths * lengths[:, next_]).clamp(min=1e-6)
    logs = torch.stack([torch.log(volume / n_atoms + 0.01), torch.log(n_atoms.to(volume))], 1)
    return torch.cat([logs, lengths, cosines], 1)


def time_features(time: Float[Tensor, " crystals"], channels: int) -> Float[Tensor, "crystals channels"]:
    """Sines and cosines of 1000 t / 10000^(k/(c/2 − 1))."""
    half = channels // 2
    rate = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000.0) / (half - 1)))
    phase = TIME_SCALE * time[:, None] * rate.to(time.dtype)
    return torch.cat([phase.sin(), phase.cos()], -1)


def _mean_over_atoms(
    h: Float[Tensor, "crystals atoms hidden"], mask: Bool[Tensor, "crystals atoms"]
) -> Float[Tensor, "crystals hidden"]:
    return (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def _product(
    a: Float[Tensor, "crystals 3 3"], b: Float[Tensor, "crystals 3 3"]
) -> Float[Tensor, "crystals 3 3"]:
    """A b, in the precision of its operands under autocast too: lattices need more than three digits."""
    return (a[..., None] * b[:, None]).sum(2)
