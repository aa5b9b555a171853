"""Graphs, their batches and PyG's own tools on them."""

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from atomml.errors import DataError
from atomml.graph import (
    AtomGraph,
    SkinnedNeighbors,
    atom_graph,
    collate,
    edge_index_of,
    edge_vectors,
    graph_from_ase,
)
from atomml.testing import edge_case_structures

CASES = edge_case_structures()
CUTOFF = 4.0


def labelled(atoms, k=0):
    n = len(atoms)
    return atom_graph(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        np.asarray(atoms.cell.array),
        np.asarray(atoms.pbc),
        CUTOFF,
        energy=float(k),
        forces=np.full((n, 3), float(k)),
        stress=np.full((3, 3), float(k)),
        tag=np.arange(n),
        index=k,
    )


def check_index(graph):
    index = edge_index_of(graph)
    n = len(graph.pos)
    assert index.row_ptr[-1] == index.col_ptr[-1] == len(index.center)
    assert len(index.row_ptr) == len(index.col_ptr) == n + 1
    for atom in range(n):
        assert (index.center[index.row_ptr[atom] : index.row_ptr[atom + 1]] == atom).all()
        leaving = index.transpose[index.col_ptr[atom] : index.col_ptr[atom + 1]]
        assert (index.neighbor[leaving] == atom).all()
    assert torch.equal(index.transpose.sort().values, torch.arange(len(index.center)))


@pytest.mark.parametrize("name", list(CASES))
def test_index_is_consistent_for_every_structure(name):
    graph = graph_from_ase(CASES[name], CUTOFF)
    check_index(graph)
    lengths = edge_vectors(graph).norm(dim=1)
    assert (lengths < CUTOFF + 1e-12).all()
    assert graph.num_nodes == len(CASES[name])
    assert torch.isnan(graph.energy).all()
    assert torch.isnan(graph.forces).all()


def test_edge_vectors_come_in_opposite_pairs():
    graph = graph_from_ase(CASES["nacl_2x2x2"], CUTOFF)
    vectors = edge_vectors(graph)
    neighbor, center = graph.edge_index
    total = torch.zeros(len(graph.pos), 3, dtype=torch.float64).index_add(0, center, vectors)
    outgoing = torch.zeros_like(total).index_add(0, neighbor, vectors)
    torch.testing.assert_close(total, -outgoing, rtol=0, atol=1e-12)


def test_batch_of_all_cases_is_the_graphs_one_after_another():
    graphs = [labelled(atoms, k) for k, atoms in enumerate(CASES.values())]
    batch = collate(graphs)
    check_index(batch)
    torch.testing.assert_close(
        edge_vectors(batch), torch.cat([edge_vectors(g) for g in graphs]), rtol=0, atol=0
    )
    assert batch.cell.shape == batch.stress.shape == (len(graphs), 3, 3)
    assert batch.pbc.shape == (len(graphs), 3)
    assert batch.energy.tolist() == batch.index.tolist() == list(range(len(graphs)))
    assert torch.equal(batch.forces[:, 0].long(), batch.batch)
    assert torch.equal(batch.z, torch.cat([g.z for g in graphs]))
    offsets = torch.tensor([0] + [len(g.pos) for g in graphs]).cumsum(0)
    assert torch.equal(batch.ptr, offsets)


def test_graphs_come_back_from_a_batch():
    graphs = [
        labelled(CASES[name], k) for k, name in enumerate(("isolated_atom", "nacl_2x2x2", "skewed_cell"))
    ]
    for before, after in zip(graphs, collate(graphs).to_data_list(), strict=True):
        assert isinstance(after, AtomGraph)
        keys = before.keys()
        assert set(keys) == set(after.keys())
        for key in keys:
            assert torch.equal(before[key], after[key]), key


def test_pyg_loader_gives_the_same_batches():
    graphs = [labelled(atoms, k) for k, atoms in enumerate(CASES.values())]
    loaded = list(DataLoader(graphs, batch_size=5))
    assert sum(batch.num_graphs for batch in loaded) == len(graphs)
    check_index(loaded[0])
    assert torch.equal(loaded[0].edge_transpose, collate(graphs[:5]).edge_transpose)
    assert isinstance(loaded[0], Batch)


def test_pyg_transforms_work_on_graphs_and_batches():
    graph = labelled(CASES["molecule_without_cell"])
    transform = T.Compose([T.Constant(), T.Distance(norm=False), T.Center()])
    out = transform(graph.clone())
    torch.testing.assert_close(out.edge_attr[:, 0].double(), edge_vectors(graph).norm(dim=1))
    torch.testing.assert_close(out.pos.mean(0), torch.zeros(3, dtype=torch.float64))
    assert isinstance(out, AtomGraph)
    batched = T.Distance(norm=False)(collate([graph, graph]))
    assert batched.edge_attr.shape == (2 * graph.num_edges, 1)


def test_to_moves_labels_but_keeps_integers():
    graph = labelled(CASES["nacl_2x2x2"]).to("cpu")
    assert graph.edge_index.dtype == graph.z.dtype == torch.int64
    assert graph.pos.dtype == graph.edge_shift.dtype == graph.energy.dtype == torch.float64


def test_graph_does_not_share_memory_with_the_structure():
    atoms = CASES["nacl_2x2x2"].copy()
    graph = graph_from_ase(atoms, CUTOFF)
    before = graph.pos.clone()
    atoms.positions += 1
    assert torch.equal(graph.pos, before)


def test_verlet_list_gives_the_same_graph(rng):
    atoms = CASES["nacl_2x2x2"].copy()
    neighbors = SkinnedNeighbors(CUTOFF, 0.5)
    for _ in range(5):
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.02
        fresh, reused = graph_from_ase(atoms, CUTOFF), graph_from_ase(atoms, CUTOFF, neighbors=neighbors)
        for key in ("edge_index", "edge_shift", "edge_transpose"):
            assert torch.equal(fresh[key], reused[key])
    with pytest.raises(DataError, match="Verlet"):
        graph_from_ase(atoms, CUTOFF + 1, neighbors=neighbors)


def test_batch_refuses_nothing_and_partial_fields():
    with pytest.raises(DataError, match="at least one"):
        collate([])
    plain = graph_from_ase(CASES["isolated_atom"], CUTOFF)
    with pytest.raises(DataError, match="index, tag"):
        collate([plain, labelled(CASES["isolated_atom"])])
