import pickle

import ase.io
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as PlainLoader
from torch_geometric.loader import DataLoader

from atomml.datasets import FrameStore, GraphDataset, convert
from atomml.errors import DataError


@pytest.mark.parametrize("cache", [True, False])
def test_items_are_the_graphs_of_the_rows(store, cache):
    data = GraphDataset(store, [4, 1], 4.0, cache=cache)
    for _ in range(2):
        assert [g.index.item() for g in data] == [4, 1]
        np.testing.assert_array_equal(data[0].pos.numpy(), store.positions[store.atoms_of(4)])
    assert data.n_atoms.tolist() == [8, 5]
    assert data.n_edges().tolist() == [g.edge_index.shape[1] for g in data]
    assert data.avg_neighbors() == data.n_edges().sum() / 13


def test_neighbours_are_found_once(store, monkeypatch):
    data = GraphDataset(store, None, 4.0)
    first = [data[k] for k in range(len(data))]
    monkeypatch.setattr(FrameStore, "graph", None)
    assert all(torch.equal(data[k].edge_index, g.edge_index) for k, g in enumerate(first))


def test_changing_an_item_does_not_change_the_cache(store):
    data = GraphDataset(store, None, 4.0)
    data[0].pos += 1.0
    data[0].energy = torch.zeros(1)
    np.testing.assert_array_equal(data[0].pos.numpy(), store.positions[store.atoms_of(0)])
    assert data[0].energy.item() == store.energy[0]


def test_cache_stops_at_its_limit(store):
    data = GraphDataset(store, None, 4.0, cache_bytes=1)
    assert [g.index.item() for g in data] == list(range(len(store)))
    assert not data._graphs


def test_set_is_sent_to_workers_without_its_cache(store, tmp_path):
    mapped = FrameStore.open(store.save(tmp_path / "set"))
    data = GraphDataset(mapped, [0, 2], 4.0)
    data.n_edges()
    sent = pickle.dumps(data)
    assert len(sent) < 3000
    assert torch.equal(pickle.loads(sent)[1].pos, data[1].pos)


def test_loader_of_pyg_batches_the_items(store):
    batch = next(iter(DataLoader(GraphDataset(store, [0, 6], 4.0), batch_size=2)))
    assert batch.num_graphs == 2
    assert batch.energy.shape == (2,)


@pytest.mark.parametrize(("rows", "cutoff"), [(None, 0.0), (None, float("nan")), ([99], 4.0), ([-1], 4.0)])
def test_wrong_rows_and_cutoffs_are_refused(store, rows, cutoff):
    with pytest.raises(DataError):
        GraphDataset(store, rows, cutoff)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_share_a_mapped_store_however_they_start(store, tmp_path, start):
    mapped = FrameStore.open(store.save(tmp_path / "set"))
    dataset = GraphDataset(mapped, cutoff=3.0, cache=False)
    loader = PlainLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)
    for graph, expected in zip(loader, (dataset[k] for k in range(len(dataset))), strict=True):
        assert torch.equal(graph.pos, expected.pos)
        assert torch.equal(graph.edge_index, expected.edge_index)
        assert int(graph.index) == int(expected.index)


def test_edges_of_the_index_are_used_for_its_cutoff_only(store, tmp_path):
    frames = [store[i] for i in range(6)]
    ase.io.write(tmp_path / "frames.extxyz", frames)
    counted = convert(tmp_path / "frames.extxyz", tmp_path / "counted", cutoff=3.0).store
    for cutoff in (3.0, 3.5):
        expected = GraphDataset(counted, cutoff=cutoff, cache=False)
        direct = [counted.graph(i, cutoff).edge_index.shape[1] for i in range(len(counted))]
        assert expected.n_edges().tolist() == direct
        assert (expected._n_edges is None) == (cutoff == 3.0)
