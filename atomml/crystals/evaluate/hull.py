"""Energies above a hull of reference phases."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from scipy.optimize import linprog

from atomml.crystals.evaluate.energies import Energies
from atomml.crystals.evaluate.inputs import load_crystals, skipped
from atomml.errors import DataError

__all__ = ["HullDistance", "Phase", "energies_above_hull", "read_phases"]


INFEASIBLE = 2  # status of linprog


class Phase(NamedTuple):
    """A reference of the hull: a formula, and its energy in eV/atom."""

    formula: str
    energy_per_atom: float


class HullDistance(NamedTuple):
    """Energy above the hull in eV/atom, negative below it, or why there is none.

    Attributes:
        value: None: unknown.
        missing: elements of the crystal without a phase of their own in the reference, when its phases do not add
            up to the crystal.
        error: any other reason.
    """

    value: float | None
    missing: tuple[str, ...] = ()
    error: str | None = None


def energies_above_hull(
    formulas: Sequence[str | None], energies: Energies, phases: Sequence[Phase]
) -> list[HullDistance]:
    """E − E_hull in eV/atom: how much the crystal could gain by decomposing into phases of the reference.

    E_hull(x) = min Σ_p λ_p E_p over λ_p ≥ 0 with Σ_p λ_p x_p = x (HiGHS), with the phases p within the chemical
    system of the crystal, which itself is not among them, so that below the hull the value is negative. Phases
    need not be elements: LiF and LiCl are a hull of Li2FCl. A composition that they do not add up to names the
    elements that lack an elemental phase.

    Args:
        formulas: of the crystals; None: unknown.
        energies: of the crystals.
        phases: the reference; its energies must be of the same method.

    Raises:
        DataError: a formula of the reference is none.
    """
    lowest = _lowest(phases)
    rows: dict[frozenset[str], list[int]] = defaultdict(list)
    found = [HullDistance(None, error=error or "no formula") for error in energies.errors]
    for k, formula in enumerate(formulas):
        if formula is not None and energies.errors[k] is None:
            rows[frozenset(_fractions(formula))].append(k)
    for system, members in rows.items():
        within = [phase for elements, group in lowest.items() if elements <= system for phase in group]
        for k in members:
            hull, energy = _mixture(_fractions(str(formulas[k])), within), float(energies.per_atom[k])
            found[k] = hull if hull.value is None else HullDistance(energy - hull.value)
    return found


def _fractions(formula: str) -> dict[str, float]:
    """Atomic fractions x of a formula."""
    from pymatgen.core import Composition

    return {element.symbol: x for element, x in Composition(formula).fractional_composition.items()}


def _lowest(phases: Iterable[Phase]) -> dict[frozenset[str], list[tuple[dict[str, float], float]]]:
    """Fractions and energy of the lowest phase of each reduced formula, by its elements."""
    best: dict[str, float] = {}
    for phase in phases:
        name = _composition(phase.formula, "phases of the reference").reduced_formula
        best[name] = min(phase.energy_per_atom, best.get(name, np.inf))
    groups: dict[frozenset[str], list[tuple[dict[str, float], float]]] = defaultdict(list)
    for name, energy in best.items():
        fractions = _fractions(name)
        groups[frozenset(fractions)].append((fractions, energy))
    return groups


def _mixture(x: Mapping[str, float], phases: Sequence[tuple[dict[str, float], float]]) -> HullDistance:
    """E_hull(x) as ``value``, or why there is none."""
    lacking = tuple(sorted(set(x) - {next(iter(f)) for f, _ in phases if len(f) == 1}))
    if not phases:
        return HullDistance(None, lacking)
    a = np.array([[fractions.get(element, 0.0) for fractions, _ in phases] for element in x])
    found = linprog([energy for _, energy in phases], A_eq=a, b_eq=[*x.values()], method="highs")
    if found.status == INFEASIBLE:
        return HullDistance(None, lacking)
    return HullDistance(float(found.fun)) if found.success else HullDistance(None, error=str(found.message))


def read_phases(
    path: Path, label: Callable[[list[Atoms]], Energies], systems: Iterable[frozenset[int]]
) -> tuple[list[Phase], list[str]]:
    """Phases of a hull from a table, or from structures that are labelled here.

    A CSV file with the columns ``formula`` and ``energy_per_atom`` (eV/atom) or ``energy`` (eV of the atoms of the
    formula as written), and none of CIF text, is taken as it is. Of anything else that `load_frames` reads, the
    structures are labelled, so that their energies and those of the crystals are of one potential; only the
    structures within one of the chemical systems are.

    Args:
        path: the reference.
        label: energies of structures, for example `energies_of` with the potential of the crystals.
        systems: chemical systems that are asked for, as atomic numbers.

    Returns:
        The phases, and why structures have none.

    Raises:
        DataError: the file cannot be read, or a row of the table is not a formula and a number.
    """
    table = _table(path)
    if table is not None:
        return table, []
    store, wanted = load_crystals(path, skip_bad=True), set(systems)
    present = [frozenset(store.frame(r).numbers.tolist()) for r in range(len(store))]
    needed = {elements: any(elements <= system for system in wanted) for elements in set(present)}
    structures = [store[r] for r in range(len(store)) if needed[present[r]]]
    energies = label(structures)
    phases = [
        Phase(atoms.get_chemical_formula(), float(energy))
        for atoms, energy in zip(structures, energies.per_atom, strict=True)
        if np.isfinite(energy)
    ]
    return phases, [*skipped(store), *(error for error in energies.errors if error is not None)]


def _table(path: Path) -> list[Phase] | None:
    """Phases of a CSV file with formulas and energies; None of anything else."""
    if path.suffix != ".csv":
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or ()
        column = next((name for name in ("energy_per_atom", "energy") if name in names), None)
        if column is None or "formula" not in names or any(name.startswith("cif") for name in names):
            return None
        return [_phase(row, column, f"{path}, line {rows.line_num}") for row in rows]


def _phase(row: dict[str, str], column: str, where: str) -> Phase:
    n_atoms = _composition(row["formula"], where).num_atoms
    try:
        energy = float(row[column])
    except (TypeError, ValueError) as problem:
        raise DataError(
            f"The {column} of {row['formula']} is not a number: {row[column]!r}.", where=where
        ) from problem
    return Phase(row["formula"], energy / (n_atoms if column == "energy" else 1))


def _composition(formula: str, where: str) -> Any:
    from pymatgen.core import Composition

    try:
        composition = Composition(formula)
    except Exception as problem:  # pymatgen raises several kinds
        raise DataError(f"{formula!r} is not a formula ({problem}).", where=where) from problem
    if not composition.valid or composition.num_atoms == 0:
        raise DataError(f"{formula!r} is not a formula of known elements.", where=where)
    return composition
