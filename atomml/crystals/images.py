"""Distances between an atom and the periodic images of another, of crystals of which little is known yet.

Coordinates differ by angles d. The images of the pair lie at the displacements

    v_n = Σ_a (wrap(d_a)/2π + n_a) μ_a,        n_a in {−1, 0, 1},

μ_a the rows of the believed lattice. Each counts with a window that vanishes at a cutoff, and where
|wrap(d_a)/2π + n_a| reaches 3/2, beyond which no image is looked for: all that is made of the sum over images is
smooth and has the period of the cell, whatever the lattice, flat and zero ones included.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from atomml.crystals.circle import wrap
from atomml.shapes import Bool, Float, Int64, Tensor

__all__ = ["Images", "images_within"]

REACH = 1.6
"""The cutoff, in units of the scaled lattice: about 4 Å."""
FULL = 0.75
"""Share of the cell along an axis up to which an image counts fully; at twice of it, it counts no more."""


class Images(NamedTuple):
    """Images that are nearer than the cutoff.

    Attributes:
        pair: its number among all B N² pairs.
        displacement: from the first atom of the pair to the image of the second, in units of the lattice vectors.
        radial: K functions of the distance.
        shape: (B, N, N).
    """

    pair: Int64[Tensor, " images"]
    displacement: Float[Tensor, "images 3"]
    radial: Float[Tensor, "images functions"]
    shape: torch.Size

    def sum(self, values: Float[Tensor, "images channels"]) -> Float[Tensor, "crystals atoms atoms channels"]:
        """Σ_n over the images of each pair."""
        out = values.new_zeros(self.shape.numel(), values.shape[1])
        return out.index_add(0, self.pair, values).unflatten(0, self.shape)


def images_within(
    angle: Float[Tensor, "crystals atoms atoms 3"],
    lattice: Float[Tensor, "crystals 3 3"],
    mask: Bool[Tensor, "crystals atoms"],
    functions: int,
) -> Images:
    """All images of pairs with g_k(r) = w exp(−((r − r_k) K/c)²), r_k = c (k − 1)/(K − 1), of their distances r.

    w = h(r/c) Π_a h(x_a) with h a half cosine from 1 to 0: over [0, 1] for r/c, over |f_a| in [3/4, 3/2] for x_a.

    Args:
        angle: d, differences of the coordinates, of every second atom from every first one.
        lattice: μ.
        mask: where there is an atom.
        functions: K.
    """
    axis = torch.tensor([-1.0, 0.0, 1.0], dtype=angle.dtype, device=angle.device)
    cells = torch.cartesian_prod(axis, axis, axis)
    inside = wrap(angle).flatten(1, 2) / (2 * math.pi)
    vectors, corners = inside @ lattice, cells @ lattice
    square = (
        vectors.square().sum(2, keepdim=True)
        + 2 * vectors @ corners.transpose(1, 2)
        + corners.square().sum(2)[:, None]
    )
    both = (mask[:, :, None] & mask[:, None]).flatten(1)
    pair, image = ((square < REACH**2) & both[:, :, None]).flatten(0, 1).nonzero(as_tuple=True)
    displacement = inside.flatten(0, 1)[pair] + cells[image]
    r = square.flatten(0, 1)[pair, image].clamp(min=0).sqrt()[:, None]
    window = _fade(r[:, 0] / REACH) * _fade((displacement.abs() / FULL - 1).clamp(min=0)).prod(1)
    centres = torch.linspace(0, REACH, functions, dtype=r.dtype, device=r.device)
    radial = torch.exp(-(((r - centres) * functions / REACH) ** 2))
    return Images(pair, displacement, window[:, None] * radial, angle.shape[:3])


def _fade(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(1 + cos πx)/2: from 1 at 0 to 0 at 1, flat at both."""
    return (1 + torch.cos(math.pi * x)) / 2
