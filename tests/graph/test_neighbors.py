"""Neighbour lists against matscipy and against themselves."""

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list

from atomml.errors import DataError
from atomml.graph import SkinnedNeighbors, neighbor_list
from atomml.testing import edge_case_structures

CASES = edge_case_structures()


def ours(atoms, cutoff):
    return neighbor_list(atoms.positions, np.asarray(atoms.cell.array), np.asarray(atoms.pbc), cutoff)


def as_set(j, i, shift):
    rows = np.column_stack([i, j, shift]).astype(np.int64)
    return {tuple(row) for row in rows.tolist()}


def reference(atoms, cutoff):
    """List of matscipy, with orthogonal vectors in open directions: it takes those there at face value."""
    cell = np.asarray(atoms.cell.array).copy()
    open_axes = np.flatnonzero(~atoms.pbc)
    if len(open_axes):
        axes = np.linalg.svd(cell[atoms.pbc])[2][-len(open_axes) :] if atoms.pbc.any() else np.eye(3)
        for k, axis in zip(open_axes, axes, strict=True):
            span = atoms.positions @ axis
            cell[k] = axis * (np.ptp(span) + 3 * cutoff)
    i, j, shift = neighbour_list(
        "ijS",
        positions=atoms.positions,
        cell=cell,
        pbc=np.asarray(atoms.pbc),
        cutoff=cutoff,
        numbers=np.ones(len(atoms), dtype=np.int32),
    )
    return as_set(j, i, shift)


@pytest.mark.parametrize("cutoff", [3.1, 5.7])
@pytest.mark.parametrize("name", [name for name in CASES if name != "molecule_and_far_away_atom"])
def test_same_pairs_as_matscipy(name, cutoff):
    atoms = CASES[name]
    assert as_set(*ours(atoms, cutoff)) == reference(atoms, cutoff)


@pytest.mark.parametrize("name", list(CASES))
def test_sorted_symmetric_and_within_cutoff(name):
    atoms = CASES[name]
    j, i, shift = ours(atoms, 5.0)
    assert j.dtype == i.dtype == np.int64
    assert shift.dtype == np.float64
    rows = np.column_stack([i, j, shift]).tolist()
    assert rows == sorted(rows)
    assert len(as_set(j, i, shift)) == len(j)
    assert as_set(j, i, shift) == as_set(i, j, -shift)
    distance = np.linalg.norm(atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i], axis=1)
    assert (distance < 5.0 + 1e-12).all()
    assert (shift[:, ~atoms.pbc] == 0).all()


@given(
    st.integers(1, 6),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.floats(1.0, 6.0),
    st.floats(-1.0, 1.0),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_random_cells_agree_with_matscipy(n, pbc, cutoff, skew, flip, seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.5, 9.0, 3)) + 4 * skew * rng.uniform(-1, 1, (3, 3))
    if abs(np.linalg.det(cell)) < 3 or min(np.linalg.svd(cell)[1]) < 0.5:
        cell = np.diag(np.abs(np.diag(cell)) + 1.0)
    if flip:
        cell = cell[[1, 0, 2]]
    atoms = Atoms(f"H{n}", positions=rng.uniform(-15, 15, (n, 3)), cell=cell, pbc=pbc)
    assert as_set(*ours(atoms, cutoff)) == reference(atoms, cutoff)


def test_known_coordination_numbers():
    fcc = bulk("Cu", a=3.6)
    counts = [len(ours(fcc, c)[0]) for c in (2.6, 3.61, 4.42, 5.1)]
    assert counts == [12, 18, 42, 54]


def test_atom_at_the_cutoff_is_not_a_neighbour():
    at = [len(ours(Atoms("H2", positions=[[0, 0, 0], [0, 0, d]]), 2.0)[0]) for d in (np.nextafter(2, 0), 2.0)]
    assert at == [2, 0]


def test_far_away_atom_does_not_change_the_molecule():
    atoms = CASES["molecule_and_far_away_atom"]
    assert as_set(*ours(atoms, 4.0)) == as_set(*ours(atoms[:3], 4.0))


def test_wrapping_changes_shifts_but_not_distances(rng):
    atoms = CASES["nacl_2x2x2"]
    moved = atoms.copy()
    moved.positions += rng.integers(-300, 300, moved.positions.shape) @ atoms.cell.array
    (j, i, s), (jm, im, sm) = ours(atoms, 4.5), ours(moved, 4.5)
    assert len(j) == len(jm)

    def lengths(a, j, i, s):
        return np.sort(np.linalg.norm(a.positions[j] + s @ a.cell.array - a.positions[i], axis=1))

    np.testing.assert_allclose(lengths(atoms, j, i, s), lengths(moved, jm, im, sm), atol=1e-9)


@pytest.mark.parametrize(
    ("pos", "cell", "pbc"),
    [
        ([1.0, 1, 1], [1e9, 1e9, 1e9], [0, 0, 0]),
        ([1e8, 1e8, 1e8], [0, 0, 0], [0, 0, 0]),
        ([10, 10, 1e6], [10, 10, 1], [1, 1, 0]),
        ([10, 1e5, 1e5], [10, 0, 0], [1, 0, 0]),
        ([5, 2000, 2000], [5, 2000, 2000], [1, 1, 1]),
        ([5, 5, 1e6], [5, 5, 1e6], [1, 1, 1]),
        ([1e8, 1e8, 1e8], [1e8, 1e8, 1e8], [1, 1, 1]),
    ],
)
def test_empty_space_costs_neither_time_nor_a_crash(pos, cell, pbc, rng):
    points = rng.random((400, 3)) * pos
    start = time.process_time()
    j, _, _ = neighbor_list(points, np.diag(np.array(cell, dtype=float)), np.array(pbc, dtype=bool), 5.0)
    assert time.process_time() - start < 3
    assert (len(j) == 400 * 399) == (max(pos) == 1.0)


def test_two_coinciding_atoms_are_neighbours():
    assert len(ours(Atoms("H2", positions=np.zeros((2, 3))), 2.0)[0]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": np.zeros((0, 3))}, "no atoms"),
        ({"pos": np.array([[0, 0, 0], [0, np.nan, 0]])}, "position is not a finite"),
        ({"pos": np.array([[0, 0, np.inf]])}, "atom 0"),
        ({"cell": np.diag([3.0, np.nan, 3.0])}, "cell is not"),
        ({"cell": np.diag([3.0, 0.0, 3.0])}, "lattice vector b is zero"),
        ({"cell": np.array([[3.0, 0, 0], [6.0, 0, 0], [0, 0, 3.0]])}, "linearly dependent"),
        ({"cell": np.diag([3.0, 3.0, 1e-7])}, "Å thick"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
    ],
)
def test_impossible_structures_are_refused(change, message):
    arguments = {"pos": np.zeros((1, 3)), "cell": np.eye(3) * 3, "pbc": np.ones(3, dtype=bool), "cutoff": 5.0}
    with pytest.raises(DataError, match=message):
        neighbor_list(**(arguments | change))


def test_zero_vector_is_fine_in_an_open_direction():
    cell = np.diag([3.0, 0.0, 3.0])
    assert len(neighbor_list(np.zeros((1, 3)), cell, np.array([True, False, True]), 3.1)[0]) == 4


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    "name", ["nacl_2x2x2", "skewed_cell", "slab_with_tilted_third_vector", "slanted_wire"]
)
def test_skinned_list_equals_a_fresh_one_in_the_same_order(name, wrap, rng):
    atoms = CASES[name].copy()
    cell, pbc = np.asarray(atoms.cell.array), np.asarray(atoms.pbc)
    neighbors = SkinnedNeighbors(4.0, 0.6)
    drift = rng.normal(size=3) * 0.03
    for _ in range(40):
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.02 + drift
        if wrap:
            atoms.wrap()
        expected = neighbor_list(atoms.positions, cell, pbc, 4.0)
        for got, want in zip(neighbors(atoms.positions, cell, pbc), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert neighbors.calls == 40
    assert neighbors.builds < 15


def test_skinned_list_follows_cell_pbc_and_size(rng):
    neighbors = SkinnedNeighbors(4.0, 0.5)
    atoms = CASES["nacl_2x2x2"]
    changed = atoms.copy()
    changed.set_cell(atoms.cell.array * 1.001)
    opened = atoms.copy()
    opened.pbc = [True, True, False]
    for structure in (atoms, changed, opened, atoms[:7], atoms[:7]):
        cell, pbc = np.asarray(structure.cell.array), np.asarray(structure.pbc)
        got = neighbors(structure.positions, cell, pbc)
        np.testing.assert_array_equal(got[0], neighbor_list(structure.positions, cell, pbc, 4.0)[0])
    assert neighbors.builds == 4


def test_skinned_list_refuses_nan_and_negative_skin():
    with pytest.raises(DataError, match="skin"):
        SkinnedNeighbors(4.0, -0.1)
    with pytest.raises(DataError, match="finite"):
        SkinnedNeighbors(4.0)(np.full((1, 3), np.nan), np.zeros((3, 3)), np.zeros(3, dtype=bool))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("name", ["nacl_2x2x2", "skewed_cell", "slab_with_tilted_third_vector"])
def test_pairs_contain_the_list_and_closest_is_its_shortest_distance(name, wrap, rng):
    atoms = CASES[name].copy()
    cell, pbc = np.asarray(atoms.cell.array), np.asarray(atoms.pbc)
    neighbors = SkinnedNeighbors(4.0, 0.6)
    for _ in range(20):
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.04
        if wrap:
            atoms.wrap()
        j, i, shift = neighbors.pairs(atoms.positions, cell, pbc)
        distance = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ cell, axis=1)
        wanted = neighbor_list(atoms.positions, cell, pbc, 4.0)
        for got, want in zip((j, i, shift), wanted, strict=True):
            np.testing.assert_array_equal(got[distance < 4.0], want)
        assert len(j) > len(wanted[0])
        assert neighbors.closest() == pytest.approx(distance.min(), abs=1e-12)
    assert neighbors.builds < 20


def test_closest_is_infinite_without_a_pair_within_the_cutoff():
    neighbors, cell, pbc = SkinnedNeighbors(4.0, 0.5), np.zeros((3, 3)), np.zeros(3, dtype=bool)
    assert neighbors.closest() == np.inf
    neighbors(np.array([[0.0, 0, 0], [4.2, 0, 0]]), cell, pbc)
    assert neighbors.closest() == np.inf
    neighbors(np.array([[0.0, 0, 0], [3.99, 0, 0]]), cell, pbc)
    assert neighbors.closest() == pytest.approx(3.99)
    neighbors(np.zeros((1, 3)), cell, pbc)
    assert neighbors.closest() == np.inf
