"""Energies above a hull of reference phases."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.energies import Energies
from atomml.crystals.evaluate.inputs import load_crystals, skipped
from atomml.errors import DataError

__all__ = ["HullDistance", "Phase", "energies_above_hull", "read_phases"]


class Phase(NamedTuple):
    """A reference of the hull: a formula, and its energy in eV/atom."""

    formula: str
    energy_per_atom: float


class HullDistance(NamedTuple):
    """Energy above the hull in eV/atom, negative below it, or why there is none.

    Attributes:
        value: None: unknown.
        missing: elements of the crystal without a phase of their own in the reference.
        error: any other reason.
    """

    value: float | None
    missing: tuple[str, ...] = ()
    error: str | None = None


def energies_above_hull(
    formulas: Sequence[str | None], energies: Energies, phases: Sequence[Phase]
) -> list[HullDistance]:
    """E − E_hull in eV/atom: how much the crystal could gain by decomposing into phases of the reference.

    E_hull(x) = min Σ_p λ_p E_p over λ_p ≥ 0 with Σ_p λ_p x_p = x: pymatgen's PhaseDiagram of the phases within the
    chemical system of the crystal, which itself is not among them, so that below the hull the value is negative.
    Only crystals whose elements all have an elemental phase have a hull; others name the elements that lack one.

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
            rows[frozenset(_elements(formula))].append(k)
    for system, members in rows.items():
        entries = [entry for elements, group in lowest.items() if elements <= system for entry in group]
        elemental = {entry.composition.chemical_system for entry in entries if entry.is_element}
        missing = tuple(sorted(system - elemental))
        hull = None if missing else _diagram(entries)
        for k in members:
            formula, energy = str(formulas[k]), float(energies.per_atom[k])
            found[k] = HullDistance(None, missing) if hull is None else _distance(hull, formula, energy)
    return found


def _elements(formula: str) -> set[str]:
    from pymatgen.core import Composition

    return {element.symbol for element in Composition(formula)}


def _lowest(phases: Iterable[Phase]) -> dict[frozenset[str], list[Any]]:
    """The lowest phase of each reduced formula as a pymatgen entry, by its elements."""
    from pymatgen.analysis.phase_diagram import PDEntry

    best: dict[str, tuple[Any, float]] = {}
    for phase in phases:
        composition = _composition(phase.formula, "phases of the reference")
        name = composition.reduced_formula
        if name not in best or phase.energy_per_atom < best[name][1]:
            best[name] = composition, phase.energy_per_atom
    groups: dict[frozenset[str], list[Any]] = defaultdict(list)
    for composition, energy in best.values():
        elements = frozenset(element.symbol for element in composition)
        groups[elements].append(PDEntry(composition, energy * composition.num_atoms))
    return groups


def _diagram(entries: list[Any]) -> Any:
    from pymatgen.analysis.phase_diagram import PhaseDiagram

    return PhaseDiagram(entries)


def _distance(hull: Any, formula: str, energy: float) -> HullDistance:
    from pymatgen.core import Composition

    try:
        return HullDistance(energy - float(hull.get_hull_energy_per_atom(Composition(formula))))
    except Exception as problem:  # numerical trouble in foreign code
        return HullDistance(None, error=repr(problem))


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
