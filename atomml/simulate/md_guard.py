"""When a run is stopped because it has left physical territory."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from atomml.errors import SimulationError
from atomml.simulate.md_config import MDConfig

__all__ = ["refuse_exploded"]


def refuse_exploded(
    atoms: Atoms, config: MDConfig, *, kelvin: float, closest: float, step: int, started: bool
) -> None:
    """Compare the largest force, the temperature (K) and the shortest distance (Å) with the limits.

    Raises:
        SimulationError: names the limit, the value and the atom.
    """
    limits = config.limits
    norms = np.linalg.norm(atoms.get_forces(apply_constraint=False), axis=1)
    worst = int(norms.argmax())
    problem = None
    if norms[worst] > limits.max_force:
        atom = f"{atoms.symbols[worst]} {worst}"
        problem = f"the force on {atom} is {norms[worst]:.4g} eV/Å (limit {limits.max_force:g})"
    elif not kelvin <= config.max_temperature:
        problem = f"the temperature is {kelvin:.4g} K (limit {config.max_temperature:g})"
    elif closest < limits.min_distance:
        problem = f"two atoms are {closest:.3g} Å apart (limit {limits.min_distance:g})"
    if problem is not None:
        begin = "The simulation exploded" if started else "The start structure cannot be simulated"
        raise SimulationError(
            f"{begin}: {problem}.",
            where=f"step {step}, {step * config.timestep:g} fs",
            fix="relax the structure first, use a smaller time step, or test the model with `atomml check`",
        )
