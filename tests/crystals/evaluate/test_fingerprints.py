"""Fingerprints against direct calls of matminer, failures as outcomes, the file of known fingerprints."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomml.crystals.evaluate import fingerprints as module
from atomml.crystals.evaluate.fingerprints import fingerprint, fingerprints, stack
from atomml.errors import DataError

sites = pytest.importorskip("matminer.featurizers.site.fingerprint")
composite = pytest.importorskip("matminer.featurizers.composition.composite")

SALT = bulk("NaCl", "rocksalt", a=5.64)
DIAMOND = bulk("C", "diamond", a=3.567)
COLLAPSED = Atoms("Li2", [[0, 0, 0], [0.1, 0, 0]], cell=[4, 4, 4], pbc=True)
BROKEN = Atoms("Li", cell=[3, 3, float("nan")], pbc=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_matminer_called_directly():
    adaptor = pytest.importorskip("pymatgen.io.ase").AseAtomsAdaptor
    perovskite = Atoms(
        "CaTiO3",
        scaled_positions=[[0.02, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=[3.8, 3.9, 4.0],
        pbc=True,
    )
    crystal = adaptor.get_structure(perovskite)
    of_sites = sites.CrystalNNFingerprint.from_preset("ops")
    found = fingerprint(perovskite)
    np.testing.assert_allclose(
        found.structure, np.mean([of_sites.featurize(crystal, i) for i in range(5)], 0)
    )
    elements = composite.ElementProperty.from_preset("magpie", impute_nan=True)
    np.testing.assert_allclose(found.composition, elements.featurize(crystal.composition))
    assert (found.structure.shape, found.composition.shape) == ((61,), (132,))


def test_orientation_origin_and_periodicity_flags_do_not_matter(rng):
    moved = SALT.copy()
    moved.rotate(31.0, (1, 2, 3), rotate_cell=True)
    moved.positions += rng.normal(size=3)
    moved.pbc = False
    np.testing.assert_allclose(fingerprint(moved).structure, fingerprint(SALT).structure, atol=1e-6)


@pytest.mark.parametrize("atoms", [COLLAPSED, BROKEN, Atoms()])
def test_what_is_not_valid_is_refused_before_neighbours_are_searched(atoms):
    with pytest.raises(DataError, match="Not a valid structure"):
        fingerprint(atoms)


def test_failures_are_outcomes_and_counted():
    outcomes = fingerprints([SALT, COLLAPSED, DIAMOND, BROKEN])
    assert [o.ok for o in outcomes] == [True, False, True, False]
    assert "two atoms are 0.100 Å apart" in str(outcomes[1].error)
    stacked = stack(outcomes)
    assert stacked.rows.tolist() == [0, 2]
    assert stacked.total == 4
    np.testing.assert_array_equal(stacked.composition[1], fingerprint(DIAMOND).composition)


def test_nothing_stacks_to_nothing():
    for outcomes, total in (([], 0), (fingerprints([COLLAPSED]), 1)):
        stacked = stack(outcomes)
        assert (len(stacked.rows), len(stacked.structure), stacked.total) == (0, 0, total)


def test_known_fingerprints_are_not_computed_again(tmp_path, monkeypatch):
    file, seen = tmp_path / "set" / "fingerprints.npz", []
    structures = [SALT, COLLAPSED, SALT.copy(), DIAMOND]
    first = fingerprints(structures, cache_file=file, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(module, "fingerprint", lambda atoms: pytest.fail("computed again"))
    again = fingerprints([DIAMOND, SALT], cache_file=file)
    np.testing.assert_array_equal(again[0].value.structure, first[3].value.structure)
    np.testing.assert_array_equal(again[1].value.composition, first[2].value.composition)


def test_fingerprints_of_other_versions_are_not_used(tmp_path, monkeypatch):
    file = tmp_path / "fingerprints.npz"
    fingerprints([DIAMOND], cache_file=file)
    monkeypatch.setattr(module, "_versions", lambda: "others")
    out = fingerprints([DIAMOND], cache_file=file)
    assert out[0].seconds > 0
    with np.load(file) as arrays:
        assert str(arrays["versions"]) == "others"


def test_portions_are_written_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PORTION", 1)
    seen, written = [], []
    monkeypatch.setattr(module, "_write", lambda path, known: written.append(len(known)))
    fingerprints(
        [SALT, DIAMOND, BROKEN],
        cache_file=tmp_path / "fingerprints.npz",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert written == [1, 2, 2]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_foreign_file_is_refused(tmp_path):
    file = tmp_path / "fingerprints.npz"
    file.write_text("something else")
    with pytest.raises(DataError, match="cannot be read"):
        fingerprints([SALT], cache_file=file)
    np.savez(file, other=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        fingerprints([SALT], cache_file=file)


def test_processes_give_the_same():
    here, there = fingerprints([SALT, COLLAPSED]), fingerprints([SALT, COLLAPSED], workers=2, timeout=60.0)
    np.testing.assert_array_equal(here[0].value.structure, there[0].value.structure)
    assert here[1].error == there[1].error
