"""`AtomGraph`: one structure, its neighbours within a cutoff and its labels, as a PyG ``Data``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Data

from atomml.errors import DataError
from atomml.graph.neighbors import SkinnedNeighbors, neighbor_list
from atomml.shapes import Bool, Float, Float64, Int64, Tensor, ndarray

__all__ = [
    "AtomGraph",
    "EdgeIndex",
    "atom_graph",
    "atoms_per_graph",
    "edge_index_of",
    "edge_vectors",
    "graph_from_ase",
    "graph_of_atoms",
    "transpose_index",
]


class EdgeIndex(NamedTuple):
    """Edges in compressed-row form, by centre and by neighbour.

    Edges are sorted by centre: those of atom i are ``row_ptr[i]:row_ptr[i+1]``. ``transpose`` sorts them
    by neighbour: those that leave atom j are ``transpose[col_ptr[j]:col_ptr[j+1]]``.
    """

    neighbor: Int64[Tensor, " edges"]
    center: Int64[Tensor, " edges"]
    row_ptr: Int64[Tensor, " atoms+1"]
    transpose: Int64[Tensor, " edges"]
    col_ptr: Int64[Tensor, " atoms+1"]


class AtomGraph(Data):
    """A structure as a graph. Batches of it are ordinary ``torch_geometric.data.Batch`` objects.

    Attributes:
        z: atomic numbers [N], int64.
        pos: positions [N, 3] in Å, float64 (rounded to the model's dtype only after differences are taken).
        cell: [1, 3, 3] in Å, rows are lattice vectors; zero rows where there is none.
        pbc: [1, 3] bool.
        edge_index: [2, E]; row 0 = neighbour j, row 1 = centre i, sorted by i.
        edge_shift: [E, 3], integer-valued float64 S with r_ij = r_j + S·cell − r_i.
        edge_transpose: [E], the permutation that sorts edges by neighbour.
        energy [1] in eV, forces [N, 3] in eV/Å, stress [1, 3, 3] in eV/Å³ (ASE sign): labels, float64.
            NaN marks a label that the source does not have; a NaN in a source is refused by the readers.
        tag: [N] int64, optional per-atom class (OC20 tags and the like).
        index: [1] int64, optional row number in the data set it came from.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Offset of ``key`` from one graph of a batch to the next: edges for the transpose index."""
        if key == "edge_transpose":
            return self.num_edges
        if key == "index":
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Axis along which ``key`` is joined: the last for ``edge_index`` only."""
        return 0 if key in ("edge_transpose", "index") else super().__cat_dim__(key, value, *args, **kwargs)


def transpose_index(neighbor: Int64[Tensor, " edges"]) -> Int64[Tensor, " edges"]:
    """Permutation that sorts edges by neighbour, stable, so that the order of a sum never depends on luck."""
    return torch.argsort(neighbor, stable=True)


def atom_graph(
    z: Int64[ndarray, " atoms"],
    pos: Float64[ndarray, "atoms 3"],
    cell: Float64[ndarray, "3 3"],
    pbc: Bool[ndarray, " 3"],
    cutoff: float,
    *,
    energy: float | None = None,
    forces: Float[ndarray, "atoms 3"] | None = None,
    stress: Float[ndarray, "3 3"] | None = None,
    tag: Int64[ndarray, " atoms"] | None = None,
    index: int | None = None,
    neighbors: SkinnedNeighbors | None = None,
) -> AtomGraph:
    """Build the graph of one structure; lengths in Å, labels as in `AtomGraph`.

    ``neighbors`` is a Verlet list to take the edges from, for a series of positions of the same atoms.

    Raises:
        DataError: non-finite coordinates, no atoms, a periodic direction without a lattice vector, labels of
            the wrong length, or a Verlet list for another cutoff.
    """
    _check_shapes(len(pos), z=z, forces=forces, tag=tag)
    if neighbors is None:
        nbr, ctr, shift = neighbor_list(pos, cell, pbc, cutoff)
    elif neighbors.cutoff == cutoff:
        nbr, ctr, shift = neighbors(pos, cell, pbc)
    else:
        raise DataError(f"The Verlet list is for {neighbors.cutoff:g} Å, the graph for {cutoff:g} Å.")
    neighbor = torch.from_numpy(nbr)
    nan = float("nan")
    graph = AtomGraph(
        z=torch.from_numpy(np.ascontiguousarray(z)),
        pos=torch.from_numpy(np.array(pos, dtype=np.float64)),
        cell=torch.from_numpy(np.array(cell, dtype=np.float64))[None],
        pbc=torch.from_numpy(np.array(pbc, dtype=bool))[None],
        edge_index=torch.stack([neighbor, torch.from_numpy(ctr)]),
        edge_shift=torch.from_numpy(shift),
        edge_transpose=transpose_index(neighbor),
        energy=torch.tensor([nan if energy is None else energy], dtype=torch.float64),
        forces=torch.full((len(z), 3), nan, dtype=torch.float64)
        if forces is None
        else torch.from_numpy(np.array(forces, dtype=np.float64)),
        stress=torch.full((1, 3, 3), nan, dtype=torch.float64)
        if stress is None
        else torch.from_numpy(np.array(stress, dtype=np.float64))[None],
    )
    if tag is not None:
        graph.tag = torch.from_numpy(np.ascontiguousarray(tag))
    if index is not None:
        graph.index = torch.tensor([index])
    return graph


def _check_shapes(n: int, **arrays: Any) -> None:
    for name, array in arrays.items():
        if array is not None and len(array) != n:
            raise DataError(f"There are {n} positions but {len(array)} rows in {name!r}.")


def graph_from_ase(atoms: Atoms, cutoff: float, *, neighbors: SkinnedNeighbors | None = None) -> AtomGraph:
    """Graph of an ASE structure, without labels (readers of labelled files are in `atomml.datasets`).

    Raises:
        DataError: as in `atom_graph`.
    """
    return atom_graph(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        np.asarray(atoms.cell.array, dtype=np.float64),
        np.asarray(atoms.pbc, dtype=bool),
        cutoff,
        neighbors=neighbors,
    )


def edge_index_of(graph: Data) -> EdgeIndex:
    """Compressed-row index of a graph or a batch of graphs.

    The edges must still be in the order they were built in: a PyG transform that reorders or removes edges
    leaves ``edge_transpose`` behind.
    """
    neighbor, center = graph.edge_index
    n = graph.pos.shape[0]

    def pointer(index: Tensor) -> Tensor:
        count = torch.bincount(index, minlength=n)
        return torch.cat([count.new_zeros(1), count.cumsum(0)])

    return EdgeIndex(neighbor, center, pointer(center), graph.edge_transpose, pointer(neighbor))


def edge_vectors(graph: Data) -> Float64[Tensor, "edges 3"]:
    """r_ij = r_j + S·cell − r_i for every edge, Å, float64."""
    neighbor, center = graph.edge_index
    batch = getattr(graph, "batch", None)
    cell = graph.cell[0].expand(len(center), 3, 3) if batch is None else graph.cell[batch[center]]
    return graph.pos[neighbor] - graph.pos[center] + torch.einsum("ea,eab->eb", graph.edge_shift, cell)


def graph_of_atoms(graph: Data) -> Int64[Tensor, " atoms"]:
    """Number of the graph that each atom belongs to; zeros for a graph that is not a batch."""
    batch = getattr(graph, "batch", None)
    return torch.zeros_like(graph.z) if batch is None else batch


def atoms_per_graph(graph: Data) -> Int64[Tensor, " graphs"]:
    """Number of atoms of each graph of a batch, or of the one graph."""
    return torch.bincount(graph_of_atoms(graph), minlength=len(graph.cell))
