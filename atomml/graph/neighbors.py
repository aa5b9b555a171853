"""Neighbours of every atom within a cutoff, for any cell and any mixture of periodic directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = ["SkinnedNeighbors", "check_structure", "neighbor_list"]

Neighbors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

_MAX_NEIGHBORS = 1e5  # no matter is that dense: a cell of wrong units or no thickness
_VESIN_CELLS = 1e5  # above it vesin merges cells, and divides by zero if a direction is left with none


def neighbor_list(
    pos: Float64[ndarray, "atoms 3"], cell: Float64[ndarray, "3 3"], pbc: Bool[ndarray, " 3"], cutoff: float
) -> tuple[Int64[ndarray, " edges"], Int64[ndarray, " edges"], Float64[ndarray, "edges 3"]]:
    """All ordered pairs with |r_j + S·cell − r_i| < cutoff, sorted by centre i, then j, then S.

    Atoms may lie outside the cell. Lattice vectors of non-periodic directions are ignored: they may be zero
    or huge. The distance of (i, j, S) equals that of (j, i, −S) bit for bit, so the list is always symmetric.

    Returns:
        neighbour j [E], centre i [E], shift S [E, 3] (integers, as float64; 0 in non-periodic directions).

    Raises:
        DataError: no atoms, non-finite numbers, a periodic direction without a lattice vector, a cutoff that
            is not positive, or a cell so small or flat that an atom would have over 10⁵ neighbours.
    """
    check_structure(pos, cell, pbc, cutoff)
    # one part in 10⁹, and the rounding of far-away coordinates: the exact test is in _within
    reach = cutoff * (1 + 1e-9) + 1e-14 * float(np.abs(pos).max())
    box, compact, image = _compact(pos, cell, pbc, reach)
    widths = _widths(box)
    expected = len(pos) / np.abs(np.linalg.det(box)) * 4 / 3 * np.pi * reach**3
    if expected > _MAX_NEIGHBORS:
        raise DataError(
            f"Each atom would have about {expected:.0e} neighbours within {cutoff:g} Å: "
            f"{len(pos)} atoms in a cell {widths.min():.2g} Å thick.",
            fix="check the cell and the positions (Å), or lower the cutoff",
        )
    # every direction of the padded box may pass for periodic, which is vesin's fast path for mixed directions
    search = NeighborList(cutoff=_search_radius(widths, reach), full_list=True, n_threads=1)
    first, second, shift = search.compute(compact, box, True, "ijS")
    i, j, integer = first.astype(np.int64), second.astype(np.int64), shift.astype(np.int64)
    if not pbc.all():
        real = (integer[:, ~pbc] == 0).all(1)
        i, j, integer = i[real], j[real], integer[real]
    if image.any():
        integer += image[i] - image[j]
    keep = _within(pos, cell, i, j, integer.astype(np.float64), cutoff)
    i, j, integer = i[keep], j[keep], integer[keep]
    order = _order(i, j, integer, len(pos))
    return j[order], i[order], integer[order].astype(np.float64)


class SkinnedNeighbors:
    """A Verlet list for molecular dynamics: equal to a fresh `neighbor_list` at every call, but cheaper.

    Pairs within cutoff + skin are kept until an atom has moved more than skin/2 or the cell has changed, and
    are filtered to the cutoff at every call. The driver may wrap atoms back into the cell or not.

    Args:
        cutoff: Å.
        skin: Å; 0 builds a fresh list every time an atom moves.

    Attributes:
        calls, builds: how often the list was asked for and how often it was built.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise DataError(f"The skin must be zero or more, not {skin!r} Å.")
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.calls = self.builds = 0
        self._pairs: Neighbors | None = None
        self._reference = np.zeros((0, 3)), np.zeros((3, 3))
        self._box: tuple[bytes, bytes] | None = None
        self._to_images = np.zeros((3, 0))
        self._unwrapped = self._reference[0]
        self._shortest: Neighbors | None = None

    def __call__(
        self, pos: Float64[ndarray, "atoms 3"], cell: Float64[ndarray, "3 3"], pbc: Bool[ndarray, " 3"]
    ) -> tuple[Int64[ndarray, " edges"], Int64[ndarray, " edges"], Float64[ndarray, "edges 3"]]:
        """The neighbour list of these positions; arguments, result and errors as in `neighbor_list`."""
        j, i, shift = self.pairs(pos, cell, pbc)
        keep = _within(pos, cell, i, j, shift, self.cutoff)
        return j[keep], i[keep], shift[keep]

    def pairs(
        self, pos: Float64[ndarray, "atoms 3"], cell: Float64[ndarray, "3 3"], pbc: Bool[ndarray, " 3"]
    ) -> tuple[Int64[ndarray, " edges"], Int64[ndarray, " edges"], Float64[ndarray, "edges 3"]]:
        """All pairs that are kept: those of `neighbor_list`, and some beyond the cutoff; sorted by centre."""
        self.calls += 1
        image = self._wrapped_by(pos, cell, pbc)
        if image is None or self._pairs is None:
            check_structure(pos, cell, pbc, self.cutoff)
            self.builds += 1
            self._pairs = neighbor_list(pos, cell, pbc, self.cutoff + self.skin)
            self._reference = pos.copy(), cell.copy()
            self._box, self._to_images = _box_of(cell, pbc), np.linalg.pinv(cell[pbc])
            self._unwrapped, self._shortest = self._reference[0], None
            return self._pairs
        j, i, shift = self._pairs
        return (j, i, shift + image[i] - image[j]) if len(image) else self._pairs

    def closest(self) -> float:
        """Shortest distance in Å between the positions last asked for; infinity beyond the cutoff.

        Since the list was built a distance d has changed by at most the skin, so the closest pair of now was no
        longer than the closest of then plus two skins: only those pairs are measured.
        """
        if self._pairs is None or len(self._pairs[0]) == 0:
            return float("inf")
        cell = self._reference[1]
        if self._shortest is None:
            j, i, shift = self._pairs
            d = _distances(self._reference[0], cell, j, i, shift)
            short = (d <= d.min() + 2 * self.skin + 1e-9) & (i <= j)
            self._shortest = j[short], i[short], shift[short]
        nearest = float(_distances(self._unwrapped, cell, *self._shortest).min())
        return nearest if nearest < self.cutoff else float("inf")

    def _wrapped_by(
        self, pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
    ) -> NDArray[np.float64] | None:
        """Lattice vectors [N, 3] by which atoms were wrapped since the last build, [0, 3] if no atom was.

        None if the list is outdated.
        """
        old, old_cell = self._reference
        if len(pos) != len(old) or _box_of(cell, pbc) != self._box:
            return None
        # a hair below half the skin, so that rounding cannot lose a pair
        reach = (0.5 * self.skin) ** 2 * (1 - 1e-9)
        moved = pos - old
        image = np.zeros((0, 3))
        if not _largest_square(moved) <= reach:
            if not pbc.any() or not np.isfinite(moved).all():
                return None
            image = np.zeros_like(pos)
            image[:, pbc] = np.rint(moved @ self._to_images)
            moved -= image @ old_cell
            if _largest_square(moved) > reach:
                return None
        self._unwrapped = old + moved
        return image


def check_structure(
    pos: Float64[ndarray, "atoms 3"], cell: Float64[ndarray, "3 3"], pbc: Bool[ndarray, " 3"], cutoff: float
) -> None:
    """Refuse structures that have no neighbour list.

    Raises:
        DataError: no atoms, non-finite numbers, a periodic direction without a lattice vector, a cutoff ≤ 0.
    """
    if not (np.isfinite(cutoff) and cutoff > 0):
        raise DataError(f"The cutoff must be a positive length in Å, not {cutoff!r}.")
    if len(pos) == 0:
        raise DataError("This structure has no atoms.", fix="remove it from the file")
    if not np.isfinite(pos).all():
        atom = int(np.flatnonzero(~np.isfinite(pos).all(1))[0])
        raise DataError("A position is not a finite number.", where=f"atom {atom}: {pos[atom].tolist()}")
    if not np.isfinite(cell).all():
        raise DataError("The cell is not made of finite numbers.", where=f"cell {cell.tolist()}")
    vectors = cell[pbc]
    length = np.linalg.norm(vectors, axis=1)
    if (length == 0).any():
        axis = "abc"[np.flatnonzero(pbc)[np.argmin(length)]]
        raise DataError(
            f"The structure is periodic along {axis}, but lattice vector {axis} is zero.",
            where=f"cell {cell.tolist()}, pbc {pbc.tolist()}",
            fix="give the lattice vector, or set pbc to False in this direction",
        )
    if len(vectors) and np.linalg.svd(vectors / length[:, None], compute_uv=False)[-1] < 1e-6:
        raise DataError(
            "The lattice vectors of the periodic directions are linearly dependent: the cell has no volume.",
            where=f"cell {cell.tolist()}, pbc {pbc.tolist()}",
        )


def _compact(
    pos: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], reach: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Box, positions and image numbers with the same neighbours and no empty space.

    Periodic directions: r' = r − n·cell lies in the cell. Other directions: the axes are made orthonormal to
    the periodic ones, and gaps wider than 2·reach are narrowed to it, which brings no pair within reach.
    """
    box = cell.copy()
    image = np.zeros(pos.shape, dtype=np.int64)
    compact = pos - pos.min(0)
    if not pbc.all():
        # the right null space of the periodic vectors
        axes = np.linalg.svd(cell[pbc])[2][int(pbc.sum()) :] if pbc.any() else np.eye(3)
        for k, axis in zip(np.flatnonzero(~pbc), axes, strict=True):
            old = compact @ axis
            new = _narrow_gaps(old, reach)
            compact = compact + (new - old)[:, None] * axis
            box[k] = axis * (new.max() + 2 * reach)
    if pbc.any():
        count = np.floor(np.linalg.solve(box.T, compact.T).T)
        count[:, ~pbc] = 0
        compact = compact - count @ box
        image = count.astype(np.int64)
    return box, compact, image


def _narrow_gaps(x: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Coordinates that start at ``reach``, in the same order, with no gap wider than 2·reach."""
    order = np.argsort(x, kind="stable")
    gaps = np.diff(x[order])
    removed = np.cumsum(np.where(gaps > 2 * reach, gaps - 2 * reach, 0.0))
    new = np.empty_like(x)
    new[order] = x[order] - x[order[0]] + reach
    new[order[1:]] -= removed
    return new


def _widths(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance between opposite faces along each lattice vector, Å."""
    return 1 / np.linalg.norm(np.linalg.inv(box), axis=0)


def _search_radius(widths: NDArray[np.float64], reach: float) -> float:
    """A radius ≥ reach for which vesin's cell grid is sound: for flat or thin boxes it can be too fine."""
    radius = reach
    while True:
        cells = np.maximum(np.trunc(widths / radius), 1)
        if cells.prod() <= _VESIN_CELLS or cells.min() * np.cbrt(_VESIN_CELLS / cells.prod()) >= 2:
            return radius
        radius *= 1.25


def _box_of(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> tuple[bytes, bytes]:
    """What must stay the same: periodic directions and their lattice vectors; quicker compared than arrays."""
    return pbc.tobytes(), cell[pbc].tobytes()


def _largest_square(vectors: NDArray[np.float64]) -> float:
    return float(np.einsum("ij,ij->i", vectors, vectors).max())


def _distances(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    j: NDArray[np.int64],
    i: NDArray[np.int64],
    shift: NDArray[np.float64],
) -> NDArray[np.float64]:
    """|r_j − r_i + S·cell| in Å."""
    vector: NDArray[np.float64] = pos[j] - pos[i] + shift @ cell
    return np.sqrt((vector * vector).sum(1))


def _within(
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    shift: NDArray[np.float64],
    cutoff: float,
) -> NDArray[np.bool_]:
    """|r_j − r_i + S·cell| < cutoff; elementwise, so that a pair's answer does not depend on the others."""
    lattice = shift[:, :1] * cell[0] + shift[:, 1:2] * cell[1] + shift[:, 2:] * cell[2]
    vector = pos[j] - pos[i] + lattice
    return (vector * vector).sum(1) < cutoff * cutoff


def _order(i: NDArray[np.int64], j: NDArray[np.int64], shift: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Permutation that sorts by i, j and S; one integer key is several times faster than a lexical sort."""
    if len(i) == 0:
        return np.zeros(0, dtype=np.int64)
    low = shift.min(0)
    a, b, c = (int(size) for size in shift.max(0) - low + 1)
    if n * n * a * b * c >= 2**63:
        return np.lexsort((*shift.T[::-1], j, i))
    s = shift - low
    return np.argsort((((i * n + j) * a + s[:, 0]) * b + s[:, 1]) * c + s[:, 2])
