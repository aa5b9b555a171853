"""`MixtureGraphs`: several graph data sets one after another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils.data import Dataset

from atomml.datasets.graphs import GraphDataset
from atomml.graph.atom_graph import AtomGraph
from atomml.shapes import Int64, ndarray

__all__ = ["MixtureGraphs"]


class MixtureGraphs(Dataset[AtomGraph]):
    """The items of ``sets`` one set after another; ``set_number`` [1] of a graph is the number of its set.

    ``index`` stays the row in the store of its set. Where only some stores have per-atom tags, the others have
    the tag 0, as in `atomml.datasets.concatenate`.
    """

    def __init__(self, sets: Mapping[str, GraphDataset]) -> None:
        self.sets = dict(sets)
        self._ordered = list(self.sets.values())
        self._starts = np.cumsum([0, *(len(part) for part in self._ordered)])
        self._tagged = any(part.store.atom_tags is not None for part in self._ordered)
        self.n_atoms: Int64[ndarray, " items"] = np.concatenate([part.n_atoms for part in self._ordered])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, k: int) -> AtomGraph:
        """A graph of its own."""
        return self.shared(k).clone()

    def shared(self, k: int) -> AtomGraph:
        """Item k without a copy, for callers that only read it."""
        if not 0 <= k < len(self):
            raise IndexError(f"item {k} of {len(self)}")
        number = int(np.searchsorted(self._starts, k, side="right")) - 1
        graph = self._ordered[number].shared(k - int(self._starts[number]))
        graph.set_number = torch.tensor([number])
        if self._tagged and "tag" not in graph:
            graph.tag = torch.zeros_like(graph.z)
        return graph

    def n_edges(self) -> Int64[ndarray, " items"]:
        """Directed edges of every item, counted once."""
        return np.concatenate([part.n_edges() for part in self._ordered])
