"""The crystal model in the package."""

import pytest

import atomml
from atomml.crystals.evaluate.symmetry import space_group
from atomml.crystals.evaluate.validity import structure_validity
from atomml.crystals.model_file import load_crystal_model
from tests.conftest import ROOT


def test_it_is_small_and_says_what_it_was_trained_on():
    path = ROOT / "atomml" / "assets" / "crystals" / "demo.safetensors"
    assert path.stat().st_size < 5e6
    metadata = load_crystal_model("demo").metadata
    assert metadata["training"]["config"]["data"]["train"] == "../data/perovskite_like/perovskite_like.csv.gz"
    assert metadata["training"]["config"]["data"]["where"] == "part == train"
    assert metadata["licence"].startswith("MIT")


def test_it_knows_what_strontium_titanate_looks_like():
    guesses = atomml.generate("demo", n=6, formula="SrTiO3", z=1, steps=20, seed=0)
    assert sum(space_group(atoms, 0.1).number == 221 for atoms in guesses) >= 4
    for atoms in guesses:
        assert sorted(atoms.get_chemical_symbols()) == ["O", "O", "O", "Sr", "Ti"]
        assert atoms.cell.lengths().mean() == pytest.approx(3.9, abs=0.3)


def test_what_it_generates_is_mostly_valid():
    crystals = atomml.generate("demo", n=32, steps=20, seed=1)
    assert sum(structure_validity(atoms).valid for atoms in crystals) >= 27


def test_a_property_moves_what_is_generated():
    def median_density(wanted):
        found = atomml.generate("demo", n=24, properties={"density": wanted}, guidance=1.0, steps=10, seed=2)
        values = sorted(1.6605 * a.get_masses().sum() / a.get_volume() for a in found)
        return values[len(values) // 2]

    assert median_density(6.0) > median_density(3.0) + 2.0
