"""A potential behind torch-sim's interface gives what it gives elsewhere, and runs there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.stress import voigt_6_to_full_3x3_stress

from atomml._optional import installed
from atomml.errors import SimulationError, UnsupportedError
from atomml.simulate import relax
from atomml.simulate.interface import resolve_potential
from atomml.simulate.torchsim import _refuse_version, torchsim_model

needs_torchsim = pytest.mark.skipif(not installed("torch_sim"), reason="torch-sim is not installed")


def rattled():
    structures = [bulk("LiCl", "rocksalt", 5.1), bulk("LiF", "rocksalt", 4.0, cubic=True)]
    skewed = bulk("LiI", "rocksalt", 6.0)
    skewed.set_cell(skewed.cell.array @ [[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]], scale_atoms=True)
    structures.append(skewed)
    for k, atoms in enumerate(structures):
        atoms.rattle(0.08, seed=k)
    return structures


def state_of(structures):
    import torch_sim

    return torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)


@needs_torchsim
def test_energies_forces_and_stress_are_those_of_the_potential():
    potential, structures = resolve_potential("demo").double(), rattled()
    model, expected = torchsim_model(potential), potential.predict(structures)
    for _ in range(2):  # the second call reuses the neighbours
        out = model(state_of(structures))
        np.testing.assert_allclose(out["energy"], [p.energy for p in expected], atol=1e-9)
        np.testing.assert_allclose(out["forces"], np.concatenate([p.forces for p in expected]), atol=1e-9)
        full = [voigt_6_to_full_3x3_stress(p.stress) for p in expected]
        np.testing.assert_allclose(out["stress"], full, atol=1e-10)
    backwards = model(state_of(structures[::-1]))
    np.testing.assert_allclose(backwards["energy"].flip(0), out["energy"], atol=1e-9)
    state = state_of(structures)
    columns = ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    by_name = model({name: getattr(state, name) for name in columns})
    np.testing.assert_allclose(by_name["energy"], out["energy"], atol=1e-9)


@needs_torchsim
def test_molecules_have_no_stress(potential, molecule):
    out = torchsim_model(potential)(state_of([molecule]))
    (expected,) = potential.predict([molecule])
    assert float(out["energy"]) == pytest.approx(expected.energy)
    assert out["stress"].isnan().all()
    assert "stress" not in torchsim_model(potential, compute_stress=False)(state_of([molecule]))


@needs_torchsim
def test_relaxation_in_torchsim_finds_the_same_minimum(potential, crystal):
    import torch_sim

    other = bulk("Cu", "fcc", 3.75)
    final = torch_sim.optimize(
        [crystal, other],
        torchsim_model(potential),
        optimizer=torch_sim.frechet_cell_fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(force_tol=1e-3),
        max_steps=300,
    )
    expected = [r.energy_last for r in relax([crystal, other], potential, fmax=1e-3)]
    np.testing.assert_allclose(final.energy, expected, atol=1e-4)


@needs_torchsim
def test_dynamics_in_torchsim_keeps_the_energy(potential, crystal):
    import torch_sim

    def total(state):
        kinetic = torch_sim.calc_kinetic_energy(
            momenta=state.momenta, masses=state.masses, system_idx=state.system_idx
        )
        return (state.energy + kinetic).tolist()

    settings = {"integrator": torch_sim.nve, "temperature": 300, "timestep": 0.001}
    model = torchsim_model(potential)
    init, step = torch_sim.nve(model, kT=torch.tensor(0.02), dt=torch.tensor(0.01), seed=1)
    state = init(state_of([crystal, crystal]))
    before = total(state)
    for _ in range(20):
        state = step(state)
    np.testing.assert_allclose(total(state), before, atol=2e-3)
    final = torch_sim.integrate([crystal, crystal], model, n_steps=5, **settings)
    assert final.n_systems == 2
    assert final.positions.isfinite().all()


@needs_torchsim
def test_what_cannot_be_computed_is_an_error(potential, make_potential, crystal):
    with pytest.raises(UnsupportedError, match="unknown"):
        torchsim_model(potential)(state_of([crystal, bulk("Au")]))
    with pytest.raises(SimulationError, match="not finite") as caught:
        torchsim_model(make_potential(flaw="nan"))(state_of([crystal]))
    assert caught.value.where == "system 0 of the state"
    with pytest.raises(UnsupportedError, match="direct forces"):
        torchsim_model(make_potential(flaw="direct"), compute_stress=True)
    assert "stress" not in torchsim_model(make_potential(flaw="direct"))(state_of([Atoms("Cu")]))


@pytest.mark.parametrize("version", ["0.2.9", "0.4.0", "1.0"])
def test_other_versions_are_refused(version):
    with pytest.raises(UnsupportedError, match=r"for torch-sim-atomistic 0\.3"):
        _refuse_version(version)
