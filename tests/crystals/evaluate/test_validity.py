"""Structural validity: distances over all images, broken cells and atoms, no exceptions."""

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from atomml.crystals.evaluate.validity import structure_validity


def test_a_crystal_is_valid_and_its_numbers_are_known():
    a = 5.64
    validity = structure_validity(bulk("NaCl", "rocksalt", a=a))
    assert (validity.valid, validity.strict, validity.reason) == (True, True, None)
    assert validity.volume_per_atom == pytest.approx(a**3 / 8)
    assert validity.distance == pytest.approx(a / 2)
    assert validity.image_distance == pytest.approx(a / np.sqrt(2))


def test_one_atom_has_no_pairs_but_images():
    validity = structure_validity(bulk("Cu", a=3.6))
    assert validity.valid
    assert validity.distance == np.inf
    assert validity.image_distance == pytest.approx(3.6 / np.sqrt(2))


def test_atoms_that_overlap_through_the_boundary_are_not_valid():
    atoms = Atoms("H2", scaled_positions=[[0.01, 0.5, 0.5], [0.99, 0.5, 0.5]], cell=[10, 10, 10])
    validity = structure_validity(atoms)
    assert not validity.valid
    assert validity.distance == pytest.approx(0.2)
    assert validity.reason == "two atoms are 0.200 Å apart"


def test_short_lattice_vectors_fail_only_the_strict_test():
    validity = structure_validity(Atoms("Li", cell=[0.4, 3, 3], pbc=True))
    assert validity.valid
    assert not validity.strict
    assert validity.image_distance == pytest.approx(0.4)
    assert validity.reason == "an atom and its image are 0.400 Å apart"


@pytest.mark.parametrize(("apart", "valid"), [(0.4999, False), (0.5001, True)])
def test_the_limit_is_half_an_angstrom(apart, valid):
    assert structure_validity(Atoms("H2", [[0, 0, 0], [apart, 0, 0]], cell=[9, 9, 9])).valid is valid


NAN = float("nan")


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (Atoms(cell=[3, 3, 3]), "no atoms"),
        (Atoms("X", cell=[3, 3, 3]), "atomic number"),
        (Atoms("Li", cell=[3, 3, NAN]), "cell is not finite"),
        (Atoms("Li", cell=[3, 3, np.inf]), "cell is not finite"),
        (Atoms("Li", [[0, NAN, 0]], cell=[3, 3, 3]), "position is not finite"),
        (Atoms("Li"), "volume of the cell is 0"),
        (Atoms("Li", cell=[[1, 2, 3], [2, 4, 6], [0, 0, 1]]), "volume of the cell is 0"),
        (Atoms("Li", cell=[0.4, 0.4, 0.6]), "volume of the cell is 0.096"),
        (Atoms("Li", cell=np.eye(3) * 1e150), "volume of the cell is inf"),
    ],
)
def test_what_cannot_be_a_crystal_has_a_reason(atoms, reason):
    validity = structure_validity(atoms)
    assert not validity.valid
    assert not validity.strict
    assert validity.reason is not None
    assert reason in validity.reason
    assert np.isnan(validity.distance)


def test_no_cell_raises(rng):
    seen = set()
    for _ in range(300):
        cell = rng.normal(size=(3, 3)) * 10.0 ** rng.uniform(-8, 8, size=(3, 3))
        positions = rng.normal(size=(3, 3)) * 10.0 ** rng.uniform(-3, 6)
        validity = structure_validity(Atoms("H3", positions, cell=cell))
        assert validity.strict <= validity.valid
        assert (validity.reason is None) == validity.strict
        seen.add(validity.valid)
    assert seen == {True, False}


def test_distances_equal_those_of_pymatgen_in_skewed_cells(rng):
    lattice = pytest.importorskip("pymatgen.core").Lattice
    for _ in range(30):
        cell = np.eye(3) * 4 + rng.normal(size=(3, 3))
        skewed = np.array([[1, rng.integers(-3, 4), 0], [0, 1, rng.integers(-3, 4)], [0, 0, 1]]) @ cell
        atoms = Atoms("H5", scaled_positions=rng.random((5, 3)), cell=skewed)
        validity = structure_validity(atoms)
        fractional = np.linalg.solve(cell.T, atoms.positions.T).T
        pairs = lattice(cell).get_all_distances(fractional, fractional)[np.triu_indices(5, 1)]
        assert validity.distance == pytest.approx(pairs.min(), abs=1e-9)
        images = lattice(cell).get_points_in_sphere([[0, 0, 0]], [0, 0, 0], 9, zip_results=False)[1]
        assert validity.image_distance == pytest.approx(np.sort(images)[1], abs=1e-9)


def test_a_supercell_has_the_same_distances():
    rutile = bulk("TiO", "rocksalt", a=4.2)
    large = make_supercell(rutile, [[2, 1, 0], [0, 3, 1], [1, 0, 2]])
    one, many = structure_validity(rutile), structure_validity(large)
    assert many.distance == pytest.approx(one.distance)
    assert many.volume_per_atom == pytest.approx(one.volume_per_atom)


def test_two_hundred_structures_take_less_than_two_seconds(rng):
    structures = [Atoms("H20", scaled_positions=rng.random((20, 3)), cell=np.eye(3) * 6) for _ in range(200)]
    start = time.perf_counter()
    for atoms in structures:
        structure_validity(atoms)
    assert time.perf_counter() - start < 2.0
