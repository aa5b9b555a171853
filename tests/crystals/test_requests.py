"""Wishes of users become requests to the sampler, or errors that say why not."""

from collections import Counter

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from atomml.crystals.requests import Generator, plan_requests, requests_for
from atomml.crystals.sizes import ExtrapolationWarning
from atomml.errors import AtommlError, ConfigError, DataError, UnsupportedError
from tests.crystals.generators import Prototypes, StructureOnly

TI, OX, LI, NA, CL = 22, 8, 3, 11, 17


def plan(model=Prototypes, **wishes):
    return plan_requests(model(), **wishes)


@pytest.fixture
def rocksalt(tmp_path):
    """NaCl with one ion pair moved outside the cell."""
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.positions[1] -= [5.6, 0, 0]
    path = tmp_path / "template.extxyz"
    ase.io.write(path, atoms)
    return path


def test_the_stand_in_has_the_interface():
    assert isinstance(Prototypes(), Generator)


def test_a_formula_is_repeated_as_often_as_crystals_of_that_size_occur():
    found = plan(formula="TiO2")
    assert [request.n_atoms for request in found.choices] == [3, 6]
    assert found.weights == pytest.approx([2 / 3, 1 / 3])
    assert found.choices[1].numbers == (TI, TI, OX, OX, OX, OX)
    assert found.unit == 3
    sizes = Counter(r.n_atoms for r in requests_for(Prototypes(), n=3000, seed=1, formula="TiO2"))
    assert sizes[3] / 3000 == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("wishes", "sizes"),
    [
        ({"formula": "LiCl", "z": 3}, [6]),
        ({"formula": "LiCl", "n_atoms": 4}, [4]),
        ({"formula": "LiCl", "max_atoms": 5}, [2, 4]),
        ({"formula": "Li2Cl2"}, [4, 8]),
        ({"n_atoms": 3}, [3]),
        ({"max_atoms": 3}, [1, 2, 3]),
        ({"chemical_system": "Li-O-Ti", "exactly": True}, [3, 4, 6, 8]),
        ({}, [1, 2, 3, 4, 6, 8]),
    ],
)
def test_sizes_follow_the_wish_and_the_training_data(wishes, sizes):
    found = plan(**wishes)
    assert [request.n_atoms for request in found.choices] == sizes
    assert sum(found.weights) == pytest.approx(1)


def test_a_chemical_system_forbids_all_other_elements():
    found = plan(chemical_system="Li,O")
    assert {request.allowed for request in found.choices} == {frozenset({LI, OX})}
    assert found.required == frozenset()
    assert plan(chemical_system="O-Li", exactly=True).required == {LI, OX}


def test_the_same_seed_draws_the_same_requests():
    first, again, other = (requests_for(Prototypes(), n=50, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("wishes", [{"formula": "LiCl", "z": 5}, {"n_atoms": 7}, {"n_atoms": 40}])
def test_sizes_outside_the_training_data_are_warned_of_and_done(wishes):
    with pytest.warns(ExtrapolationWarning, match="1-4, 6, 8"):
        found = plan(**wishes)
    assert len(found.choices) == 1


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"formula": "nacl"}, ConfigError, "not a chemical formula"),
        ({"formula": "Li0.5O"}, ConfigError, "not a chemical formula"),
        ({"formula": "Qq2"}, ConfigError, "no element Qq"),
        ({"formula": "X2"}, ConfigError, "no element X"),
        ({"formula": ""}, ConfigError, "without atoms"),
        ({"formula": "LiCl0"}, ConfigError, "without atoms"),
        ({"formula": "LiPu"}, UnsupportedError, "does not know Pu.*\n.*\n.*Li, O, Na, Cl, Ti"),
        ({"formula": "LiCl", "n_atoms": 3}, ConfigError, "No whole number.*\n.*2 or 4"),
        ({"formula": "Li9Cl"}, ConfigError, "multiple of 10, at most 8.*1-4, 6, 8"),
        ({"formula": "LiCl", "chemical_system": "Li-Cl"}, ConfigError, "already says"),
        ({"formula": "LiCl", "z": 0}, ConfigError, "1 or more"),
        ({"z": 2}, ConfigError, "needs a formula"),
        ({"n_atoms": 0}, ConfigError, "1 or more"),
        ({"n_atoms": 2, "max_atoms": 3}, ConfigError, "no use"),
        ({"chemical_system": "Li-Zz"}, ConfigError, "no element 'Zz'"),
        ({"chemical_system": ""}, ConfigError, "no element ''"),
        ({"chemical_system": "Li-Pu"}, UnsupportedError, "does not know Pu"),
        ({"exactly": True}, ConfigError, "chemical system"),
        ({"chemical_system": "Li-O-Ti", "exactly": True, "n_atoms": 2}, ConfigError, "3 atoms or more"),
        ({"template": "nowhere.cif", "formula": "LiCl"}, DataError, "nowhere.cif"),
    ],
)
def test_wishes_that_cannot_be_fulfilled_are_refused(wishes, error, message):
    with pytest.raises(error, match=message):
        plan(**wishes)


@pytest.mark.parametrize("wishes", [{}, {"chemical_system": "Li-O"}, {"n_atoms": 2}])
def test_a_model_of_structures_needs_a_composition(wishes):
    with pytest.raises(UnsupportedError, match="composition"):
        plan(StructureOnly, **wishes)
    assert plan(StructureOnly, formula="LiCl").choices


def test_atoms_of_a_template_come_first_and_stay(rocksalt):
    found = plan(template=rocksalt, formula="Li2NaCl3", z=1)
    (request,) = found.choices
    assert request.numbers == (NA, CL, LI, LI, CL, CL)
    assert [site.number for site in request.sites] == [NA, CL]
    np.testing.assert_allclose(request.sites[1].fractional, [0.5, 0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(request.lattice, bulk("NaCl", "rocksalt", 5.6).cell)
    assert plan(template=rocksalt, formula="Li2NaCl3", fix_lattice=False).choices[0].lattice is None


def test_a_template_leaves_room_for_more_atoms(rocksalt):
    assert [r.n_atoms for r in plan(template=rocksalt).choices] == [3, 4, 6, 8]
    assert [r.n_atoms for r in plan(template=rocksalt, fix_lattice=False).choices] == [2, 3, 4, 6, 8]
    assert [r.n_atoms for r in plan(template=rocksalt, formula="NaCl").choices] == [4, 6, 8]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"formula": "LiCl"}, "does not leave atoms"),
        ({"formula": "NaCl", "z": 1}, "does not leave atoms"),
        ({"n_atoms": 2}, "3 atoms or more"),
        ({"chemical_system": "Li-Cl"}, "template has Na"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(rocksalt, wishes, message):
    with pytest.raises(ConfigError, match=message):
        plan(template=rocksalt, **wishes)


def test_a_template_is_one_ordered_crystal(tmp_path):
    path = tmp_path / "two.extxyz"
    ase.io.write(path, [bulk("NaCl", "rocksalt", 5.6)] * 2)
    with pytest.raises(DataError, match="2 structures"):
        plan(template=path)
    assert plan(template=f"{path}@1").choices
    ase.io.write(path, bulk("NaCl", "rocksalt", 5.6), plain=True)
    with pytest.raises(AtommlError, match="template"):
        plan(template=path)


def test_compositions_of_a_data_set_come_row_by_row(tmp_path):
    path = tmp_path / "set.extxyz"
    ase.io.write(path, [bulk("NaCl", "rocksalt", 5.6), bulk("Cu"), bulk("LiCl", "rocksalt", 5.1)])
    with pytest.warns(UserWarning, match="1 of 3 compositions"):
        found = plan(like=path)
    assert found.natural_size == 2
    drawn = found.draw(3, np.random.default_rng(0), start=1)
    assert [request.reference for request in drawn] == [2, 0, 2]
    assert drawn[0].numbers == (LI, CL)
    with pytest.raises(ConfigError, match="says everything"):
        plan(like=path, formula="LiCl")


def test_different_plans_have_different_fingerprints(rocksalt):
    plans = [
        plan(),
        plan(n_atoms=2),
        plan(chemical_system="Li-O"),
        plan(template=rocksalt),
        plan(formula="LiCl"),
    ]
    plans.append(plan(formula="LiCl", properties={"density": 2.0}))
    assert len({p.fingerprint() for p in plans}) == len(plans)
    assert plan().fingerprint() == plan().fingerprint()
