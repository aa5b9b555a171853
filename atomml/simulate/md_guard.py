"""When a run is stopped: it has left physical territory, or the model has become too uncertain."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from ase import Atoms

from atomml.errors import SimulationError
from atomml.shapes import Float64, ndarray
from atomml.simulate.deviations import force_std_norm
from atomml.simulate.md_config import MDConfig

__all__ = ["DeviationWatch", "UncertaintyWarning", "refuse_exploded"]

SHOWN = 5


class UncertaintyWarning(UserWarning):
    """The deviation of a force has exceeded ``limits.warn_above``."""


class DeviationWatch:
    """Compares the deviations of the forces with the limits of a run, step after step.

    A step gives at most one warning. It names the atoms that exceed the limit for the first time, or by twice what
    they were last named for.
    """

    def __init__(self, n_atoms: int, config: MDConfig) -> None:
        limits = config.limits
        self._stop, self._timestep = limits.stop_above, config.timestep
        self._warn = limits.warn_above
        self._next = np.full(n_atoms, np.inf if limits.warn_above is None else limits.warn_above)

    def __call__(self, atoms: Atoms, step: int) -> dict[str, Any] | None:
        """What stops the run at this step, for its summary; None when it goes on."""
        if self._stop is None and self._warn is None:
            return None
        atoms.get_forces(apply_constraint=False)  # after a restart nothing has been computed yet
        norms = force_std_norm(atoms.calc.results["forces_std"])
        self._warn_of(atoms, norms, step)
        worst = int(norms.argmax())
        if self._stop is None or norms[worst] <= self._stop:
            return None
        return {
            "reason": "deviation of a force",
            "step": step,
            "atom": worst,
            "element": str(atoms.symbols[worst]),
            "force_std_eV_A": float(norms[worst]),
            "limit_eV_A": self._stop,
        }

    def _warn_of(self, atoms: Atoms, norms: Float64[ndarray, " atoms"], step: int) -> None:
        hit = np.flatnonzero(norms > self._next)
        if not len(hit):
            return
        self._next[hit] = 2.0 * norms[hit]
        first = hit[np.argsort(-norms[hit], kind="stable")][:SHOWN]
        named = ", ".join(f"{atoms.symbols[i]} {i} ({norms[i]:.3g})" for i in first)
        more = f" and {len(hit) - SHOWN} more" if len(hit) > SHOWN else ""
        warnings.warn(
            f"step {step}, {step * self._timestep:g} fs: the deviation of the force exceeds {self._warn:g} eV/Å "
            f"on {named}{more}",
            UncertaintyWarning,
            stacklevel=2,
        )


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
