"""What the workers of potentials have in common: structures from JSON and steps of molecular dynamics."""

from __future__ import annotations

from typing import Any

from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from numpy.random import default_rng

__all__ = ["atoms_from", "dynamics"]

TEMPERATURE = 300.0
TIMESTEP = 1.0


def atoms_from(structure: dict[str, Any]) -> Atoms:
    """``numbers``, ``positions`` in Å, ``cell`` in Å, ``pbc``."""
    return Atoms(**{key: structure[key] for key in ("numbers", "positions", "cell", "pbc")})


def dynamics(atoms: Atoms, calculator: Any) -> Any:
    """One velocity Verlet step of 1 fs per call, from 300 K, as ASE does it."""
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=default_rng(0))
    driver = VelocityVerlet(atoms, timestep=TIMESTEP * units.fs)
    return lambda: driver.run(1)
