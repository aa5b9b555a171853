import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list
from pymatgen.core import Lattice

from atomml.datasets.lattice import (
    canonical_cell,
    canonical_lattice,
    lattice_parameters,
    niggli_reduce,
    shortest_distance,
    transform_basis,
    wrap_fractional,
)
from atomml.errors import DataError

LENGTHS = np.array([[3.0, 4.0, 5.0], [4.2, 4.2, 4.2], [2.5, 6.7, 10.2], [5.0, 5.0, 12.0]])
ANGLES = np.array([[80.0, 95.0, 100.0], [60.0, 60.0, 60.0], [73.0, 83.2, 89.9], [90.0, 90.0, 120.0]])


def random_cell(rng):
    """A right-handed cell that is not in the canonical orientation, possibly skewed."""
    cell = canonical_lattice(rng.uniform(3, 8, 3), rng.uniform(60, 119, 3))
    skew = np.eye(3, dtype=np.int64)
    skew[0, 1], skew[1, 2], skew[0, 2] = rng.integers(-2, 3, 3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return skew @ cell @ (rotation * np.sign(np.linalg.det(rotation)))


def distances(cell, fractional, cutoff=4.0):
    pos, pbc = fractional @ cell, [True] * 3
    i, j, d = primitive_neighbor_list("ijd", pbc, cell, pos, cutoff)
    order = np.lexsort((d.round(6), j, i))
    return i[order], j[order], d[order]


def test_the_canonical_lattice_is_that_of_pymatgen_to_the_last_bit():
    cells = canonical_lattice(LENGTHS, ANGLES)
    for cell, lengths, angles in zip(cells, LENGTHS, ANGLES, strict=True):
        assert np.array_equal(cell, Lattice.from_parameters(*lengths, *angles).matrix)
        assert np.array_equal(cell, canonical_lattice(lengths, angles))
    assert (cells[:, 2, :2] == 0).all()
    assert (cells[:, 0, 1] == 0).all()
    assert (np.linalg.det(cells) > 0).all()


def test_lengths_and_angles_are_the_inverse_of_the_canonical_lattice():
    lengths, angles = lattice_parameters(canonical_lattice(LENGTHS, ANGLES))
    assert np.allclose(lengths, LENGTHS, atol=1e-12)
    assert np.allclose(angles, ANGLES, atol=1e-9)


@pytest.mark.parametrize(
    "parameters",
    [(0, 1, 1, 90, 90, 90), (1, 1, 1, 120, 120, 120), (1, 1, 1, 90, 90, 180), (5, 5, 5, 30, 30, 70)]
    + [(np.nan, 1, 1, 90, 90, 90), (-1, 1, 1, 90, 90, 90), (1, 1, np.inf, 90, 90, 90)],
)
def test_numbers_that_are_no_cell_are_refused(parameters):
    numbers = np.array(parameters, dtype=float)
    with pytest.raises(DataError, match="No cell has the lengths"):
        canonical_lattice(numbers[:3], numbers[3:])
    with pytest.raises(DataError, match="cell 1"):
        canonical_lattice(np.stack([LENGTHS[0], numbers[:3]]), np.stack([ANGLES[0], numbers[3:]]))


def test_fractional_coordinates_wrap_into_the_half_open_interval():
    wrapped = wrap_fractional(np.array([[1.0, -1e-17, -0.25], [2.5, -0.0, 0.999]]))
    assert np.array_equal(wrapped, [[0.0, 0.0, 0.75], [0.5, 0.0, 0.999]])


@pytest.mark.parametrize("by", ["spglib", "pymatgen"])
def test_the_reduction_keeps_volume_distances_and_handedness(rng, by):
    for _ in range(20):
        cell, fractional = random_cell(rng), rng.random((4, 3))
        reduced, coordinates = niggli_reduce(cell, fractional, by=by)
        assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(cell), rel=1e-9)
        assert coordinates.min() >= 0
        assert coordinates.max() < 1
        for before, after in zip(distances(cell, fractional), distances(reduced, coordinates), strict=True):
            assert np.allclose(before, after, atol=1e-8)
        shift = (coordinates @ reduced - fractional @ cell) @ np.linalg.inv(cell)
        assert np.allclose(shift, shift.round(), atol=1e-9)  # nothing was rotated


def test_a_reduced_cell_meets_the_conditions_of_niggli_and_stays(rng):
    for _ in range(50):
        reduced, fractional = niggli_reduce(random_cell(rng), rng.random((2, 3)))
        (a, b, c), angles = lattice_parameters(reduced)
        assert a <= b + 1e-6
        assert b <= c + 1e-6
        assert (angles < 90 + 1e-6).all() or (angles >= 90 - 1e-6).all()
        g = reduced @ reduced.T
        assert abs(g[1, 2]) <= g[1, 1] / 2 + 1e-6
        assert abs(g[0, 2]) <= g[0, 0] / 2 + 1e-6
        assert abs(g[0, 1]) <= g[0, 0] / 2 + 1e-6
        again, same = niggli_reduce(reduced, fractional)
        assert np.array_equal(again, reduced)
        assert np.array_equal(same, fractional)


def test_both_reductions_agree_where_the_cell_is_far_from_special(rng):
    for _ in range(20):
        cell, fractional = random_cell(rng), rng.random((1, 3))
        ours = lattice_parameters(niggli_reduce(cell, fractional)[0])
        theirs = Lattice(cell).get_niggli_reduced_lattice()
        if np.abs(ours[1] - 90).min() > 1.5:
            assert np.allclose(ours[0], theirs.abc, atol=1e-6)
            assert np.allclose(ours[1], theirs.angles, atol=1e-5)


def test_a_cell_on_which_the_reduction_runs_in_circles_is_reduced_with_a_larger_tolerance():
    cell = canonical_lattice(
        np.array([4.88375607, 4.88375461, 4.88375534]), np.array([59.99998515, 59.99985646, 59.99998022])
    )
    reduced, _ = niggli_reduce(cell, np.zeros((1, 3)))
    assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(cell))


def test_a_left_handed_cell_is_rotated_and_not_mirrored(rng):
    cell, fractional = random_cell(rng), rng.random((5, 3))
    left = cell[[1, 0, 2]]
    turned, coordinates = canonical_cell(left, fractional[:, [1, 0, 2]])
    assert np.linalg.det(turned) > 0 > np.linalg.det(left)
    vectors = (fractional - fractional[0]) @ cell
    rotated = ((coordinates - coordinates[0] + 0.5) % 1 - 0.5) @ turned
    same = ((fractional - fractional[0] + 0.5) % 1 - 0.5) @ cell
    assert np.linalg.det(rotated[1:4]) == pytest.approx(np.linalg.det(same[1:4]))
    assert not np.allclose(vectors, 0)
    for before, after in zip(distances(cell, fractional), distances(turned, coordinates), strict=True):
        assert np.allclose(before, after, atol=1e-8)


def test_changes_of_basis_are_undone_by_their_inverse(rng):
    cell, fractional = random_cell(rng), rng.random((3, 3))
    matrix = np.array([[1, 1, 0], [0, 1, 0], [0, 2, 1]], dtype=np.int64)
    back = np.rint(np.linalg.inv(matrix)).astype(np.int64)
    same_cell, same = transform_basis(*transform_basis(cell, fractional, matrix), back)
    assert np.allclose(same_cell, cell)
    assert np.allclose(same, fractional)


def test_the_shortest_distance_is_that_of_ase(rng):
    for _ in range(30):
        cell = canonical_lattice(rng.uniform(1.5, 6, 3), rng.uniform(60, 119, 3))
        cell = np.array([[1, 0, 0], [2, 1, 0], [0, 0, 1]]) @ cell
        fractional = rng.random((int(rng.integers(1, 5)), 3))
        expected = distances(cell, fractional, 3.0)[2].min(initial=np.inf)
        assert shortest_distance(cell, fractional, 3.0) == pytest.approx(expected)
    assert shortest_distance(10 * np.eye(3), np.zeros((1, 3)), 3.0) == np.inf
