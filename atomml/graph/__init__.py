"""Structures as graphs: `AtomGraph`, neighbours within a cutoff, batches with a budget of atoms and edges."""

from __future__ import annotations

from atomml.graph.atom_graph import (
    AtomGraph,
    EdgeIndex,
    atom_graph,
    atoms_per_graph,
    edge_index_of,
    edge_vectors,
    graph_from_ase,
    graph_of_atoms,
    transpose_index,
)
from atomml.graph.batching import BudgetSampler, collate
from atomml.graph.mixture_sampler import MixtureSampler, epoch_quotas, sampling_shares
from atomml.graph.neighbors import SkinnedNeighbors, check_structure, neighbor_list

__all__ = [
    "AtomGraph",
    "BudgetSampler",
    "EdgeIndex",
    "MixtureSampler",
    "SkinnedNeighbors",
    "atom_graph",
    "atoms_per_graph",
    "check_structure",
    "collate",
    "edge_index_of",
    "edge_vectors",
    "epoch_quotas",
    "graph_from_ase",
    "graph_of_atoms",
    "neighbor_list",
    "sampling_shares",
    "transpose_index",
]
