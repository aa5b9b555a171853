"""Equivariant linear maps on features [atoms, (L+1)², channels]."""

from __future__ import annotations

import math

import torch
from torch import nn

from atomml.shapes import Float, Int64, Tensor

__all__ = ["DegreeLinear", "SpeciesScale", "degree_of_component"]


def degree_of_component(lmax: int) -> Int64[Tensor, " dim"]:
    """Degree l of each of the (L+1)² components, (0, 1, 1, 1, 2, …)."""
    return torch.repeat_interleave(torch.arange(lmax + 1), 2 * torch.arange(lmax + 1) + 1)


class DegreeLinear(nn.Module):
    """y[l, :] = x[l, :] W_l: one channel matrix for each degree l, so that rotations commute with it.

    With ``per_species`` there is one set of matrices for each species, and atoms use that of their own.
    """

    def __init__(self, lmax: int, n_in: int, n_out: int, *, n_species: int | None = None) -> None:
        super().__init__()
        self.lmax, self.n_species = lmax, n_species
        self.slices = [slice(degree**2, (degree + 1) ** 2) for degree in range(lmax + 1)]
        lead = () if n_species is None else (n_species,)
        self.weight = nn.Parameter(torch.randn(*lead, lmax + 1, n_in, n_out) / math.sqrt(n_in))

    def forward(
        self, x: Float[Tensor, "atoms dim channels"], species: Int64[Tensor, " atoms"] | None = None
    ) -> Float[Tensor, "atoms dim out"]:
        """Mix channels; ``species`` [atoms] counts from 0 and is needed for species-dependent maps only."""
        if self.n_species is None or species is None:
            return self._mix(x, self.weight)
        order = torch.argsort(species, stable=True)
        counts = torch.bincount(species, minlength=self.n_species).tolist()
        blocks = x.index_select(0, order).split(counts)
        mixed = torch.cat([self._mix(block, w) for block, w in zip(blocks, self.weight, strict=True)])
        return mixed.index_select(0, torch.argsort(order))

    def _mix(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([x[:, s] @ w for s, w in zip(self.slices, weight, strict=True)], 1)


class SpeciesScale(nn.Module):
    """y[l, c] = s[species, l, c] · x[l, c]: a diagonal, species-dependent equivariant map."""

    def __init__(self, lmax: int, channels: int, n_species: int, *, std: float = 0.3) -> None:
        super().__init__()
        self.degree: Tensor
        self.register_buffer("degree", degree_of_component(lmax), persistent=False)
        self.scale = nn.Parameter(1 + std * torch.randn(n_species, lmax + 1, channels))

    def forward(
        self, x: Float[Tensor, "atoms dim channels"], species: Int64[Tensor, " atoms"]
    ) -> Float[Tensor, "atoms dim channels"]:
        """Scaled features."""
        return x * self.scale[species][:, self.degree]
