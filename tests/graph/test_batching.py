"""Batches: limits kept, nothing lost, the same for every run, fair to every rank, resumable."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from atomml.errors import ConfigError, DataError
from atomml.graph import BudgetSampler, collate, graph_from_ase
from atomml.testing import edge_case_structures

N_ATOMS = np.random.default_rng(0).integers(1, 30, 200)
N_EDGES = N_ATOMS * np.random.default_rng(1).integers(0, 50, 200)


def rows_of(plan):
    return [row for step in plan for batch in step for row in batch]


def test_limits_are_kept_and_every_row_comes_once():
    sampler = BudgetSampler(N_ATOMS, N_EDGES, batch_size=9, max_atoms=120, max_edges=3000, seed=3)
    batches = list(sampler)
    assert sorted(itertools.chain(*batches)) == list(range(200))
    assert len(sampler) == len(batches)
    for rows in batches:
        assert 0 < len(rows) <= 9
        assert N_ATOMS[rows].sum() <= 120
        assert N_EDGES[rows].sum() <= 3000


def test_batches_are_as_full_as_the_limit_allows():
    batches = list(BudgetSampler(N_ATOMS, max_atoms=120, shuffle=False))
    for rows, following in itertools.pairwise(batches):
        assert N_ATOMS[rows].sum() + N_ATOMS[following[0]] > 120
    assert list(itertools.chain(*batches)) == list(range(200))


def test_order_depends_on_seed_and_epoch_only():
    def plan(seed, epoch):
        return BudgetSampler(N_ATOMS, batch_size=8, seed=seed).batches(epoch)

    assert plan(1, 4) == plan(1, 4)
    assert plan(1, 4) != plan(1, 5)
    assert plan(1, 4) != plan(2, 4)
    # (seed, epoch) are not added up
    assert plan(1, 2) != plan(2, 1)


def test_without_shuffling_every_epoch_is_the_same():
    sampler = BudgetSampler(N_ATOMS, batch_size=8, shuffle=False)
    first = list(sampler)
    sampler.set_epoch(5)
    assert list(sampler) == first == list(sampler)


@given(
    st.integers(1, 60),
    st.integers(1, 7),
    st.integers(1, 6),
    st.integers(30, 100),
    st.integers(0, 1000),
    st.booleans(),
)
def test_ranks_share_the_work_evenly(n, world, batch_size, max_atoms, seed, shuffle):
    sizes = np.random.default_rng(seed).integers(1, 30, n)
    samplers = [
        BudgetSampler(
            sizes,
            batch_size=batch_size,
            max_atoms=max_atoms,
            seed=seed,
            shuffle=shuffle,
            rank=r,
            world_size=world,
        )
        for r in range(world)
    ]
    plan = samplers[0].batches(0)
    per_rank = [list(sampler) for sampler in samplers]
    assert per_rank == [[step[r] for step in plan] for r in range(world)]
    assert all(len(step) == world and all(step) for step in plan)
    rows = rows_of(plan)
    assert set(rows) == set(range(n))
    repeated = len(rows) - n
    assert repeated < world
    if repeated:
        assert all(len(batch) == 1 for step in plan[-2:] for batch in step)
    for batch in itertools.chain(*plan):
        assert len(batch) <= batch_size
        assert sizes[batch].sum() <= max_atoms


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_step_of_all_ranks_is_the_step_of_one_rank_with_a_larger_batch(world):
    many = BudgetSampler(N_ATOMS[:190], batch_size=6, seed=5, world_size=world).batches(2)
    one = BudgetSampler(N_ATOMS[:190], batch_size=6 * world, seed=5).batches(2)
    assert [sorted(itertools.chain(*step)) for step in many] == [sorted(step[0]) for step in one]


def test_set_smaller_than_the_ranks_repeats_rows():
    plan = BudgetSampler(N_ATOMS[:3], batch_size=2, world_size=5, shuffle=False).batches(0)
    assert len(plan) == 1
    assert len(rows_of(plan)) == 5
    assert set(rows_of(plan)) == {0, 1, 2}


@pytest.mark.parametrize("done", [0, 1, 7, 24, 25])
def test_resumed_iteration_equals_the_uninterrupted_one(done):
    whole = BudgetSampler(N_ATOMS, batch_size=8, seed=2)
    whole.set_epoch(3)
    expected = list(whole)
    interrupted = BudgetSampler(N_ATOMS, batch_size=8, seed=2)
    interrupted.set_epoch(3)
    first = list(itertools.islice(iter(interrupted), done))
    state = interrupted.state()
    assert state == {"epoch": 3, "step": done}
    resumed = BudgetSampler(N_ATOMS, batch_size=8, seed=2)
    resumed.load_state(state)
    resumed.set_epoch(3)
    assert first + list(resumed) == expected
    assert len(resumed) == len(expected)
    assert list(resumed) == expected  # the next pass is whole again
    resumed.set_epoch(4)
    assert list(resumed) == [ranks[0] for ranks in whole.batches(4)]


def test_state_can_be_told_how_many_batches_were_used():
    sampler = BudgetSampler(N_ATOMS, batch_size=8)
    iterator = iter(sampler)
    for _ in range(5):
        next(iterator)
    assert sampler.state(step=3) == {"epoch": 0, "step": 3}


def test_position_of_another_data_set_is_refused():
    with pytest.raises(ConfigError, match="step 900 of epoch 2"):
        BudgetSampler(N_ATOMS, batch_size=8).load_state({"epoch": 2, "step": 900})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "need a limit"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_edges": 100}, "number of edges"),
        ({"max_atoms": 10}, "Structure 4 alone has 12 atoms, more than max_atoms = 10 \\(1 of 5"),
        ({"max_edges": 40, "n_edges": np.array([1, 41, 3, 50, 5])}, "Structure 3 alone has 50 edges.*2 of 5"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "Rank 2 of 2"),
    ],
)
def test_impossible_limits_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BudgetSampler(np.array([3, 5, 8, 2, 12]), **arguments)


def test_empty_set_is_refused():
    with pytest.raises(DataError, match="no structure"):
        BudgetSampler(np.zeros(0, dtype=np.int64), batch_size=1)


def test_sampler_drives_a_torch_loader():
    graphs = [graph_from_ase(atoms, 4.0) for atoms in edge_case_structures().values()]
    sampler = BudgetSampler(np.array([g.num_nodes for g in graphs]), max_atoms=70, seed=1)
    loader = DataLoader(graphs, batch_sampler=sampler, collate_fn=collate)
    assert sum(batch.num_graphs for batch in loader) == len(graphs)
