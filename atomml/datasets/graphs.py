"""`GraphDataset`: rows of a `FrameStore` as graphs, neighbours found once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.graph.atom_graph import AtomGraph
from atomml.graph.neighbors import neighbor_list
from atomml.shapes import Int64, ndarray

__all__ = ["GraphDataset"]


class GraphDataset(Dataset[AtomGraph]):
    """Item k is the graph of frame ``rows[k]``, its labels and ``index`` = ``rows[k]``.

    Args:
        store: the data set; a mapped one is shared between worker processes.
        rows: frames to use, all by default.
        cutoff: neighbour cutoff, Å.
        cache: keep graphs in memory after the first use.
        cache_bytes: stop keeping graphs beyond this size.
        free_only: the forces on atoms that the store holds fixed are no labels (NaN).

    Raises:
        DataError: a cutoff that is not positive, a row outside the store.
    """

    def __init__(
        self,
        store: FrameStore,
        rows: Sequence[int] | ndarray | None = None,
        cutoff: float = 5.0,
        cache: bool = True,
        cache_bytes: int = 4 * 2**30,
        free_only: bool = False,
    ) -> None:
        if not cutoff > 0:
            raise DataError(f"The cutoff {cutoff} Å is not positive.", fix="use 4 to 6 Å")
        self.store, self.cutoff, self.cache, self.free_only = store, float(cutoff), cache, free_only
        self.rows: Int64[ndarray, " rows"] = np.array(
            np.arange(len(store)) if rows is None else rows, dtype=np.int64
        )
        if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < len(store):
            raise DataError(
                f"A row is outside the {len(store)} frames of the data set.", fix="check the split"
            )
        self.n_atoms: Int64[ndarray, " rows"] = np.array(store.n_atoms[self.rows], dtype=np.int64)
        self._n_edges: ndarray | None = None
        self._graphs: dict[int, AtomGraph] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graphs": {}}

    def __getitem__(self, k: int) -> AtomGraph:
        """A graph of its own: changing it does not change the cached one's structure."""
        graph = self.shared(k)
        return graph.clone() if self.cache else graph

    def shared(self, k: int) -> AtomGraph:
        """Item k without a copy, for callers that only read it (joining it into a batch copies anyway)."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"item {k} of {len(self)}")
        row = int(self.rows[k])
        graph = self._graphs.get(row)
        if graph is None:
            graph = self._build(row)
            self._keep(row, graph)
        return graph

    def _build(self, row: int) -> AtomGraph:
        graph = self.store.graph(row, self.cutoff)
        if self.free_only and self.store.fixed is not None:
            graph.forces[np.flatnonzero(self.store.fixed[self.store.atoms_of(row)])] = float("nan")
        return graph

    def _keep(self, row: int, graph: AtomGraph) -> None:
        size = sum(value.nbytes for _, value in graph.to_dict().items())
        if self.cache and size <= self._room:
            self._room -= size
            self._graphs[row] = graph

    def n_edges(self) -> Int64[ndarray, " rows"]:
        """Directed edges of every item: from the index of the store if it has this cutoff, else counted once."""
        index = self.store.index
        if index.n_edges is not None and index.edge_cutoff == self.cutoff:
            return np.array(index.n_edges[self.rows], dtype=np.int64)
        if self._n_edges is None:
            self._n_edges = np.array([self._count_edges(k) for k in range(len(self))], dtype=np.int64)
        return self._n_edges

    def _count_edges(self, k: int) -> int:
        row = int(self.rows[k])
        if self.cache:
            graph = self._graphs.get(row)
            if graph is None:
                graph = self._build(row)
                self._keep(row, graph)
            return int(graph.edge_index.shape[1])
        part, store = self.store.atoms_of(row), self.store
        pairs = neighbor_list(
            np.array(store.positions[part]), np.array(store.cell[row]), np.array(store.pbc[row]), self.cutoff
        )
        return len(pairs[0])

    def avg_neighbors(self) -> float:
        """Mean number of neighbours per atom."""
        return float(self.n_edges().sum() / max(int(self.n_atoms.sum()), 1))
