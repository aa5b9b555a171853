from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms

from atomml.errors import DataError, SimulationError, UnsupportedError
from atomml.simulate import Calculator


@pytest.fixture
def calculator(potential):
    return Calculator(potential)


def test_energy_is_a_float_and_free_energy_equals_it(calculator, crystal):
    crystal.calc = calculator
    energy = crystal.get_potential_energy()
    assert type(energy) is float
    assert crystal.get_potential_energy(force_consistent=True) == energy


def test_energies_sum_to_the_energy_and_include_the_references(calculator, crystal):
    crystal.calc = calculator
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy(), abs=1e-10)
    alone = Atoms("Cu")
    alone.calc = calculator
    assert alone.get_potential_energy() == pytest.approx(-2.9, abs=1e-12)


def test_forces_equal_ase_finite_differences(calculator, crystal):
    crystal.calc = calculator
    numeric = calculate_numerical_forces(crystal, eps=1e-4)
    np.testing.assert_allclose(crystal.get_forces(), numeric, atol=1e-7)
    assert crystal.get_forces().dtype == np.float64


def test_stress_has_voigt_order_and_ase_sign(calculator, crystal):
    crystal.calc = calculator
    stress = crystal.get_stress()
    assert stress.shape == (6,)
    np.testing.assert_allclose(stress, calculate_numerical_stress(crystal, eps=1e-5), atol=1e-8)


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_no_stress_without_three_periodic_directions(calculator, crystal, pbc):
    crystal.pbc = pbc
    crystal.calc = calculator
    assert np.isfinite(crystal.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        crystal.get_stress()


def test_molecule_without_a_cell_has_no_stress(calculator, molecule):
    molecule.calc = calculator
    molecule.get_forces()
    assert "stress" not in calculator.results


def test_constraints_are_applied_by_ase_and_not_by_the_calculator(calculator, crystal):
    crystal.set_constraint(FixAtoms([0]))
    crystal.calc = calculator
    assert np.all(crystal.get_forces()[0] == 0)
    assert np.any(crystal.get_forces(apply_constraint=False)[0] != 0)
    assert np.any(calculator.results["forces"][0] != 0)


def test_property_list_belongs_to_the_instance(potential):
    first, second = Calculator(potential), Calculator(potential)
    first.implemented_properties.append("dipole")
    assert "dipole" not in second.implemented_properties
    assert Calculator.implemented_properties == []


def test_model_with_direct_forces_has_no_stress(make_potential, crystal):
    crystal.calc = Calculator(make_potential(flaw="direct"))
    assert "stress" not in crystal.calc.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        crystal.get_stress()


def test_skin_gives_exactly_the_fresh_list_along_a_trajectory(potential, crystal):
    rng = np.random.default_rng(0)
    skinned, fresh = Calculator(potential, skin=0.6), Calculator(potential, skin=0.0)
    for _ in range(30):
        crystal.positions += rng.normal(scale=0.03, size=crystal.positions.shape)
        a, b = crystal.copy(), crystal.copy()
        a.calc, b.calc = skinned, fresh
        assert a.get_potential_energy() == b.get_potential_energy()
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())


def test_wrapped_equals_unwrapped(calculator, crystal):
    crystal.calc = calculator
    energy, forces = crystal.get_potential_energy(), crystal.get_forces()
    crystal.positions[2] += crystal.cell[0] - 3 * crystal.cell[1]
    crystal.positions[5] -= 2 * crystal.cell[2]
    assert crystal.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(crystal.get_forces(), forces, atol=1e-10)


def test_one_atom_cell_smaller_than_the_cutoff(calculator):
    primitive, cubic = bulk("Cu", a=3.8), bulk("Cu", a=3.8, cubic=True)
    primitive.calc, cubic.calc = calculator, calculator
    assert 4 * primitive.get_potential_energy() == pytest.approx(cubic.get_potential_energy(), abs=1e-10)


def test_nan_raises_and_names_the_atoms(make_potential, crystal):
    crystal.calc = Calculator(make_potential(flaw="nan"))
    for _ in range(2):  # a second request must not find a cached result
        with pytest.raises(SimulationError, match=r"energies that are not finite for atoms Cu 0, .*3 more"):
            crystal.get_potential_energy()
    assert crystal.calc.results == {}


def test_nan_position_is_refused(calculator, crystal):
    crystal.positions[1, 2] = np.nan
    crystal.calc = calculator
    with pytest.raises(DataError):
        crystal.get_forces()


def test_unknown_element_is_named(calculator):
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]], calculator=calculator)
    with pytest.raises(UnsupportedError, match="does not know Au") as caught:
        atoms.get_potential_energy()
    assert "Li, Cl, Cu" in str(caught.value)


def test_empty_structure_is_refused(calculator):
    with pytest.raises(DataError):
        Atoms(calculator=calculator).get_potential_energy()


@pytest.mark.parametrize(
    ("entry", "value"), [("charge", 1), ("charge", -2.0), ("spin", 2), ("multiplicity", 3)]
)
def test_charge_or_spin_is_refused_even_after_a_result_is_cached(calculator, crystal, entry, value):
    crystal.calc = calculator
    crystal.get_potential_energy()
    crystal.info[entry] = value
    with pytest.raises(UnsupportedError, match=entry):
        crystal.get_potential_energy()
    crystal.info[entry] = 0
    assert np.isfinite(crystal.get_potential_energy())


def test_initial_charges_may_only_sum_to_zero(calculator, crystal):
    crystal.calc = calculator
    crystal.set_initial_charges([1, -1] * 4)
    crystal.get_potential_energy()
    crystal.set_initial_charges([1] * 8)
    with pytest.raises(UnsupportedError, match="sum to 8"):
        crystal.get_potential_energy()


def test_magnetic_moments_are_refused(calculator, crystal):
    crystal.set_initial_magnetic_moments([0.5] * 8)
    crystal.calc = calculator
    with pytest.raises(UnsupportedError, match="magnetic"):
        crystal.get_potential_energy()


def test_nothing_global_is_touched(calculator, crystal):
    before = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.random.get_rng_state().sum().item(),
        np.random.get_state()[1].sum(),  # noqa: NPY002
        dict(os.environ),
    )
    crystal.calc = calculator
    crystal.get_stress()
    after = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.random.get_rng_state().sum().item(),
        np.random.get_state()[1].sum(),  # noqa: NPY002
        dict(os.environ),
    )
    assert before == after


def test_dropout_is_off_and_the_mode_is_given_back(make_potential, crystal):
    class WithDropout(make_potential):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def pair_energy(self, r):
            return self.dropout(super().pair_energy(r))

    noisy = WithDropout()
    crystal.calc = Calculator(noisy)
    energy = crystal.get_potential_energy()
    assert noisy.training
    assert noisy.dropout.training
    crystal.calc = Calculator(make_potential())
    assert energy == crystal.get_potential_energy()


def test_results_are_the_same_every_time(potential, crystal):
    forces = []
    for _ in range(3):
        crystal.calc = Calculator(potential)
        forces.append(crystal.get_forces())
    np.testing.assert_array_equal(forces[0], forces[1])
    np.testing.assert_array_equal(forces[0], forces[2])


def test_unchanged_structure_is_not_computed_twice(calculator, crystal):
    crystal.calc = calculator
    (
        crystal.get_forces(),
        crystal.get_potential_energy(),
        crystal.get_stress(),
        crystal.get_potential_energies(),
    )
    assert calculator.evaluations == 1


def test_shortest_distance_of_the_last_structure(calculator, molecule):
    molecule.calc = calculator
    molecule.get_potential_energy()
    assert calculator.min_distance() == pytest.approx(
        molecule.get_all_distances()[np.triu_indices(4, 1)].min()
    )
