"""Energy conservation in constant-energy dynamics: drift, and its scaling with the time step."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomml.simulate.check_report import CheckRow, Curve, limited
from atomml.simulate.check_structures import supercell
from atomml.simulate.interface import PotentialLike
from atomml.simulate.md import run_md
from atomml.simulate.md_config import default_timestep
from atomml.simulate.md_summary import drift

__all__ = ["check_energy_conservation"]

_TEMPERATURE = 300.0
_PANEL = "Total energy in NVE"
_ROUNDING = 1e-9  # eV/atom; below this the fluctuation is rounding, not integration


def check_energy_conservation(
    double: PotentialLike,
    single: PotentialLike,
    atoms: Atoms,
    *,
    picoseconds: float = 0.5,
    scaling_ps: float = 0.1,
) -> tuple[list[CheckRow], list[Curve]]:
    """Velocity Verlet from 300 K: slope of the total energy, and the order of its fluctuation in the step.

    The slope is measured with the potential in float64, and in float32 over half the time.

    The integration error of a smooth potential oscillates with an amplitude proportional to dt² and has no
    slope; a slope means that forces are not the gradient of the energy, or that the energy has jumps.

    Raises:
        SimulationError: the dynamics explodes.
    """
    cell = supercell(atoms, 16)
    dt = default_timestep(cell)
    formula = cell.get_chemical_formula()
    half = dt / 2  # the oscillation, four times smaller than with dt, blurs the slope of a short run
    rows, lines = [], []
    for label, model, length in (("float64", double, picoseconds), ("float32", single, picoseconds / 2)):
        time, energy = _total_energy(model, cell, half, length)
        slope = abs(drift(time, energy, len(cell)))
        comment = f"{len(cell)} atoms of {formula}, {length:g} ps, dt {half:g} fs"
        if not model.conservative:
            comment = "not conservative; " + comment
        rows.append(limited(f"NVE drift ({label})", slope, 0.1, "meV/atom/ps", comment))
        change = 1000 * (energy - energy[0]) / len(cell)
        legend = f"{formula}, {half:g} fs, {label}"
        lines.append(Curve(_PANEL, legend, time / 1000, change, "time (ps)", "energy change (meV/atom)"))
    return [*rows, _order(double, cell, dt, scaling_ps)], lines


def _order(potential: PotentialLike, cell: Atoms, dt: float, picoseconds: float) -> CheckRow:
    """Order p of the fluctuation ~ dtᵖ from dt and dt/2; 2 for velocity Verlet on a smooth energy."""
    name, spread = "NVE fluctuation ∝ dt²", []
    for step in (dt, dt / 2):
        _, energy = _total_energy(potential, cell, step, picoseconds)
        spread.append(float(energy.std()) / len(cell))
    if min(spread) < _ROUNDING:
        return CheckRow(name, np.nan, None, "", None, "the fluctuation is at rounding level")
    order = math.log2(spread[0] / spread[1])
    comment = f"order {order:.2f}; {1000 * spread[0]:.2g} and {1000 * spread[1]:.2g} meV/atom at {dt:g} and "
    comment += f"{dt / 2:g} fs over {picoseconds:g} ps"
    return limited(name, abs(order - 2.0), 0.5, "|order − 2|", comment)


def _total_energy(
    potential: PotentialLike, cell: Atoms, dt: float, picoseconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time in fs and total energy in eV at every step."""
    result = run_md(
        cell,
        potential,
        temperature=_TEMPERATURE,
        steps=round(1000 * picoseconds / dt),
        timestep=dt,
        ensemble="nve",
        log_every=1,
        seed=7,
    )
    return result.log["time_fs"], result.log["total_eV"]
