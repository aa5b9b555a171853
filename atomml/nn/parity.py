"""Features of both parities: those of spherical harmonics, (−1)^l, and the opposite ones.

A tensor [atoms, (L+1)², p · C] holds p = 1 or 2 parities of C channels: the natural ones first, then the unnatural
ones, −(−1)^l (pseudoscalars, axial vectors, …). A coupling path (l1, l2, l3) with harmonics of natural parity keeps
the kind of its input where l1 + l2 + l3 is even and exchanges the kinds where it is odd.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.sparse_coupling import SparseCoupling, sparse_coupling
from atomml.nn.cg_convolution import CGConvolution
from atomml.nn.linear import DegreeLinear
from atomml.shapes import Float, Int64, Tensor

__all__ = ["ParityConvolution", "ParityLinear", "odd_coupling"]


def odd_coupling(lmax: int, *, lmax_y: int, lmax_out: int) -> SparseCoupling:
    """The paths of odd l1 + l2 + l3 only, with the numbers of `sparse_coupling` of kind ``so3``.

    Args:
        lmax: highest degree of the features.
        lmax_y: highest degree of the harmonics.
        lmax_out: highest degree of the output.

    Raises:
        UnsupportedError: a negative degree.
    """
    full = sparse_coupling(lmax, "so3", lmax_y=lmax_y, lmax_out=lmax_out)
    odd = np.array([sum(path) % 2 == 1 for path in full.paths])
    kept = odd[full.entries[:, 3]]
    entries = full.entries[kept]
    entries[:, 3] = (np.cumsum(odd, dtype=np.int32) - 1)[entries[:, 3]]
    paths = tuple(path for path, keep in zip(full.paths, odd, strict=True) if keep)
    return replace(full, paths=paths, entries=entries, values=full.values[kept])


class ParityLinear(nn.Module):
    """A `DegreeLinear` for each parity, so that reflections commute with it too.

    Args:
        lmax: highest degree.
        channels: number of channels of every degree and parity, before and after.
        parities: 1 (natural) or 2 (natural, unnatural).
        n_species: as in `DegreeLinear`.
    """

    def __init__(self, lmax: int, channels: int, parities: int, *, n_species: int | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            DegreeLinear(lmax, channels, channels, n_species=n_species) for _ in range(parities)
        )

    def forward(
        self, x: Float[Tensor, "atoms dim channels"], species: Int64[Tensor, " atoms"] | None = None
    ) -> Float[Tensor, "atoms dim channels"]:
        """Mixed channels."""
        blocks = x.chunk(len(self.parts), -1)
        mixed = [part(block, species) for part, block in zip(self.parts, blocks, strict=True)]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, -1)


class ParityConvolution(nn.Module):
    """Sparse Clebsch–Gordan convolution between features of one or both parities.

    natural'   = even(natural)   + odd(unnatural)
    unnatural' = even(unnatural) + odd(natural)

    ``even`` and ``odd`` are `CGConvolution` over the paths of even and odd l1 + l2 + l3, with weights of their own
    for each path, parity and channel. Both parities go through one call as more channels; terms without an input
    or without an output are left out, and so is everything odd if only natural features come and go.

    Args:
        limits: highest degrees of the features, the harmonics and the output.
        channels: number of channels of every degree and parity.
        parities_in: 1 (natural) or 2.
        parities_out: likewise.

    Attributes:
        weights: (paths, channels) of the radial weights that each of the convolutions takes.
    """

    def __init__(
        self, limits: tuple[int, int, int], channels: int, parities_in: int, parities_out: int
    ) -> None:
        super().__init__()
        lmax, lmax_y, lmax_out = limits
        self.channels, self.parities_in, self.parities_out = channels, parities_in, parities_out
        couplings = [sparse_coupling(lmax, "cg_even", lmax_y=lmax_y, lmax_out=lmax_out)]
        parities = [min(parities_in, parities_out)]
        if parities_in + parities_out > 2:
            couplings.append(odd_coupling(lmax, lmax_y=lmax_y, lmax_out=lmax_out))
            parities.append(parities_in + parities_out - 2)
        self.convolutions = nn.ModuleList(CGConvolution(coupling) for coupling in couplings)
        self.weights = [
            (len(coupling.paths), p * channels) for coupling, p in zip(couplings, parities, strict=True)
        ]

    def forward(
        self,
        x: Float[Tensor, "atoms dim channels"],
        y: Float[Tensor, "edges dim_y"],
        w: list[Tensor],
        index: EdgeIndex,
    ) -> Float[Tensor, "atoms dim_out channels_out"]:
        """Convolved features; ``w`` holds one tensor [edges, paths, channels] for each of ``weights``.

        Raises:
            AtommlError: shapes that do not fit together, tensors on several devices, an index out of range.
        """
        even, *odd = self.convolutions
        kept = even(x[..., : w[0].shape[-1]].contiguous(), y, w[0], index)
        if not odd:
            return kept
        turned = odd[0](x[..., -w[1].shape[-1] :].contiguous(), y, w[1], index)
        if self.parities_in < self.parities_out:
            return torch.cat([kept, turned], -1)
        return kept + (turned if self.parities_out == 1 else turned.roll(self.channels, -1))
