"""Crystals in padded tensors and back."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from atomml.crystals.batch import CrystalBatch
from atomml.errors import DataError


def crystals():
    shifted = bulk("NaCl", "rocksalt", 5.6)
    shifted.positions -= [7.0, 0.1, 20.0]
    return [bulk("Cu"), shifted, bulk("NaCl", "rocksalt", 5.6, cubic=True)]


def test_structures_come_back_wrapped_into_their_cells():
    batch = CrystalBatch.from_atoms(crystals())
    assert batch.n_atoms.tolist() == [1, 2, 8]
    assert batch.mask.sum(1).tolist() == [1, 2, 8]
    assert batch.fractional.min() >= 0
    assert batch.fractional.max() < 1
    for before, after in zip(crystals(), batch.to_atoms(), strict=True):
        before.wrap(eps=0)
        assert after.numbers.tolist() == before.numbers.tolist()
        assert after.pbc.all()
        np.testing.assert_allclose(after.cell, before.cell, atol=1e-12)
        np.testing.assert_allclose(
            after.get_all_distances(mic=True), before.get_all_distances(mic=True), atol=1e-9
        )


@pytest.mark.parametrize("index", [[1, 0], torch.tensor([1, 0]), slice(0, 2)])
def test_rows_have_no_more_padding_than_they_need(index):
    batch = CrystalBatch.from_atoms(crystals())
    some = batch.rows(index)
    assert some.numbers.shape == (2, 2)
    assert sorted(some.n_atoms.tolist()) == [1, 2]
    assert len(batch.rows([])) == 0


def test_a_tiny_negative_coordinate_becomes_zero_not_one():
    batch = CrystalBatch.from_atoms([Atoms("H", [[-1e-20, 0, 0]], cell=np.eye(3), pbc=True)])
    assert batch.fractional[0, 0, 0] == 0.0


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(cell=np.eye(3), pbc=True), "without atoms"),
        (Atoms("H"), "three-dimensional cell"),
        (Atoms("H", [[np.nan, 0, 0]], cell=np.eye(3)), "not finite"),
    ],
)
def test_what_is_not_a_crystal_is_refused_by_its_number(atoms, message):
    with pytest.raises(DataError, match=message) as error:
        CrystalBatch.from_atoms([bulk("Cu"), atoms])
    assert "structure 1" in str(error.value)
