"""`FrameIndex`: what filters, splits and batches need to know of every frame, so that they decode none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from atomml.shapes import Bool, Float64, Int64, ndarray

if TYPE_CHECKING:
    from atomml.datasets.store import FrameStore

__all__ = ["FrameIndex", "count_edges", "frame_index"]

ELEMENTS = 120  # bits per frame, a whole number of bytes
CHUNK = 200_000  # frames at a time


@dataclass(frozen=True)
class FrameIndex:
    """Columns derived from the frames; a stored index is as old as its store and never written again.

    Attributes:
        max_force: largest |F_i| of each frame, eV/Å; NaN where a force is absent.
        elements: bit z of a frame's 120 (first bit of a byte highest) says that it has element z.
        n_edges: ordered neighbour pairs within ``edge_cutoff``, if they were counted at conversion.
        edge_cutoff: Å.
    """

    max_force: Float64[ndarray, " frames"]
    elements: UInt8[ndarray, "frames 15"]
    n_edges: Int64[ndarray, " frames"] | None = None
    edge_cutoff: float | None = None

    def has(self, numbers: Iterable[int]) -> Bool[ndarray, "frames numbers"]:
        """Which frames have which of the elements ``numbers``."""
        z = np.array(list(numbers), dtype=np.int64)
        return (self.elements[:, z // 8] >> (7 - z % 8).astype(np.uint8)) & 1 == 1

    def present(self, rows: ndarray | None = None) -> list[int]:
        """Atomic numbers that occur in ``rows`` (all by default), ascending."""
        bits = self.elements if rows is None else self.elements[rows]
        union = np.bitwise_or.reduce(bits, axis=0, initial=0)
        return [int(z) for z in np.flatnonzero(np.unpackbits(union.astype(np.uint8)))]


def frame_index(store: FrameStore) -> FrameIndex:
    """The index of a store, computed from its columns."""
    n = len(store)
    largest, bits = np.full(n, np.nan), np.zeros((n, ELEMENTS // 8), dtype=np.uint8)
    for first in range(0, n, CHUNK):
        stop = min(first + CHUNK, n)
        begin, end = int(store.offsets[first]), int(store.offsets[stop])
        starts = np.asarray(store.offsets[first:stop]) - begin
        norm = np.sqrt(np.einsum("ij,ij->i", store.forces[begin:end], store.forces[begin:end]))
        largest[first:stop] = np.maximum.reduceat(norm, starts)
        has = np.zeros((stop - first, ELEMENTS), dtype=bool)
        frame = np.repeat(np.arange(stop - first), np.asarray(store.n_atoms[first:stop]))
        has[frame, store.numbers[begin:end]] = True
        bits[first:stop] = np.packbits(has, axis=1)
    return FrameIndex(largest, bits)


def count_edges(store: FrameStore, cutoff: float) -> Int64[ndarray, " frames"]:
    """Ordered neighbour pairs within ``cutoff`` Å of every frame."""
    from atomml.graph.neighbors import neighbor_list

    counts = np.zeros(len(store), dtype=np.int64)
    for i in range(len(store)):
        part = store.atoms_of(i)
        pairs = neighbor_list(
            np.array(store.positions[part]), np.array(store.cell[i]), np.array(store.pbc[i]), cutoff
        )
        counts[i] = len(pairs[0])
    return counts
