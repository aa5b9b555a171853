"""Neighbours of every atom within a cutoff, for any cell and any mixture of periodic directions."""

from __future__ import annotations

import numpy as np
from vesin import NeighborList

from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = ["neighbor_list"]


def neighbor_list(
    pos: Float64[ndarray, "atoms 3"], cell: Float64[ndarray, "3 3"], pbc: Bool[ndarray, "3"], cutoff: float
) -> tuple[Int64[ndarray, " edges"], Int64[ndarray, " edges"], Float64[ndarray, "edges 3"]]:
    """All ordered pairs with |r_j + S·cell − r_i| < cutoff, sorted by centre i, then j, then S.

    Returns:
        neighbour j [E], centre i [E], shift S [E, 3] (integers, as float64).
    """
    i, j, shift = NeighborList(cutoff=cutoff, full_list=True, n_threads=1).compute(
        pos, cell, [bool(p) for p in pbc], "ijS"
    )
    order = np.lexsort((*shift.T[::-1], j, i))
    return (
        j[order].astype(np.int64),
        i[order].astype(np.int64),
        np.ascontiguousarray(shift[order], dtype=np.float64),
    )
