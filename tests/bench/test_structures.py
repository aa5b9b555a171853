"""Structures that are timed are what their names say."""

import numpy as np
import pytest

from atomml.bench.structures import as_json, octanol, silicon, structure, water
from atomml.errors import ConfigError
from atomml.graph import graph_from_ase


@pytest.mark.parametrize(
    ("name", "atoms", "low", "high"),
    [("si64", 64, 28, 28), ("molecule", 27, 14, 19), ("water", 192, 50, 60), ("si1000", 1000, 28, 28)],
)
def test_atoms_and_neighbours(name, atoms, low, high):
    made = structure(name)
    assert len(made) == atoms
    neighbors = graph_from_ase(made, 5.0).edge_index.shape[1] / len(made)
    assert low <= neighbors <= high


@pytest.mark.parametrize("size", [64, 96, 512, 1000])
def test_silicon_has_about_the_size_asked_for(size):
    assert 0.9 * size < len(silicon(size)) < 1.6 * size


def test_octanol_is_a_molecule_with_sane_bonds():
    atoms = octanol()
    assert atoms.get_chemical_formula() == "C8H18O"
    distances = atoms.get_all_distances() + 9 * np.eye(27)
    nearest = distances.min(1)
    assert (nearest > 0.85).all()
    assert (nearest < 1.3).all()
    hydrogen = atoms.numbers == 1
    assert (distances[np.ix_(hydrogen, hydrogen)] > 1.5).all()


def test_water_has_the_density_of_the_liquid():
    atoms = water()
    grams = atoms.get_masses().sum() * 1.66054
    assert grams / atoms.get_volume() == pytest.approx(0.998, abs=0.002)
    with pytest.raises(ConfigError, match="cube"):
        water(10)


def test_structures_survive_json():
    made = as_json(silicon(64))
    assert np.shape(made["positions"]) == (64, 3)
    assert made["pbc"] == [True] * 3


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="diamond"):
        structure("diamond")
