"""Relaxation of one structure or many: positions, and the cell where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from atomml.errors import AtommlError, DataError, SimulationError
from atomml.simulate.calculator import Calculator, has_volume
from atomml.simulate.deviations import force_std_norm
from atomml.simulate.interface import PotentialLike
from atomml.simulate.md_files import forget_deviations, frame_of
from atomml.simulate.progress import progress_bar

__all__ = ["RelaxResult", "refuse_runaway", "refuse_unrelaxable", "relax", "relax_result"]

MIN_DISTANCE = 0.3
"""Å; atoms that are closer have overlapped."""
VOLUME_FACTOR = 4.0
"""By which a volume may grow or shrink."""


@dataclass(frozen=True, kw_only=True)
class RelaxResult:
    """Outcome for one structure; the figures are NaN where they do not exist.

    Attributes:
        index: position among the structures given.
        formula: chemical formula.
        n_atoms: number of atoms.
        converged: whether every force (and, with the cell, every stress component in the filter's units) is
            below the limit.
        steps: optimiser steps made.
        cell_relaxed: whether the cell was allowed to change.
        energy_first, energy_last: eV.
        fmax: largest norm of a force at the end, constraints applied, eV/Å.
        stress_max: largest stress component at the end, GPa.
        volume_first, volume_last: Å³.
        energy_std_per_atom: deviation of the last energy, eV/atom, of models with an uncertainty.
        max_force_std: largest √(tr Σ / 3) of the forces at the end, eV/Å, likewise.
        error: why the structure failed, or None. A structure that only ran out of steps has no error.
        atoms: the last structure, with results when there are any.
    """

    index: int
    formula: str
    n_atoms: int
    converged: bool
    steps: int
    cell_relaxed: bool
    energy_first: float
    energy_last: float
    fmax: float
    stress_max: float
    volume_first: float
    volume_last: float
    energy_std_per_atom: float
    max_force_std: float
    error: str | None
    atoms: Atoms

    def row(self) -> dict[str, Any]:
        """Everything but the structure, NaN as None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "atoms"}
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}


def relax(
    structures: Atoms | Sequence[Atoms],
    potential: PotentialLike | Calculator | str | Path,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool | None = None,
    optimizer: Literal["fire", "lbfgs"] = "fire",
    progress: bool = False,
    on_result: Callable[[RelaxResult], None] = lambda result: None,
) -> list[RelaxResult]:
    """Relax every structure; one that fails is reported in its result and does not stop the others.

    Args:
        structures: left unchanged; constraints are respected.
        potential: a potential, a model file, "demo", or a ready `Calculator`.
        fmax: largest force norm allowed at the end, eV/Å.
        steps: largest number of optimiser steps.
        cell: relax the cell too, in the logarithmic coordinates of ASE's FrechetCellFilter; None: where there
            is a volume.
        optimizer: "fire" is robust far from the minimum, "lbfgs" fast near it.
        progress: show a progress bar.
        on_result: called with each result as soon as it is there.

    Raises:
        DataError: no structures, or an impossible limit.
    """
    given = structures_to_relax(structures, fmax, steps)
    calculator = potential if isinstance(potential, Calculator) else Calculator(potential)
    results = []
    with progress_bar(len(given), "relaxation", show=progress) as advance:
        for index, atoms in enumerate(given):
            results.append(_relax_one(index, atoms, calculator, fmax, steps, cell, optimizer))
            on_result(results[-1])
            advance(1)
    return results


def structures_to_relax(structures: Atoms | Sequence[Atoms], fmax: float, steps: int) -> list[Atoms]:
    """The structures, one too.

    Raises:
        DataError: no structures, or an impossible limit.
    """
    given = [structures] if isinstance(structures, Atoms) else list(structures)
    if not given:
        raise DataError("There is no structure to relax.", fix="check the file")
    if not fmax > 0 or steps < 0:
        raise DataError(f"fmax must be positive and steps not negative, not {fmax!r} and {steps!r}.")
    return given


def _relax_one(
    index: int,
    given: Atoms,
    calculator: Calculator,
    fmax: float,
    steps: int,
    cell: bool | None,
    optimizer: str,
) -> RelaxResult:
    atoms = given.copy()
    atoms.calc = calculator
    with_cell = has_volume(atoms) if cell is None else cell
    done, converged, error, energy = 0, False, None, float("nan")
    try:
        if with_cell:
            refuse_unrelaxable(atoms, stress="stress" in calculator.implemented_properties)
        energy = float(atoms.get_potential_energy())
        _guard(atoms, calculator, given)
        target = FrechetCellFilter(atoms) if with_cell else atoms
        dyn = (FIRE if optimizer == "fire" else LBFGS)(target, logfile=None)
        for state in dyn.irun(fmax=fmax, steps=steps):
            converged, done = bool(state), int(dyn.nsteps)
            _guard(atoms, calculator, given)
    except AtommlError as problem:
        converged, error = False, str(problem)
    return relax_result(index, given, atoms, converged, done, with_cell, energy, error)


def _guard(atoms: Atoms, calculator: Calculator, start: Atoms) -> None:
    ratio = atoms.get_volume() / start.get_volume() if has_volume(atoms) else 1.0
    refuse_runaway(calculator.min_distance(), ratio)


def refuse_unrelaxable(atoms: Atoms, *, stress: bool) -> None:
    """Refuse to relax a cell that there is not, or with a model without a stress.

    Raises:
        SimulationError: says which.
    """
    if not has_volume(atoms):
        raise SimulationError(
            "Without three periodic directions there is no cell to relax.", fix="use --no-cell"
        )
    if not stress:
        raise SimulationError("This model has no stress to relax a cell with.", fix="use --no-cell")


def refuse_runaway(closest: float, volume_ratio: float) -> None:
    """Stop when the closest atoms, in Å, overlap, or the volume has changed by a large factor.

    Raises:
        SimulationError: says which.
    """
    if closest < MIN_DISTANCE:
        raise SimulationError(
            f"Two atoms are {closest:.3g} Å apart.",
            fix="the model attracts where it should repel, or the "
            "start structure overlaps; see the dimer curves of `atomml check`",
        )
    if not 1 / VOLUME_FACTOR < volume_ratio < VOLUME_FACTOR:
        raise SimulationError(
            f"The volume changed by a factor of {volume_ratio:.3g}.",
            fix="the start is far from a minimum or outside the model's domain; try --no-cell first",
        )


def relax_result(
    index: int,
    given: Atoms,
    atoms: Atoms,
    converged: bool,
    steps: int,
    with_cell: bool,
    energy_first: float,
    error: str | None,
) -> RelaxResult:
    """The outcome for ``given``, from ``atoms`` as they are now with the results of their calculator."""
    nan = float("nan")
    results = atoms.calc.results if error is None else {}
    volume = has_volume(given)
    last = frame_of(atoms) if results else atoms.copy()
    if not results:
        forget_deviations(last)
    last.set_constraint(given.constraints)
    last.calc = last.calc if results else None
    return RelaxResult(
        index=index,
        formula=given.get_chemical_formula(),
        n_atoms=len(given),
        converged=converged,
        steps=steps,
        cell_relaxed=with_cell,
        energy_first=energy_first,
        energy_last=float(results.get("energy", nan)),
        fmax=float(np.linalg.norm(atoms.get_forces(), axis=1).max()) if results else nan,
        stress_max=float(np.abs(results["stress"]).max() / units.GPa) if "stress" in results else nan,
        volume_first=float(given.get_volume()) if volume else nan,
        volume_last=float(atoms.get_volume()) if volume else nan,
        energy_std_per_atom=float(results.get("energy_std", nan)) / max(len(given), 1),
        max_force_std=float(force_std_norm(results["forces_std"]).max()) if "forces_std" in results else nan,
        error=error,
        atoms=last,
    )
