from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read

from atomml.errors import DataError
from atomml.simulate import relax, write_relaxed


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_dimer_relaxes_to_the_minimum_of_the_curve(potential, optimizer):
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.9]])
    (result,) = relax(dimer, potential, fmax=1e-4, optimizer=optimizer)
    distances = np.linspace(2.6, 2.9, 601)
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, d]]) for d in distances]
    energies = [p.energy for p in potential.predict(dimers)]
    assert result.converged
    assert result.atoms.get_distance(0, 1) == pytest.approx(distances[np.argmin(energies)], abs=2e-3)
    assert result.energy_last < result.energy_first
    assert result.fmax < 1e-4
    assert dimer.get_distance(0, 1) == 2.9


def test_cell_relaxes_to_zero_stress(potential, crystal):
    (result,) = relax(crystal, potential, fmax=1e-3)
    assert result.converged
    assert result.cell_relaxed
    assert result.stress_max < 0.01
    assert result.volume_last == pytest.approx(result.atoms.get_volume())
    assert result.volume_first == pytest.approx(crystal.get_volume())


def test_cell_stays_when_asked(potential, crystal):
    (result,) = relax(crystal, potential, cell=False)
    np.testing.assert_array_equal(result.atoms.cell.array, crystal.cell.array)
    assert not result.cell_relaxed


def test_constraints_are_respected_and_kept(potential, crystal):
    crystal.set_constraint(FixAtoms([0, 3]))
    (result,) = relax(crystal, potential, cell=False)
    np.testing.assert_array_equal(result.atoms.positions[[0, 3]], crystal.positions[[0, 3]])
    assert len(result.atoms.constraints) == 1
    assert result.converged


def test_one_failure_does_not_stop_the_others(potential, crystal, molecule):
    gold = bulk("Au")
    overlapping = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.05]])
    results = relax([crystal, gold, overlapping, molecule], potential, fmax=0.02)
    assert [r.error is None for r in results] == [True, False, False, True]
    assert [r.converged for r in results] == [True, False, False, True]
    assert "does not know Au" in results[1].error
    assert "Å apart" in results[2].error
    assert results[1].atoms.calc is None


def test_cell_of_a_molecule_is_an_error_only_when_asked_for(potential, molecule):
    assert relax(molecule, potential)[0].error is None
    assert "no cell to relax" in relax(molecule, potential, cell=True)[0].error


def test_running_out_of_steps_is_not_convergence(potential, crystal):
    (result,) = relax(crystal, potential, fmax=1e-5, steps=3)
    assert not result.converged
    assert result.error is None
    assert result.steps == 3


def test_outputs_hold_every_structure(potential, crystal, tmp_path):
    results = relax([crystal, bulk("Au")], potential, fmax=0.05)
    paths = write_relaxed(results, tmp_path / "relaxed.extxyz")
    frames = read(paths[0], ":")
    assert len(frames) == 2
    assert frames[0].get_potential_energy() == pytest.approx(results[0].energy_last)
    assert "Au" in frames[1].info["relax_error"]
    rows = list(csv.DictReader(paths[1].open()))
    assert [row["converged"] for row in rows] == ["True", "False"]
    assert json.loads(paths[2].read_text())[1]["energy_last"] is None


def test_no_structures_is_an_error(potential):
    with pytest.raises(DataError, match="no structure"):
        relax([], potential)
    with pytest.raises(DataError, match="fmax"):
        relax(Atoms("Cu"), potential, fmax=0.0)
