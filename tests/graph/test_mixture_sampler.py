"""Shares, quotas and epochs over several sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomml.errors import ConfigError
from atomml.graph import MixtureSampler, epoch_quotas, sampling_shares


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [0.9, 0.1]), (2.0, [0.75, 0.25]), (1e9, [0.5, 0.5])],
)
def test_shares_by_temperature(temperature, expected):
    """900 and 100 frames: 900^(1/2) : 100^(1/2) = 30 : 10."""
    assert sampling_shares([900, 100], temperature=temperature) == pytest.approx(expected)


def test_a_low_temperature_does_not_overflow():
    shares = sampling_shares([10**8, 10**7], temperature=1e-3)
    assert shares == pytest.approx([1.0, 0.0])


def test_given_shares_come_first():
    assert sampling_shares([10, 30, 10], fixed=[0.2, None, None]) == pytest.approx([0.2, 0.6, 0.2])
    assert sampling_shares([10, 30], fixed=[0.25, 0.75]) == [0.25, 0.75]


@pytest.mark.parametrize("fixed", [[0.5, 0.6], [0.5, 0.4], [1.0, None]])
def test_shares_that_cannot_be_met(fixed):
    with pytest.raises(ConfigError, match="add up to"):
        sampling_shares([1, 1], fixed=fixed)


def test_quotas_by_largest_remainder():
    assert epoch_quotas([0.5, 0.3, 0.2], 7) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert epoch_quotas([0.1, 0.9], 30) == [3, 27]


def test_a_set_that_would_get_nothing_is_an_error():
    with pytest.raises(ConfigError, match="none of the 10"):
        epoch_quotas([0.99, 0.01], 10)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    factor=st.floats(0.5, 3.0),
    temperature=st.floats(0.8, 20.0),
)
def test_quotas_are_met_and_nothing_is_repeated_early(counts, factor, temperature):
    shares = sampling_shares(counts, temperature=temperature)
    size = max(int(factor * sum(counts)), int(np.ceil(1 / min(shares))) + len(counts))
    quotas = epoch_quotas(shares, size)
    assert sum(quotas) == size
    assert all(abs(q - share * size) < 1 for q, share in zip(quotas, shares, strict=True))
    sampler = MixtureSampler(np.ones(sum(counts), dtype=int), counts=counts, quotas=quotas, batch_size=3)
    used = np.zeros(sum(counts), dtype=int)
    edges = np.cumsum([0, *counts])
    for epoch in range(4):
        rows = np.array(list(itertools.chain.from_iterable(step[0] for step in sampler.batches(epoch))))
        assert np.histogram(rows, edges)[0].tolist() == quotas
        np.add.at(used, rows, 1)
        for k, n in enumerate(counts):
            mine = used[edges[k] : edges[k] + n]
            assert mine.max() - mine.min() <= 1  # every frame is used before one is used again


def sampler(seed=0, rank=0, world_size=1, **options):
    sizes = np.arange(1, 31)
    options = {"batch_size": 4, **options}
    return MixtureSampler(
        sizes, counts=[20, 10], quotas=[9, 21], seed=seed, rank=rank, world_size=world_size, **options
    )


def test_the_order_depends_on_seed_and_epoch_only():
    one, two = sampler(), sampler()
    two.batches(5)
    assert one.batches(1) == two.batches(1)
    assert one.batches(1) != one.batches(2)
    assert one.batches(1) != sampler(seed=1).batches(1)


def test_ranks_share_the_plan_of_one_process():
    whole = sampler(batch_size=4).batches(3)
    parts = sampler(batch_size=2, world_size=2).batches(3)
    assert [[*step[0], *step[1]] for step in parts[:-1]] == [step[0] for step in whole[:-1]]
    seen = [list(sampler(batch_size=2, rank=r, world_size=2)) for r in range(2)]
    assert len(seen[0]) == len(seen[1])


def test_iteration_goes_on_where_it_stopped():
    whole = sampler()
    whole.set_epoch(2)
    batches = list(whole)
    again = sampler()
    again.load_state({"epoch": 2, "step": 3})
    assert list(again) == batches[3:]


def test_atoms_stay_within_the_limit():
    for step in sampler(batch_size=None, max_atoms=40).batches(0):
        assert sum(row + 1 for row in step[0]) <= 40


def test_without_shuffling_the_sets_follow_one_another():
    plain = sampler(shuffle=False)
    rows = list(itertools.chain.from_iterable(step[0] for step in plain.batches(0)))
    assert rows == [*range(9), *range(20, 30), *range(20, 30), 20]
    assert plain.batches(1) == plain.batches(0)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="are not the 3"):
        MixtureSampler(np.ones(3, dtype=int), counts=[1, 1], quotas=[1, 1], batch_size=1)
