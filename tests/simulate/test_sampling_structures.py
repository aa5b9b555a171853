"""Cells that sampling starts from: prototypes, substitution, supercells, strain."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii

from atomml.errors import ConfigError, DataError
from atomml.graph.neighbors import neighbor_list
from atomml.simulate.sampling.config import CellConfig, SampleConfig, StrainConfig
from atomml.simulate.sampling.prototypes import PROTOTYPES, prototype
from atomml.simulate.sampling.structures import draw_strain, make_starts, random_stream, strained, supercell
from atomml.simulate.sampling.substitution import check_species, ion_charge, ionic_radius, variants

HALIDES = ["F", "Cl", "Br", "I"]
MEASURED = {"LiF": 4.03, "LiCl": 5.14, "LiBr": 5.50, "LiI": 6.00}  # lattice constants in Å


def charge_of(atoms, charges=()):
    return sum(ion_charge(symbol, dict(charges)) for symbol in atoms.symbols)


def config(**settings):
    return SampleConfig.model_validate({"run_dir": "x", "calculator": {"kind": "emt"}, **settings})


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_are_neutral_and_have_no_overlap(name):
    atoms = prototype(name)
    assert charge_of(atoms) == 0
    j, i, shift = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    distance = np.linalg.norm(atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i], axis=1)
    assert (distance / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])).min() > 0.8
    assert np.all(np.diff(atoms.numbers) >= 0)


def test_spinel_has_half_of_its_octahedra_for_lithium():
    assert prototype("li2mx4_spinel").get_chemical_formula() == "Cl8Li4Mg2"
    assert prototype("li3mx6_c2m").get_chemical_formula() == "Cl12In2Li6"
    assert prototype("li3mx6_p3m1").get_chemical_formula() == "Cl18Li9Y3"
    assert prototype("li2mx6_p3m1").get_chemical_formula() == "Cl18Li6Zr3"


def test_substituted_halides_have_about_the_measured_volume():
    found = variants(prototype("rocksalt"), [HALIDES], {}, number=None, mixed=0, rng=np.random.default_rng(0))
    assert [v.substitution for v in found] == ["", "Cl>F", "Cl>Br", "Cl>I"]
    assert [v.halide for v in found] == [False, True, True, True]
    for v in found:
        a = (4.0 * v.atoms.get_volume()) ** (1 / 3)
        assert a == pytest.approx(
            MEASURED["Li" + v.atoms.symbols[-1].replace("Li", v.atoms.symbols[0])], rel=0.04
        )


def test_scale_is_the_ratio_of_shannon_bonds():
    found = variants(prototype("rocksalt"), [HALIDES], {}, number=None, mixed=0, rng=np.random.default_rng(0))
    scale = (found[3].atoms.get_volume() / found[0].atoms.get_volume()) ** (1 / 3)
    assert scale == pytest.approx((0.76 + 2.20) / (0.76 + 1.81))
    assert ionic_radius("F", -1) == 1.33
    np.testing.assert_allclose(
        found[3].atoms.get_scaled_positions(), found[0].atoms.get_scaled_positions(), atol=1e-12
    )


@pytest.mark.parametrize("name", ["li3mx6_c2m", "li2mx4_spinel"])
def test_all_versions_keep_the_charge(name):
    sets = [HALIDES, ["Sc", "Y", "In"], ["Mg", "Zn"]]
    found = variants(prototype(name), sets, {}, number=None, mixed=6, rng=np.random.default_rng(1))
    metals = 3 if name == "li3mx6_c2m" else 2
    assert len(found) == 4 * metals + 6
    assert {charge_of(v.atoms) for v in found} == {0}
    shared = [v for v in found if "+" in v.substitution]
    assert len(shared) == 6
    for v in shared:
        assert len(v.atoms) == len(prototype(name))


def test_random_versions_are_some_of_all_and_repeatable():
    def names(seed, number):
        rng = np.random.default_rng(seed)
        found = variants(prototype("li3mx6_c2m"), [HALIDES, ["Y", "In"]], {}, number=number, mixed=0, rng=rng)
        return [v.substitution for v in found]

    everything = names(0, None)
    assert len(set(everything)) == 8
    some = names(1, 3)
    assert some[0] == ""
    assert len(some) == 4
    assert set(some) <= set(everything)
    assert some == names(1, 3)
    assert len({tuple(names(seed, 3)) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("species", "charges", "message"),
    [
        ([["Cl", "O"]], {}, "different charges"),
        ([["Cl", "Br"], ["Br", "I"]], {}, "Br occurs twice"),
        ([["Cl", "Cl"]], {}, "Cl occurs twice"),
        ([["Mg", "Fe"]], {}, "Fe has not one charge but several"),
        ([["Mg", "Fe"]], {"Fe": 3}, "different charges"),
        ([["Cl", "Xx"]], {}, "not an element"),
    ],
)
def test_sets_that_are_not_isovalent_are_refused(species, charges, message):
    with pytest.raises(ConfigError, match=message):
        check_species(species, charges)


def test_stated_charges_make_a_set_isovalent():
    species = [["Mg", "Fe", "Mn"]]
    check_species(species, {"Fe": 2, "Mn": 2})
    with pytest.raises(ConfigError, match=r"different charges .*Fe \+3"):
        check_species(species, {"Fe": 3, "Mn": 2})


def test_unknown_radius_is_an_error():
    with pytest.raises(DataError, match="no ionic radius of Na"):
        ionic_radius("Na", 3)


def test_the_same_crystal_from_two_sources_is_kept_once(tmp_path):
    ase.io.write(tmp_path / "a.cif", bulk("LiBr", "rocksalt", a=5.3, cubic=True))
    starts = make_starts(
        config(
            structures={"prototypes": ["rocksalt", "cesiumchloride"], "files": ["a.cif"]},
            substitution={"species": [["Cl", "Br"]]},
        ),
        tmp_path,
    )
    assert [s.name for s in starts.kept] == [
        "LiCl_rocksalt",
        "LiBr_rocksalt",
        "LiCl_cesiumchloride",
        "LiBr_cesiumchloride",
    ]
    assert len(starts.dropped) == 2
    assert "is the same crystal as LiBr_rocksalt" in starts.dropped[0][1]


def test_duplicates_can_be_kept_and_have_names_of_their_own(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", [bulk("LiBr", "rocksalt", a=a) for a in (5.3, 5.4, 5.5)])
    settings = {
        "structures": {"files": [f"{tmp_path}/a.extxyz@1:"]},
        "substitution": {"duplicates": "keep"},
    }
    kept = make_starts(config(**settings)).kept
    assert [s.name for s in kept] == ["LiBr_a", "LiBr_a_2"]
    assert [s.provenance for s in kept] == ["a.extxyz#1", "a.extxyz#2"]


def test_a_structure_with_too_many_atoms_is_reported():
    starts = make_starts(
        config(
            structures={"prototypes": ["rocksalt", "li3mx6_p3m1"]}, cell={"max_atoms": 20, "min_length": 5}
        )
    )
    assert [s.name for s in starts.kept] == ["LiCl_rocksalt"]
    assert starts.dropped == [("Li3YCl6_li3mx6_p3m1", "has 30 atoms, more than cell.max_atoms")]
    with pytest.raises(DataError, match="No structure is left"):
        make_starts(config(structures={"prototypes": ["li3mx6_p3m1"]}, cell={"max_atoms": 20}))


@pytest.mark.parametrize("text", ["nowhere.cif", "a.extxyz@7", "a.extxyz@x"])
def test_files_and_rows_that_do_not_exist_are_refused(tmp_path, text):
    ase.io.write(tmp_path / "a.extxyz", bulk("Cu"))
    with pytest.raises(ConfigError):
        make_starts(config(structures={"files": [text]}), tmp_path)


@pytest.mark.parametrize("name", ["rocksalt", "wurtzite", "li3mx6_c2m"])
def test_supercells_are_wide_enough(name):
    atoms, repeat = supercell(prototype(name), CellConfig(min_length=8.0, min_atoms=40, max_atoms=500))
    cell = atoms.cell.array
    widths = [atoms.get_volume() / np.linalg.norm(np.cross(cell[k - 2], cell[k - 1])) for k in range(3)]
    assert min(widths) >= 8.0
    assert len(atoms) >= 40
    assert len(atoms) == len(prototype(name)) * np.prod(repeat)


def test_supercells_stop_before_the_limit():
    atoms, repeat = supercell(prototype("rocksalt"), CellConfig(min_length=100.0, max_atoms=16))
    assert len(atoms) == 16
    assert repeat == (2, 2, 2)
    water = molecule("H2O")
    assert len(supercell(water, CellConfig())[0]) == 3


def test_random_strains_are_symmetric_and_cover_the_range():
    settings = StrainConfig(runs=4, isotropic=(-0.04, 0.04), shear=0.02)
    for run in range(4):
        strain = draw_strain(settings, run, np.random.default_rng(run))
        np.testing.assert_array_equal(strain, strain.T)
        assert -0.04 + 0.02 * run <= np.trace(strain) / 3 <= -0.02 + 0.02 * run
        assert np.abs(strain).max() < 0.2


def test_listed_strains_are_taken_as_they_are():
    settings = StrainConfig(values=[-0.02, (0.01, 0.02, 0.03, 0.004, 0.005, 0.006)])
    np.testing.assert_array_equal(draw_strain(settings, 0, np.random.default_rng(0)), -0.02 * np.eye(3))
    expected = [[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]]
    np.testing.assert_array_equal(draw_strain(settings, 1, np.random.default_rng(0)), expected)


def test_strain_changes_the_cell_and_keeps_fractional_positions():
    atoms = bulk("Cu", cubic=True)
    new = strained(atoms, 0.03 * np.eye(3))
    assert new.get_volume() == pytest.approx(1.03**3 * atoms.get_volume())
    np.testing.assert_allclose(new.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    with pytest.raises(ConfigError, match="cannot be strained"):
        strained(Atoms("H"), 0.03 * np.eye(3))
    assert len(strained(Atoms("H"), np.zeros((3, 3)))) == 1


@pytest.mark.parametrize("wrong", [{"isotropic": (0.1, -0.1)}, {"values": [3.0]}, {"shear": 1.0}])
def test_strains_in_percent_are_refused(wrong):
    with pytest.raises(ValueError, match=r"isotropic|fractions"):
        StrainConfig(**wrong)


def test_random_streams_depend_on_the_name_only():
    a, b, c = (random_stream(1, *name).random(4) for name in (("x", 1), ("x", 1), ("x", 11)))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert not np.array_equal(a, random_stream(2, "x", 1).random(4))
