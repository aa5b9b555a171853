"""CSPNet: all pairs of atoms of a crystal, with Fourier features of their distances around the circle.

Source of the network: DiffCSP (arXiv 2309.04475), as CrysBFN uses it. Dense masked batches, the split of the first
matrix of an edge into parts of nodes, crystal and pair, the condition, and distances of images are our own.
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
from atomml.shapes import Bool, Float, Tensor

__all__ = ["CSPNet", "NetworkInput", "NetworkOutput", "fourier_features"]

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


class CSPNet(nn.Module):
    """Messages between all pairs of atoms, the atom itself included.

    h_i = W [E(2θ_i − 1), τ(t), lc_i]
    e_ij = φ_e(LN h_i, LN h_j, vec(μ μᵀ), Fourier(m_j − m_i)),   h_i ← h_i + φ_h(LN h_i, mean_j e_ij)
    x̂_i = wrap(m_i + W_x LN h_i),   L̂ = (W_L mean_i LN h_i) μ,   logits_i = W_a LN h_i

    With ``distances``, K functions g of the distances r_ijn between i and the images n of j, at displacements f_ijn
    in units of the lattice vectors, see `images_within`: Σ_n g(r_ijn) enters φ_e beside the Fourier features, and
    Σ_jn (W_r e_ij · g(r_ijn)) f_ijn of the last layer is added to x̂_i: atoms are drawn to a neighbour or pushed away.

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
        self.embedding = nn.Linear(n_elements, hidden)
        self.first = nn.Linear(hidden + config.time_channels + 3, hidden)
        self.distances = config.distances
        features = 6 * config.frequencies + config.distances
        self.layers = nn.ModuleList(CSPLayer(hidden, features) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden)
        self.coordinates = nn.Linear(hidden, 3, bias=False)
        self.lattice = nn.Linear(hidden, 9, bias=False)
        self.types = nn.Linear(hidden, n_elements)
        if config.distances:
            self.pull = nn.Linear(hidden, config.distances, bias=False)
            nn.init.zeros_(self.pull.weight)

    def forward(self, x: NetworkInput) -> NetworkOutput:
        """Expected crystals from beliefs."""
        time = time_features(x.time, self.time_channels)
        time = time[:, None].expand(-1, x.mask.shape[1], -1)
        h = self.first(torch.cat([self.embedding(x.types), time, x.feature], -1))
        if x.condition is not None:
            h = h + x.condition[:, None]
        angle = x.mean[:, None] - x.mean[:, :, None]
        pair = fourier_features(angle, self.frequencies)
        images = self._images(angle, x) if self.distances else None
        if images is not None:
            pair = torch.cat([pair, _sum_over_images(images.radial, images, angle)], -1)
        metric = _product(x.lattice, x.lattice.transpose(1, 2)).flatten(1)
        message = pair
        for layer in self.layers:
            h, message = layer(h, metric, pair, x.mask)
        h = self.norm(h)
        shift = self.coordinates(h)
        if images is not None:
            pull = self.pull(message).flatten(0, 2)[images.pair].to(images.radial)
            vectors = (pull * images.radial).sum(1, keepdim=True) * images.displacement
            shift = shift + _sum_over_images(vectors, images, angle).sum(2)
        factor = self.lattice(_mean_over_atoms(h, x.mask)).unflatten(1, (3, 3))
        return NetworkOutput(wrap(x.mean + shift), _product(factor.to(x.lattice), x.lattice), self.types(h))

    def _images(self, angle: Float[Tensor, "crystals atoms atoms 3"], x: NetworkInput) -> Images:
        """Of all pairs, numbered as in the dense batch; padding has none."""
        both = x.mask[:, :, None] & x.mask[:, None]
        with torch.autocast(x.lattice.device.type, enabled=False):
            images = images_within(angle[both], x.lattice[both.nonzero()[:, 0]], self.distances)
        return images._replace(pair=both.flatten().nonzero()[:, 0][images.pair])


class CSPLayer(nn.Module):
    """One round of messages, see `CSPNet`; the first matrix of φ_e acts on atoms, crystals and pairs apart."""

    def __init__(self, hidden: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.sizes = [hidden, hidden, 9, features]
        self.edge_in = nn.Linear(sum(self.sizes), hidden)
        self.edge_out = nn.Linear(hidden, hidden)
        self.node_in = nn.Linear(2 * hidden, hidden)
        self.node_out = nn.Linear(hidden, hidden)

    def forward(
        self,
        h: Float[Tensor, "crystals atoms hidden"],
        metric: Float[Tensor, "crystals 9"],
        pair: Float[Tensor, "crystals atoms atoms features"],
        mask: Bool[Tensor, "crystals atoms"],
    ) -> tuple[Float[Tensor, "crystals atoms hidden"], Float[Tensor, "crystals atoms atoms hidden"]]:
        """New features of the atoms, and the messages they came from."""
        normed = self.norm(h)
        first, second, crystal, features = self.edge_in.weight.split(self.sizes, 1)
        atoms = linear(normed, first)[:, :, None] + linear(normed, second)[:, None]
        whole = linear(metric, crystal, self.edge_in.bias)[:, None, None]
        message = silu(self.edge_out(silu(linear(pair, features) + atoms + whole)))
        mean = torch.einsum("bj,bijh->bih", mask.to(message), message) / mask.sum(1)[:, None, None]
        return h + silu(self.node_out(silu(self.node_in(torch.cat([normed, mean], -1))))), message


def fourier_features(angle: Float[Tensor, "*pairs 3"], frequencies: int) -> Float[Tensor, "*pairs fourier"]:
    """sin(k d) of k = 0 … F−1 for each of the three angles d, then cos(k d): 6F numbers of period 2π."""
    k = torch.arange(frequencies, dtype=angle.dtype, device=angle.device)
    phase = (angle.detach()[..., None] * k).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], -1)


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


def _sum_over_images(
    values: Float[Tensor, "images channels"], images: Images, angle: Float[Tensor, "crystals atoms atoms 3"]
) -> Float[Tensor, "crystals atoms atoms channels"]:
    shape = angle.shape[:3]
    out = values.new_zeros(math.prod(shape), values.shape[1])
    return out.index_add(0, images.pair, values).unflatten(0, shape)


def _product(
    a: Float[Tensor, "crystals 3 3"], b: Float[Tensor, "crystals 3 3"]
) -> Float[Tensor, "crystals 3 3"]:
    """A b, in the precision of its operands under autocast too: lattices need more than three digits."""
    return (a[..., None] * b[:, None]).sum(2)
