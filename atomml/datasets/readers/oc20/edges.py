"""The neighbour lists that some OC20 files carry, compared with those that atomml finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atomml.datasets.readers.oc20.values import integers_of, required
from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = ["EdgeReport"]

NEAR = 1e-3  # Å; distances were computed from float32, so nothing is said of edges this close to a limit
IMAGES = 64  # shifts beyond ±31 cells do not occur within a cutoff
EXAMPLES = 5


@dataclass
class EdgeReport:
    """Sums over the frames that were compared.

    Attributes:
        frames: compared.
        equal: without a difference.
        missing: pairs within the cutoff, and among the nearest that are kept of an atom, that are not stored.
        extra: stored pairs that are farther apart than the cutoff, or stored twice.
        truncated: atoms of which only the nearest neighbours are stored.
        examples: where the first differences are.
    """

    frames: int = 0
    equal: int = 0
    missing: int = 0
    extra: int = 0
    truncated: int = 0
    examples: list[str] = field(default_factory=list)

    def add(
        self,
        record: Mapping[str, Any],
        pos: Float64[ndarray, "atoms 3"],
        cell: Float64[ndarray, "3 3"],
        pbc: Bool[ndarray, " 3"],
        cutoff: float,
        most: int,
        where: str,
    ) -> None:
        """Compare the edges of one record.

        Args:
            record: with ``edge_index`` [2, E] (row 0 neighbour, row 1 centre) and ``cell_offsets`` [E, 3].
            pos: Å.
            cell: rows are the lattice vectors, Å.
            pbc: periodic directions.
            cutoff: Å.
            most: neighbours kept of an atom.
            where: file and key.

        Raises:
            DataError: edges of another shape or to atoms that do not exist.
        """
        stored = _stored(record, len(pos), where)
        missing, extra, truncated = compare_edges(stored, pos, cell, pbc, cutoff, most)
        self.frames += 1
        self.equal += missing == 0 and extra == 0
        self.missing += missing
        self.extra += extra
        self.truncated += truncated
        if (missing or extra) and len(self.examples) < EXAMPLES:
            self.examples.append(f"{where}: {missing} missing, {extra} extra")

    def report(self) -> dict[str, Any]:
        """For ``info["edges"]``; empty if nothing was compared."""
        return dict(vars(self)) if self.frames else {}

    def warnings(self, where: str) -> list[str]:
        """Whether edges of ``where`` differ from those of atomml."""
        if self.equal == self.frames:
            return []
        return [
            f"{where}: the stored edges of {self.frames - self.equal} of {self.frames} frames differ from those "
            f"within the cutoff ({self.missing} missing, {self.extra} extra)."
        ]


def compare_edges(
    stored: Int64[ndarray, "edges 5"],
    pos: Float64[ndarray, "atoms 3"],
    cell: Float64[ndarray, "3 3"],
    pbc: Bool[ndarray, " 3"],
    cutoff: float,
    most: int,
) -> tuple[int, int, int]:
    """Missing edges, extra edges and truncated atoms; ``stored`` has columns j, i, S (neighbour, centre, shift)."""
    from atomml.graph.neighbors import neighbor_list  # vesin is not needed to read without checking

    j, i, shift = neighbor_list(pos, cell, pbc, cutoff + NEAR)
    distance = np.linalg.norm(pos[j] + shift @ cell - pos[i], axis=1)
    ours = _codes(np.column_stack([j, i, shift.astype(np.int64)]), len(pos))
    theirs = _codes(stored, len(pos))
    unique = np.unique(theirs)
    is_stored = np.isin(ours, unique)
    n_stored = np.bincount(stored[:, 1], minlength=len(pos))
    farthest = np.zeros(len(pos))
    np.maximum.at(farthest, i[is_stored], distance[is_stored])
    full = n_stored >= most - 1  # the atom itself took a place before it was removed
    limit = np.where(full, np.minimum(farthest, cutoff), cutoff) - NEAR
    missing = ~is_stored & (distance < limit[i])
    extra = len(theirs) - int(np.isin(unique, ours).sum())
    within = np.bincount(i[distance < cutoff - NEAR], minlength=len(pos))
    return int(missing.sum()), extra, int((full & (within > n_stored)).sum())


def _stored(record: Mapping[str, Any], n: int, where: str) -> Int64[ndarray, "edges 5"]:
    index = integers_of(required(record, "edge_index", where), "edge_index", where)
    shift = integers_of(required(record, "cell_offsets", where), "cell_offsets", where)
    if index.ndim != 2 or len(index) != 2 or shift.shape != (index.shape[1], 3):
        raise DataError(
            f"edge_index has shape {index.shape} and cell_offsets {shift.shape}, not (2, E) and (E, 3).",
            where=where,
            fix="read without edges: check",
        )
    if index.size and (index.min() < 0 or index.max() >= n):
        raise DataError(f"An edge goes to an atom beyond the {n} there are.", where=where)
    return np.column_stack([index.T, shift])


def _codes(edges: Int64[ndarray, "edges 5"], n: int) -> Int64[ndarray, " edges"]:
    """One number per edge; shifts that are too far to be neighbours share one that no edge of ours has."""
    shift = edges[:, 2:] + IMAGES // 2
    far = ((shift < 0) | (shift >= IMAGES)).any(axis=1)
    code = edges[:, 0] * n + edges[:, 1]
    for k in range(3):
        code = code * IMAGES + shift[:, k]
    return np.where(far, -1, code)
