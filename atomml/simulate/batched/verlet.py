"""Neighbours of many structures: a Verlet list for each, that survives small changes of the cell too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from atomml.errors import AtommlError
from atomml.graph import neighbor_list, transpose_index
from atomml.shapes import Bool, Float64, Int64, Tensor
from atomml.simulate.batched.structures import Structures

__all__ = ["Pairs", "VerletLists"]


class Pairs(NamedTuple):
    """Pairs of all structures, sorted by centre, with r = r_j + S·cell − r_i; ``transpose`` sorts by neighbour."""

    neighbor: Int64[Tensor, " edges"]
    center: Int64[Tensor, " edges"]
    shift: Float64[Tensor, "edges 3"]
    transpose: Int64[Tensor, " edges"]

    def within(self, keep: Bool[Tensor, " edges"]) -> Pairs:
        """Those of the pairs that are to be kept."""
        number = torch.cumsum(keep, 0) - 1
        transpose = number[self.transpose[keep[self.transpose]]]
        return Pairs(self.neighbor[keep], self.center[keep], self.shift[keep], transpose)


class _List(NamedTuple):
    """Pairs of one structure, and the positions and the cell they were found for."""

    pairs: Pairs
    pos: Float64[Tensor, "atoms 3"]
    cell: Float64[Tensor, "3 3"]


class VerletLists:
    """Pairs within cutoff + skin of each of several structures, made anew only where they may be incomplete.

    With r = (r₀ A + u) for the deformation A = cell₀⁻¹ cell since a list was made, a distance that was d₀ is now at
    least σ d₀ − 2 max|u|, where σ = 1 − ‖A − 1‖ ≤ the smallest singular value of A. A list is complete as long as

        σ (cutoff + skin) − 2 max|u| ≥ cutoff.

    Args:
        cutoff: Å.
        skin: Å; 0 makes new lists at every change.

    Attributes:
        builds: lists made so far.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        self.cutoff, self.skin, self.builds = float(cutoff), float(skin), 0
        self._lists: list[_List | None] = []
        self._joined: tuple[Pairs, Float64[Tensor, "atoms 3"], Float64[Tensor, "graphs 3 3"]] | None = None

    def __len__(self) -> int:
        return len(self._lists)

    def extend(self, n: int) -> None:
        """Make room for ``n`` more structures."""
        if n:
            self._lists += [None] * n
            self._joined = None

    def select(self, keep: Bool[Tensor, " graphs"]) -> VerletLists:
        """The lists of some of the structures."""
        if bool(keep.all()):
            return self
        lists = VerletLists(self.cutoff, self.skin)
        lists.builds = self.builds
        lists._lists = [own for own, kept in zip(self._lists, keep.tolist(), strict=True) if kept]
        return lists

    def update(self, structures: Structures) -> dict[int, AtommlError]:
        """Make new lists where needed; errors of structures that have no list, by their place in the batch."""
        errors: dict[int, AtommlError] = {}
        for k in self._outdated(structures):
            rows = structures.rows(k)
            pos, cell, pbc = structures.pos[rows], structures.cell[k], structures.pbc[k]
            r, h, periodic = (x.cpu().numpy() for x in (pos, cell, pbc))
            try:
                lists = neighbor_list(r, h, periodic, self.cutoff + self.skin)
                found = tuple(map(torch.from_numpy, lists))
            except AtommlError as error:
                none = torch.zeros(0, dtype=torch.int64)
                errors[k], found = error, (none, none, torch.zeros(0, 3, dtype=torch.float64))
            pairs = Pairs(*(x.to(pos.device) for x in (*found, transpose_index(found[0]))))
            self._lists[k] = _List(pairs, pos.clone(), cell.clone())
            self._joined = None
            self.builds += 1
        return errors

    def pairs(self, structures: Structures) -> Pairs:
        """All pairs that are kept, of all structures; `update` comes first."""
        return self._join(structures)[0]

    def _join(
        self, structures: Structures
    ) -> tuple[Pairs, Float64[Tensor, "atoms 3"], Float64[Tensor, "graphs 3 3"]]:
        if self._joined is None:
            lists = [own for own in self._lists if own is not None]
            device = structures.pos.device
            edges = torch.tensor([len(own.pairs.neighbor) for own in lists], device=device)
            atoms = structures.counts.cumsum(0) - structures.counts
            offsets = atoms, atoms, None, edges.cumsum(0) - edges
            columns = [torch.cat(column) for column in zip(*(own.pairs for own in lists), strict=True)]
            shifted = [
                x if offset is None else x + torch.repeat_interleave(offset, edges)
                for x, offset in zip(columns, offsets, strict=True)
            ]
            pos, cell = torch.cat([own.pos for own in lists]), torch.stack([own.cell for own in lists])
            self._joined = Pairs(*shifted), pos, cell
        return self._joined

    def _outdated(self, structures: Structures) -> list[int]:
        """Structures whose list may be incomplete, or that have none."""
        missing = np.array([own is None for own in self._lists])
        if missing.all():
            return list(range(len(self)))
        if missing.any():  # only those are new; the others are looked at alone
            known = torch.from_numpy(~missing).to(structures.pos.device)
            part = self.select(known)
            old = np.flatnonzero(~missing)[part._outdated(structures.select(known))]
            return sorted([*np.flatnonzero(missing).tolist(), *old.tolist()])
        _, pos, cell = self._join(structures)
        one = torch.eye(3, dtype=pos.dtype, device=pos.device)
        volume = structures.volume[:, None, None]
        deformation = torch.where(
            volume, torch.linalg.solve(torch.where(volume, cell, one), structures.cell), one
        )
        sigma = 1 - (deformation - one).flatten(1).norm(dim=1)
        moved = structures.pos - torch.einsum("na,nab->nb", pos, deformation[structures.owner])
        reach = sigma * (self.cutoff + self.skin) - 2 * structures.largest(moved.norm(dim=1))
        # a hair above the cutoff, so that rounding cannot lose a pair
        complete = reach >= self.cutoff * (1 + 1e-9)
        # without a volume nothing is known about a cell that changed
        complete &= structures.volume | (cell == structures.cell).flatten(1).all(1)
        return torch.nonzero(~complete)[:, 0].tolist()
