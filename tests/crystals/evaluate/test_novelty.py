"""Crystals that are in no reference set."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomml.crystals.evaluate import equality
from atomml.crystals.evaluate.novelty import novelty
from atomml.datasets import from_ase
from tests.crystals.evaluate.real import real_store

SALT, CAESIUM = bulk("NaCl", "rocksalt", 5.6), bulk("NaCl", "cesiumchloride", 3.4)
BROKEN = Atoms("NaCl", np.full((2, 3), np.nan), cell=np.eye(3) * 4, pbc=True)


@pytest.mark.parametrize("as_store", [False, True])
def test_a_crystal_of_the_reference_is_known_by_the_row_of_its_match(as_store):
    references = [bulk("Cu"), bulk("Al"), SALT.repeat((2, 1, 1))]
    known = from_ase(references, require_energy=False) if as_store else references
    found = novelty([SALT, CAESIUM, bulk("Ag"), bulk("Al", "fcc", 4.3)], known)
    assert found.novel == (False, True, True, False)
    assert found.match.tolist() == [2, -1, -1, 1]
    metrics = found.metrics()
    assert metrics["novel"]["count"] == 2
    assert metrics["unknown"]["count"] == 0


def test_what_cannot_be_compared_is_neither_novel_nor_known():
    found = novelty([BROKEN, None, SALT], [SALT])
    assert found.novel == (None, None, False)
    assert found.metrics()["unknown"]["count"] == 2
    assert found.metrics()["novel"]["fraction"] == 0.0


def test_a_broken_reference_makes_only_its_formula_uncertain():
    found = novelty([SALT, CAESIUM, bulk("Cu")], [BROKEN, SALT])
    assert found.novel == (False, None, True)
    assert found.errors[1].startswith("reference 0")
    assert found.metrics()["references_that_fail"]["count"] == 1


def test_a_comparison_that_fails_is_unknown(monkeypatch):
    def fails(row):
        raise RuntimeError("trouble")

    monkeypatch.setattr(equality, "_equal", fails)
    found = novelty([SALT, bulk("Cu")], [SALT])
    assert found.novel == (None, True)
    assert found.errors == ("RuntimeError: trouble", None)


def test_all_of_a_set_is_known_to_itself_and_nothing_to_another(shared_data, tmp_path):
    store = real_store(shared_data / "crystals/mp_20/biternary_val.csv.gz", tmp_path, rows=40)
    some = [store[k] for k in range(40)]
    assert novelty(some, store).metrics()["novel"]["count"] == 0
    other = real_store(shared_data / "crystals/perov_5/val.csv.gz", tmp_path)
    assert novelty(some, other).metrics()["novel"]["count"] == 40
