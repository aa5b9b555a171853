"""Labels by PySCF: forces are derivatives of the energy, failures have their kinds."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomml.labelling.answers import LabelFailureError
from atomml.labelling.attempt import attempt
from atomml.labelling.config import LabellerConfig
from atomml.labelling.task import task_of

pytest.importorskip("pyscf", reason="needs pip install 'atomml[label]'")
from atomml.labelling.molecules import pyscf_labels


def settings(**keys):
    return LabellerConfig(calculator={"kind": "pyscf", "basis": "sto-3g", **keys}).calculator


@pytest.mark.parametrize("fitting", [True, False])
def test_forces_are_the_negative_derivative_of_the_energy(fitting):
    water = molecule("H2O")
    water.positions[0, 2] += 0.1
    config = settings(functional="hf", density_fitting=fitting)
    labels = pyscf_labels(water, config)
    step = 1e-3
    energies = []
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[0, 2] += sign * step
        energies.append(pyscf_labels(moved, config).energy)
    assert labels.forces[0, 2] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-3)
    assert labels.forces.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-3)
    assert labels.energy == pytest.approx(-2040, abs=10)


def test_charge_and_multiplicity_are_those_of_the_structure_else_of_the_settings():
    hydrogen = Atoms("H")
    atom = pyscf_labels(hydrogen, settings(functional="hf")).energy
    assert atom == pytest.approx(-0.4666 * 27.2114, abs=1e-2)  # one electron in the STO-3G of hydrogen
    pair = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    triplet = pyscf_labels(pair, settings(functional="hf", multiplicity=3)).energy
    singlet = pyscf_labels(pair, settings(functional="hf")).energy
    pair.info["spin"] = 3
    assert pyscf_labels(pair, settings(functional="hf")).energy == pytest.approx(triplet)
    assert triplet > singlet + 5
    pair.info = {"charge": 1}
    assert pyscf_labels(pair, settings(functional="hf")).energy > singlet + 5


@pytest.mark.parametrize(
    ("atoms", "keys", "kind"),
    [
        (bulk("Cu"), {}, "unsupported"),
        (Atoms("H"), {"multiplicity": 1}, "unsupported"),
        (Atoms("H", info={"charge": 1}), {}, "unsupported"),
        (Atoms("U"), {}, "unsupported"),
        (molecule("H2O"), {"cycles": 1, "functional": "hf"}, "not_converged"),
    ],
)
def test_failures_have_their_kinds(atoms, keys, kind):
    with pytest.raises(LabelFailureError) as error:
        pyscf_labels(atoms, settings(**keys))
    assert error.value.kind == kind


def test_an_attempt_gives_json_values_and_no_stress(tmp_path):
    labeller = LabellerConfig(calculator=settings(functional="pbe"))
    request = task_of(molecule("H2"), labeller).request
    request.pop("timeout")
    answer = attempt(**request, folder=tmp_path)
    assert answer["stress"] is None
    assert len(answer["forces"]) == 2
    assert answer["energy"] == pytest.approx(-31, abs=1.5)
    assert list(tmp_path.iterdir()) == []


def test_a_functional_that_does_not_exist_is_an_error(tmp_path):
    labeller = LabellerConfig(calculator=settings(functional="nosuch"))
    request = task_of(molecule("H2"), labeller).request
    request.pop("timeout")
    assert attempt(**request, folder=tmp_path)["failure"] == "error"
