"""Screening: alloys of copper and gold by EMT, whose numbers are known, and how two potentials agree."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomml.crystals.evaluate.energies import Energies
from atomml.crystals.evaluate.hull import HullDistance
from atomml.crystals.relax import Relaxed
from atomml.crystals.screening import Screening, agreement, discoveries, screen
from atomml.errors import SimulationError

PHASES = [bulk("Cu", a=3.7), bulk("Au", a=4.0)]


def alloy(a=3.9, c=1.0):
    return Atoms(
        "CuAu", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[a / 2**0.5] * 2 + [a * c], pbc=True
    )


def screening(distances, std=None, unconverged=()):
    """What one potential says, without structures."""
    n = len(distances)
    relaxed = tuple(Relaxed({"converged": k not in unconverged}, None) for k in range(n))
    stds = np.full(n, np.nan) if std is None else np.array(std)
    found = tuple(HullDistance(value) for value in distances)
    return Screening(relaxed, Energies(np.zeros(n), stds, (None,) * n), found, ())


def test_crystals_and_phases_are_relaxed_before_they_are_compared():
    found = screen([alloy(), None, PHASES[0]], PHASES, EMT(), fmax=0.01)
    energies = []
    for one in (*found.relaxed[::2], *found.phases):
        assert one.row["converged"]
        atoms = one.atoms.copy()
        atoms.calc = EMT()
        assert np.abs(atoms.get_forces()).max() < 0.01
        energies.append(atoms.get_potential_energy() / len(atoms))
    mixed, copper, *ends = energies
    assert found.distances[0].value == pytest.approx(mixed - sum(ends) / 2, abs=1e-6)
    assert found.distances[2].value == pytest.approx(copper - ends[0], abs=1e-6)
    assert mixed == pytest.approx(found.energies.per_atom[0], abs=1e-6)
    assert found.distances[0].value < 0  # the alloy L1_0 is a phase of EMT


def test_what_cannot_be_relaxed_is_unknown_and_stops_nothing():
    strange = bulk("U", "fcc", 4.0)
    found = screen([strange, alloy(), None], [*PHASES, strange], EMT(), steps=3)
    assert [d.value is None for d in found.distances] == [True, False, True]
    assert "U" in found.distances[0].error
    assert found.distances[2].error == "no structure"
    assert [atoms is None for atoms in found.structures] == [True, False, True]
    assert [one.row["valid"] for one in found.phases] == [True, True, False]
    with pytest.raises(SimulationError, match="No phase"):
        screen([alloy()], [strange], EMT())


def test_agreement_counts_decisions_of_crystals_that_both_know():
    model = screening([0.0, 0.01, 0.05, 0.2, None], std=[0.01, 0.01, 0.02, 0.1, 0.1])
    oracle = screening([0.0, 0.04, 0.03, 0.1, 0.0])
    found = agreement(model, oracle, 0.03)
    assert found["agree"]["count"] == 2
    assert found["agree"]["of"] == 4
    counts = [found[key] for key in ("both", "only_first", "only_second", "neither", "unknown")]
    assert counts == [1, 1, 1, 1, 1]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.square([0, 0.03, 0.02, 0.1]))))
    assert found["median_error"] == pytest.approx(0.025)
    assert found["z_rms"] == pytest.approx(np.sqrt(np.mean(np.square([0, 3, 1, 1]))))


def test_agreement_about_nothing_has_no_numbers():
    found = agreement(screening([None]), screening([0.1]), 0.03)
    assert found["agree"]["fraction"] is None
    assert found["unknown"] == 1
    assert found["rmse"] is found["median_error"] is found["z_rms"] is None


def test_discoveries_are_the_lowest_of_each_group_of_novel_converged_crystals():
    found = screening([0.02, 0.0, -0.01, 0.01, 0.05, None, 0.0, 0.0], unconverged=[6])
    novel = [True, True, False, True, True, True, True, None]
    assert discoveries(found, novel, np.array([0, 1, 2, 0, 4, 5, 6, 7]), 0.02) == [1, 3]
    assert discoveries(found, novel, np.array([0, -1, 2, 0, 4, 5, 6, 7]), 0.02) == [3]
    assert discoveries(found, novel, np.arange(8), -0.02) == []
