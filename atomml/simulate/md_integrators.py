"""ASE integrators for each ensemble, their degrees of freedom and the inner state a restart needs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from atomml.errors import UnsupportedError
from atomml.simulate.md_config import MDConfig

__all__ = [
    "conserved_energy",
    "degrees_of_freedom",
    "integrator_state",
    "load_integrator_state",
    "make_integrator",
    "start_velocities",
    "temperature",
]

Array = NDArray[Any]

# Attributes of the ASE integrators that change from step to step, beside positions, momenta and cell.
_CHAIN = ("_p", "_q", "_thermostat._eta", "_thermostat._p_eta")
_STATE: dict[str, tuple[str, ...]] = {
    "VelocityVerlet": (),
    "Langevin": (),
    "NoseHooverChainNVT": _CHAIN,
    "IsotropicMTKNPT": (*_CHAIN, "_eps", "_p_eps", "_volume0", "_cell0", "_barostat._xi", "_barostat._p_xi"),
    "MTKNPT": (*_CHAIN, "_h", "_p_g", "_barostat._xi", "_barostat._p_xi"),
}


def degrees_of_freedom(atoms: Atoms, config: MDConfig) -> int:
    """Momentum coordinates that carry kinetic energy: 3N less constraints and conserved momenta.

    The total momentum is zero and stays zero in every ensemble here (without constraints that break
    translation), and so does the angular momentum of a molecule unless Langevin noise drives it.
    """
    n = len(atoms)
    own = [c for c in atoms.constraints if not isinstance(c, FixCom)]
    if own:
        return max(int(3 * n - sum(int(c.get_removed_dof(atoms)) for c in own)), 1)
    if n == 1:
        return 3
    rotates = config.ensemble == "nvt" and config.thermostat == "langevin"
    if not np.any(atoms.pbc) and not rotates:
        moments = atoms.get_moments_of_inertia()
        return max(3 * n - 3 - int(np.sum(moments > 1e-3 * max(float(moments.max()), 1e-12))), 1)
    return 3 * n - 3


def temperature(atoms: Atoms, dof: int) -> float:
    """Instantaneous temperature 2 E_kin / (dof · k_B) in K."""
    return float(2.0 * atoms.get_kinetic_energy() / (dof * units.kB))


def start_velocities(atoms: Atoms, config: MDConfig, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta at the target temperature, written into ``atoms``.

    The total momentum is zero, for molecules also the angular momentum, and the temperature is exact.
    A single free atom keeps its momentum (it has no other degrees of freedom).
    """
    scale = np.sqrt(atoms.get_masses() * units.kB * config.temperature)[:, None]
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * scale)
    own = [c for c in atoms.constraints if not isinstance(c, FixCom)]
    if not own and len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if not np.any(atoms.pbc):
            ZeroRotation(atoms, preserve_temperature=False)
    now = temperature(atoms, degrees_of_freedom(atoms, config))
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(config.temperature / now))


def make_integrator(atoms: Atoms, config: MDConfig, rng: np.random.Generator) -> MolecularDynamics:
    """The ASE integrator for the ensemble; Langevin runs also get a constraint on the centre of mass."""
    dt = config.timestep * units.fs
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, timestep=dt)
    if config.ensemble == "nvt" and config.thermostat == "langevin":
        # ASE's own fixcm is biased and deprecated; the constraint samples the right distribution.
        if not atoms.constraints and len(atoms) > 1:
            atoms.set_constraint(FixCom())
        friction = config.friction / units.fs
        return Langevin(
            atoms, timestep=dt, temperature_K=config.temperature, friction=friction, fixcm=False, rng=rng
        )
    return _chain_integrator(atoms, config, dt)


def _chain_integrator(atoms: Atoms, config: MDConfig, dt: float) -> MolecularDynamics:
    from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT

    tdamp = 100 * dt if config.thermostat_time is None else config.thermostat_time * units.fs
    pdamp = 1000 * dt if config.barostat_time is None else config.barostat_time * units.fs
    bath = {"timestep": dt, "temperature_K": config.temperature, "tdamp": tdamp}
    dyn: MolecularDynamics
    if config.ensemble == "nvt":
        dyn = NoseHooverChainNVT(atoms, **bath)
    else:
        kind = MTKNPT if config.flexible_cell else IsotropicMTKNPT
        dyn = kind(atoms, **bath, pressure_au=config.pressure * units.GPa, pdamp=pdamp)
    _set_thermostat_dof(dyn, degrees_of_freedom(atoms, config), config.temperature, tdamp)
    return dyn


def _set_thermostat_dof(dyn: MolecularDynamics, dof: int, kelvin: float, tdamp: float) -> None:
    """Make the chain act on the true degrees of freedom; ASE takes 3N, which heats small systems."""
    thermostat = _get(dyn, "_thermostat")
    _get(thermostat, "_num_atoms_global")
    thermostat._num_atoms_global = dof / 3.0
    _get(thermostat, "_Q")[0] = dof * units.kB * kelvin * tdamp**2
    if hasattr(dyn, "_barostat"):
        _get(dyn, "_num_atoms_global")
        dyn._num_atoms_global = dof / 3.0


def conserved_energy(dyn: MolecularDynamics) -> float:
    """The energy that exact integration would keep constant, eV; NaN for Langevin, which has none."""
    if isinstance(dyn, VelocityVerlet):
        return float(dyn.atoms.get_total_energy())
    compute = getattr(dyn, "get_conserved_energy", None)
    return float("nan") if compute is None else float(compute())


def integrator_state(dyn: MolecularDynamics) -> dict[str, Array]:
    """Everything beside positions, momenta and cell that the next step depends on."""
    state: dict[str, Array] = {}
    for path in _STATE[type(dyn).__name__]:
        state[path] = np.array(_get(dyn, path))
    if isinstance(dyn, Langevin):
        state["rng"] = np.array(json.dumps(dyn.rng.bit_generator.state))
    return state


def load_integrator_state(dyn: MolecularDynamics, state: dict[str, Array]) -> None:
    """Put back what `integrator_state` returned; the next step is then the same bit for bit."""
    for path in _STATE[type(dyn).__name__]:
        owner, name = _owner(dyn, path)
        value = state[path]
        setattr(owner, name, float(value) if value.ndim == 0 else np.array(value))
    if isinstance(dyn, Langevin):
        dyn.rng.bit_generator.state = json.loads(str(state["rng"]))


def _owner(dyn: Any, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    for parent in parents:
        dyn = _get(dyn, parent)
    _get(dyn, name)
    return dyn, name


def _get(owner: Any, path: str) -> Any:
    """``owner.path``, or an error that says what to do when this ASE names its inner state differently."""
    for name in path.split("."):
        if not hasattr(owner, name):
            raise UnsupportedError(
                f"The integrator {type(owner).__name__} of this ASE has no {name!r}.",
                fix="install an ASE between 3.25 and 3.29, or use nve or the langevin thermostat",
            )
        owner = getattr(owner, name)
    return owner
