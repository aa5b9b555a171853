"""The bundled crystals: neutral, dense, in their prototypes, each once."""

import csv
import gzip
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Element, Structure
from spglib import get_symmetry_dataset

from atomml.datasets import load_frames
from atomml.datasets.lattice import shortest_distance

FILE = Path(__file__).parents[2] / "data" / "perovskite_like" / "perovskite_like.csv.gz"
SPACE_GROUPS = {
    "perovskite": (221, 5),
    "antiperovskite": (221, 5),
    "rocksalt": (225, 2),
    "cesiumchloride": (221, 2),
    "zincblende": (216, 2),
    "fluorite": (225, 3),
    "antifluorite": (225, 3),
    "rutile": (136, 6),
    "anatase": (141, 6),
}
ION = re.compile(r"([A-Z][a-z]?)(\d)([+-])")


@pytest.fixture(scope="module")
def store():
    return load_frames(FILE, require_energy=False)


@pytest.fixture(scope="module")
def crystals(store):
    return [store[i] for i in range(len(store))]


def test_file_is_small_and_has_the_columns_of_other_crystal_sets():
    assert FILE.stat().st_size < 100_000
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert {"material_id", "cif", "formula", "prototype", "energy_per_atom", "n_steps", "fmax"} <= set(
        rows[0]
    )
    assert len({row["material_id"] for row in rows}) == len(rows)


def test_crystals_are_neutral_in_known_oxidation_states(store, crystals):
    for atoms, text in zip(crystals, store.tags["ions"].tolist(), strict=True):
        charges = {symbol: int(sign + size) for symbol, size, sign in ION.findall(text)}
        counts = Counter(atoms.get_chemical_symbols())
        assert charges.keys() == counts.keys()
        assert sum(n * charges[symbol] for symbol, n in counts.items()) == 0
        assert all(q in Element(symbol).oxidation_states for symbol, q in charges.items())


def test_formulas_are_those_of_the_crystals(store, crystals):
    for atoms, formula in zip(crystals, store.tags["formula"].tolist(), strict=True):
        assert Composition(atoms.get_chemical_formula()).reduced_formula == formula


def test_crystals_have_the_space_group_of_their_prototype(store, crystals):
    names = store.tags["prototype"].tolist()
    assert set(names) == set(SPACE_GROUPS)
    for name, (number, size) in SPACE_GROUPS.items():
        for atoms in [a for a, other in zip(crystals, names, strict=True) if other == name][::10]:
            cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
            assert (get_symmetry_dataset(cell, symprec=1e-3).number, len(atoms)) == (number, size)


def test_distances_and_volumes_are_those_of_solids(crystals):
    shortest = [shortest_distance(a.cell[:], a.get_scaled_positions(), 6.0) for a in crystals]
    assert min(shortest) > 1.6
    assert max(shortest) < 4.1
    volumes = np.array([a.get_volume() / len(a) for a in crystals])
    assert volumes.min() > 5
    assert volumes.max() < 80


@pytest.mark.parametrize(
    ("name", "edge"),
    [  # of the conventional cell, measured at room temperature
        (("perovskite", "SrTiO3"), 3.905),
        (("perovskite", "KMgF3"), 3.989),
        (("rocksalt", "MgO"), 4.212),
        (("rocksalt", "NaCl"), 5.640),
        (("cesiumchloride", "CsCl"), 4.123),
        (("zincblende", "ZnS"), 5.409),
        (("fluorite", "CaF2"), 5.463),
        (("antifluorite", "Li2O"), 4.619),
    ],
)
def test_well_known_crystals_have_lattice_constants_near_experiment(store, crystals, name, edge):
    pairs = zip(store.tags["prototype"].tolist(), store.tags["formula"].tolist(), strict=True)
    (atoms,) = [a for a, pair in zip(crystals, pairs, strict=True) if pair == name]
    primitive = 1 if name[0] in ("perovskite", "cesiumchloride") else 4
    assert (primitive * atoms.get_volume()) ** (1 / 3) == pytest.approx(edge, rel=0.015)


def test_no_two_crystals_of_a_formula_match(store, crystals):
    matcher = StructureMatcher()
    formulas = store.tags["formula"]
    structures = [Structure(a.cell[:], a.numbers, a.get_scaled_positions()) for a in crystals]
    for formula in np.unique(formulas):
        same = np.flatnonzero(formulas == formula)
        assert not any(matcher.fit(structures[i], structures[j]) for i in same for j in same if i < j)


def test_relaxations_have_converged(store):
    assert store.tags["fmax"].max() <= 0.005
    assert store.tags["n_steps"].max() < 100
    assert np.isfinite(store.tags["energy_per_atom"]).all()
