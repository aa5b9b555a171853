"""Equation of state: energy against volume, fitted by Birch and Murnaghan's equation of third order.

With y = (V₀/V)^{2/3}:  E(V) = E₀ + (9 V₀ B₀ / 16) [(y − 1)³ B₀' + (y − 1)² (6 − 4 y)]
(F. Birch, Phys. Rev. 71, 809, 1947). This is a cubic in V^{-2/3}, so the least squares are linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from atomml.errors import ConfigError, SimulationError
from atomml.shapes import Float64, ndarray
from atomml.simulate.properties.model import (
    AnyModel,
    Model,
    Moving,
    at_rest,
    model_of,
    refuse_without_volume,
)

__all__ = ["EquationOfState", "birch_murnaghan", "equation_of_state", "fit_birch_murnaghan"]


@dataclass(frozen=True)
class EquationOfState:
    """A fitted equation of state.

    Attributes:
        formula: of the cell.
        n_atoms: atoms in the cell.
        volumes: Å³ of the cell, rising.
        energies: eV of the cell.
        v0: Å³, b0: GPa, b0_prime: no unit, e0: eV.
        residual: root mean square of the fit in eV/atom.
        cell: of the structure that was scaled, Å; at rest unless that was not wanted.
    """

    formula: str
    n_atoms: int
    volumes: Float64[ndarray, " points"]
    energies: Float64[ndarray, " points"]
    v0: float
    b0: float
    b0_prime: float
    e0: float
    residual: float
    cell: Float64[ndarray, "3 3"]

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values with units in their names."""
        return {
            "formula": self.formula,
            "n_atoms": self.n_atoms,
            "V0_A3_per_atom": self.v0 / self.n_atoms,
            "B0_GPa": self.b0,
            "B0_prime": self.b0_prime,
            "E0_eV_per_atom": self.e0 / self.n_atoms,
            "residual_eV_per_atom": self.residual,
            "cell_A": self.cell.tolist(),
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of points."""
        fitted = birch_murnaghan(self.volumes, self.e0, self.v0, self.b0 * units.GPa, self.b0_prime)
        return {
            "volume_A3_per_atom": self.volumes / self.n_atoms,
            "energy_eV_per_atom": self.energies / self.n_atoms,
            "fit_eV_per_atom": fitted / self.n_atoms,
        }


def equation_of_state(
    atoms: Atoms,
    model: AnyModel | Model,
    *,
    span: float = 0.08,
    points: int = 11,
    relax: bool = True,
    ions: bool = True,
    shape: bool = False,
    fmax: float = 1e-3,
    steps: int = 1000,
) -> EquationOfState:
    """Scale a crystal, bring what may move to rest at each volume, and fit.

    Args:
        atoms: the crystal.
        model: see `model_of`.
        span: volumes from (1 − span) to (1 + span) of the first.
        points: number of volumes, at least 5.
        relax: begin with a relaxation of positions and cell; otherwise the volumes are around the given one.
        ions: relax the positions at each volume.
        shape: relax the shape of the cell at each volume too.
        fmax: limit of the relaxations, eV/Å.
        steps: most steps of each.

    Raises:
        DataError: not periodic.
        ConfigError: an impossible range or number of points.
        SimulationError: no minimum within the range, a relaxation that did not end, a model without stress.
    """
    refuse_without_volume(atoms, "Equations of state")
    if points < 5 or not 0 < span < 0.5:
        raise ConfigError(
            f"Five volumes and a span between 0 and 0.5 are the least, not {points} and {span:g}.",
            where="points, span",
        )
    model = model_of(model)
    limits: dict[str, Any] = {"fmax": fmax, "steps": steps}
    start = at_rest(atoms, model, moving="cell", **limits) if relax else atoms
    scaled = [_scaled(start, factor) for factor in np.linspace(1 - span, 1 + span, points).tolist()]
    moving: Moving = "shape" if shape else "ions"
    if ions or shape:
        scaled = [at_rest(a, model, moving=moving, **limits) for a in scaled]
    volumes = np.array([a.get_volume() for a in scaled])
    energies = np.array([found.energy for found in model(scaled)])
    e0, v0, b0, b0_prime = fit_birch_murnaghan(volumes, energies)
    error = energies - birch_murnaghan(volumes, e0, v0, b0, b0_prime)
    return EquationOfState(
        formula=start.get_chemical_formula(),
        n_atoms=len(start),
        volumes=volumes,
        energies=energies,
        v0=v0,
        b0=b0 / units.GPa,
        b0_prime=b0_prime,
        e0=e0,
        residual=float(np.sqrt(np.mean(error**2))) / len(start),
        cell=np.array(start.cell.array),
    )


def birch_murnaghan(
    volume: Float64[ndarray, " points"], e0: float, v0: float, b0: float, b0_prime: float
) -> Float64[ndarray, " points"]:
    """E(V) in eV for V, V₀ in Å³, B₀ in eV/Å³ and E₀ in eV; see the top of the module."""
    y = (v0 / volume) ** (2 / 3)
    energy: NDArray[np.float64] = e0 + 9 * v0 * b0 / 16 * (
        (y - 1) ** 3 * b0_prime + (y - 1) ** 2 * (6 - 4 * y)
    )
    return energy


def fit_birch_murnaghan(
    volumes: Float64[ndarray, " points"], energies: Float64[ndarray, " points"]
) -> tuple[float, float, float, float]:
    """E₀ in eV, V₀ in Å³, B₀ in eV/Å³ and B₀' of the equation that fits best.

    Expanded around its minimum x₀ = V₀^{-2/3} the cubic is E₀ + 2K (y − 1)² + K (B₀' − 4)(y − 1)³ with y = x/x₀ and
    K = 9 V₀ B₀ / 16.

    Raises:
        SimulationError: no minimum within the volumes.
    """
    x = volumes ** (-2 / 3)
    cubic = np.polynomial.Polynomial.fit(x, energies, 3)
    slope, curvature = cubic.deriv(), cubic.deriv(2)
    roots: list[complex] = slope.roots().tolist()
    minima = [r.real for r in roots if abs(r.imag) < 1e-9 * abs(r) and curvature(r.real) > 0]
    inside = [r for r in minima if x.min() <= r <= x.max()]
    if not inside:
        place = "first" if energies.argmin() == volumes.argmin() else "last"
        raise SimulationError(
            "The energy has no minimum within the volumes.",
            where=f"{volumes.min():.4g} to {volumes.max():.4g} Å³; lowest at the {place}",
            fix="relax the structure first, or take a larger span",
        )
    x0 = inside[0]
    v0, k = x0 ** (-3 / 2), float(curvature(x0)) * x0**2 / 4
    b0_prime = 4 + float(cubic.deriv(3)(x0)) * x0**3 / (6 * k)
    return float(cubic(x0)), v0, 16 * k / (9 * v0), b0_prime


def _scaled(atoms: Atoms, factor: float) -> Atoms:
    """The crystal at ``factor`` times its volume."""
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
    return scaled
