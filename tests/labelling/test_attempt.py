"""One attempt with the calculators that are installed here: right labels, kinds of failure."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomml._optional import installed
from atomml.labelling.attempt import attempt
from atomml.labelling.config import LabellerConfig
from atomml.labelling.task import atoms_of, task_of


def answer(atoms, folder, **calculator):
    request = task_of(atoms, LabellerConfig(calculator=calculator)).request
    request.pop("timeout")
    return attempt(**request, folder=folder)


def test_a_structure_travels_exactly(rng):
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.rattle(0.1, rng=rng)
    atoms.set_initial_magnetic_moments([0.0, 1.5])
    atoms.info = {"charge": -1.0, "multiplicity": 2, "T": 300}
    back = atoms_of(task_of(atoms, LabellerConfig(calculator={"kind": "lj"})).request["structure"])
    assert np.array_equal(back.positions, atoms.positions)
    assert np.array_equal(back.cell.array, atoms.cell.array)
    assert np.array_equal(back.pbc, atoms.pbc)
    assert back.get_initial_magnetic_moments().tolist() == [0.0, 1.5]
    assert back.info == {"charge": -1, "multiplicity": 2}


@pytest.mark.parametrize(
    ("calculator", "atoms", "stress"),
    [
        ({"kind": "tblite", "method": "GFN1-xTB"}, molecule("H2O"), False),
        ({"kind": "tblite", "method": "GFN2-xTB"}, molecule("H2O"), False),
        ({"kind": "chgnet"}, bulk("LiCl", "rocksalt", 5.1), True),
        ({"kind": "atomml"}, bulk("LiCl", "rocksalt", 5.1), True),
        ({"kind": "lj"}, bulk("Ar", a=5.3), True),
    ],
    ids=str,
)
def test_labels_of_calculators_by_name(tmp_path, calculator, atoms, stress):
    if calculator["kind"] in ("tblite", "chgnet") and not installed(calculator["kind"]):
        pytest.skip(f"{calculator['kind']} is not installed")
    found = answer(atoms, tmp_path, **calculator)
    assert np.isfinite(found["energy"])
    assert np.shape(found["forces"]) == (len(atoms), 3)
    assert np.shape(found["stress"]) == ((3, 3) if stress else ())
    assert found["host"]


@pytest.mark.parametrize(
    ("calculator", "atoms", "failure"),
    [
        ({"kind": "emt"}, Atoms("Na"), "unsupported"),
        ({"kind": "atomml"}, bulk("Fe"), "unsupported"),
        ({"kind": "lj"}, Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 0]]), "not_finite"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_calculator_cannot_do(tmp_path, calculator, atoms, failure):
    assert answer(atoms, tmp_path, **calculator)["failure"] == failure


def test_tblite_says_what_it_cannot_do(tmp_path):
    if not installed("tblite"):
        pytest.skip("tblite is not installed")
    found = answer(Atoms("Lr"), tmp_path, kind="tblite")
    assert found["failure"] in ("unsupported", "error")
    assert found["message"]
