"""Groups of equal crystals."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.analysis.structure_matcher import StructureMatcher

from atomml.crystals.evaluate import equality
from atomml.crystals.evaluate.equality import equal_pairs, formula_key, reduce_structures, structure_of
from atomml.crystals.evaluate.uniqueness import uniqueness
from tests.crystals.evaluate.real import real_store


def rotated(atoms):
    out = atoms.copy()
    out.rotate(40, (1, 2, 3), rotate_cell=True)
    out.positions += 0.7
    return out


def crystals():
    salt, caesium = bulk("NaCl", "rocksalt", 5.6), bulk("NaCl", "cesiumchloride", 3.4)
    return [salt, bulk("Cu"), rotated(salt), caesium, salt.repeat((1, 1, 2)), bulk("Cu", "fcc", 3.9), caesium]


def test_rotated_shifted_scaled_and_repeated_crystals_are_one():
    found = uniqueness(crystals())
    assert found.group.tolist() == [0, 1, 0, 3, 0, 1, 3]
    assert found.unique.sum() == 3
    metrics = found.metrics()
    assert metrics["unique"]["count"] == 3
    assert metrics["unique"]["of"] == 7
    assert metrics["largest_groups"] == {"0": 3, "1": 2, "3": 2}


def test_what_cannot_be_compared_is_unknown_and_does_not_disturb_the_others():
    broken = Atoms("NaCl", np.full((2, 3), np.nan), cell=np.eye(3) * 4, pbc=True)
    found = uniqueness([broken, *crystals(), None])
    assert found.group.tolist() == [-1, 1, 2, 1, 4, 1, 2, 4, -1]
    assert found.errors[0]
    assert found.errors[-1] == "no structure"
    assert found.metrics()["unknown"]["count"] == 2


def test_a_bad_pair_spoils_no_other_in_its_piece_of_work(monkeypatch):
    def refuses_gold(row):
        if any(79 in other.numbers for other in row.others):
            raise ValueError("no gold")
        return [True] * len(row.others)

    monkeypatch.setattr(equality, "_equal", refuses_gold)
    reduced = [o.value for o in reduce_structures([bulk(x) for x in ("Cu", "Au", "Ag", "Pt")])]
    found = equal_pairs([(0, 1), (0, 2), (0, 3)], reduced, reduced)
    assert found == {(0, 1): "ValueError: no gold", (0, 2): True, (0, 3): True}


def test_a_failed_comparison_leaves_a_crystal_unknown_unless_it_matches(monkeypatch):
    def fails(row):
        if len(row.others) > 1 or row.one.cell[0, 1] > row.others[0].cell[0, 1]:
            raise RuntimeError("trouble")
        return [True]

    monkeypatch.setattr(equality, "_equal", fails)
    found = uniqueness([bulk("Cu", "fcc", a) for a in (4.0, 3.9, 4.1)])
    assert set(found.group.tolist()) == {0, -1}
    assert "RuntimeError: trouble" in found.errors


@pytest.mark.parametrize(
    ("numbers", "key"),
    [([17, 11, 11, 17], ((11, 1), (17, 1))), ([8, 8, 8, 8, 26, 26, 26], ((8, 4), (26, 3)))],
)
def test_formulas_are_reduced(numbers, key):
    assert formula_key(numbers) == key


def test_groups_of_real_crystals_are_those_of_pymatgen(shared_data, tmp_path, rng):
    popular = {"CdI2", "CeSe2", "Li(FeO2)", "SiO2", "TiO2", "CaN2"}
    store = real_store(
        shared_data / "crystals/mp_20/biternary_val.csv.gz",
        tmp_path,
        keep=lambda row: row["pretty_formula"] in popular,
    )
    structures = [store[k] for k in range(len(store))]
    structures += [atoms.copy() for atoms in structures[::3]]
    for atoms in structures:
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
    given = [structure_of(atoms) for atoms in structures]
    row = {id(structure): k for k, structure in enumerate(given)}
    groups = StructureMatcher().group_structures(given)
    expected = sorted(sorted(row[id(structure)] for structure in group) for group in groups)
    group = uniqueness(structures).group
    assert 1 < len(expected) < len(structures)
    assert sorted(np.flatnonzero(group == first).tolist() for first in np.unique(group)) == expected
