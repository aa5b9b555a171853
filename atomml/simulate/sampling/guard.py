"""When a sampling run is stopped: forces, temperature, and atoms closer than their sizes allow."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from atomml.errors import SimulationError
from atomml.graph.neighbors import SkinnedNeighbors
from atomml.simulate.sampling.config import ExplosionConfig

__all__ = ["Guard"]

SKIN = 0.5  # Å


class Guard:
    """Compares every step with the limits, for any ASE calculator.

    Args:
        atoms: the structure whose elements the distances are judged by.
        limits: the limits.
        max_temperature: K.
    """

    def __init__(self, atoms: Atoms, limits: ExplosionConfig, max_temperature: float) -> None:
        self.limits, self.max_temperature = limits, max_temperature
        self._radii = covalent_radii[atoms.numbers]
        longest = 2.0 * limits.min_distance * float(self._radii.max())
        self._close = SkinnedNeighbors(longest, SKIN) if longest > 0 else None

    def check(self, atoms: Atoms, kelvin: float) -> None:
        """Stop if ``atoms``, whose forces are computed, has left physical territory.

        Raises:
            SimulationError: names the limit, the value and the atoms.
        """
        problem = self._problem(atoms, kelvin)
        if problem is not None:
            raise SimulationError(problem)

    def _problem(self, atoms: Atoms, kelvin: float) -> str | None:
        energy = float(atoms.get_potential_energy())
        forces = atoms.get_forces(apply_constraint=False)
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(atoms.positions).all()):
            return "the energy, a force or a position is not finite"
        norms = np.linalg.norm(forces, axis=1)
        worst = int(norms.argmax())
        if norms[worst] > self.limits.max_force:
            return (
                f"the force on {atoms.symbols[worst]} {worst} is {norms[worst]:.4g} eV/Å "
                f"(limit {self.limits.max_force:g})"
            )
        if not kelvin <= self.max_temperature:
            return f"the temperature is {kelvin:.4g} K (limit {self.max_temperature:g})"
        return self._too_close(atoms)

    def _too_close(self, atoms: Atoms) -> str | None:
        if self._close is None:
            return None
        cell = np.asarray(atoms.cell.array)
        j, i, shift = self._close(atoms.positions, cell, np.asarray(atoms.pbc))
        if not len(j):
            return None
        distance = np.linalg.norm(atoms.positions[j] + shift @ cell - atoms.positions[i], axis=1)
        ratio = distance / (self._radii[i] + self._radii[j])
        worst = int(ratio.argmin())
        if ratio[worst] >= self.limits.min_distance:
            return None
        a, b = sorted((int(i[worst]), int(j[worst])))
        return (
            f"{atoms.symbols[a]} {a} and {atoms.symbols[b]} {b} are {distance[worst]:.3g} Å apart, "
            f"{ratio[worst]:.2f} of their covalent radii (limit {self.limits.min_distance:g})"
        )
