"""Space groups."""

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import Spacegroup

from atomml._optional import installed
from atomml.crystals.evaluate.symmetry import SpaceGroup, crystal_system, space_group, space_groups
from atomml.errors import DataError


@pytest.mark.parametrize(
    ("atoms", "number", "symbol", "system"),
    [
        (bulk("Cu"), 225, "Fm-3m", "cubic"),
        (bulk("NaCl", "cesiumchloride", 3.4), 221, "Pm-3m", "cubic"),
        (bulk("Mg"), 194, "P6_3/mmc", "hexagonal"),
        (bulk("Si"), 227, "Fd-3m", "cubic"),
    ],
)
def test_space_groups_of_known_crystals(atoms, number, symbol, system):
    found = space_group(atoms)
    assert found == (number, symbol)
    assert found.system == system


@pytest.mark.parametrize("number", range(1, 231))
def test_every_number_has_its_system(number):
    assert Spacegroup(number).no == number
    borders = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal"}
    borders |= {167: "trigonal", 194: "hexagonal", 230: "cubic"}
    assert crystal_system(number) == next(name for last, name in borders.items() if number <= last)


def test_noise_is_symmetric_at_the_loose_tolerance_only(rng):
    noisy = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    noisy.positions += rng.normal(0, 0.02, noisy.positions.shape)
    metrics = space_groups([noisy, noisy], symprecs=(0.1, 0.01)).metrics()
    assert metrics["0.1"]["space_groups"] == {"225 Fm-3m": 2}
    assert metrics["0.01"]["p1"]["count"] == 2
    assert metrics["0.01"]["systems"] == {"triclinic": 2}


def test_a_failure_is_counted_not_fatal():
    broken = Atoms("Cu2", np.zeros((2, 3)), cell=np.eye(3), pbc=True)
    with pytest.raises(DataError, match="No space group"):
        space_group(broken)
    found = space_groups([broken, None, bulk("Cu")])
    assert [isinstance(g, SpaceGroup) for g in found.groups[0]] == [False, False, True]
    assert found.metrics()["0.01"]["unknown"]["count"] == 2


@pytest.mark.skipif(not installed("moyopy"), reason="moyopy is not installed")
def test_moyopy_answers_where_spglib_does_not(monkeypatch):
    expected = space_group(bulk("Mg"))
    monkeypatch.setattr(spglib, "get_symmetry_dataset", lambda *_, **__: None)
    found = space_group(bulk("Mg"))
    assert found.number == expected.number
    assert found.symbol.replace("_", "") == expected.symbol.replace("_", "")
