"""The log of a run: what a row holds, and how rows are written to a table and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from atomml.errors import DataError
from atomml.simulate.calculator import Calculator, has_volume
from atomml.simulate.deviations import force_std_norm

__all__ = ["COLUMNS", "DEVIATION_COLUMNS", "Record", "columns_for", "format_row", "read_log", "record_of"]

Record = dict[str, float]
COLUMNS = (
    "step",
    "time_fs",
    "temperature_K",
    "potential_eV",
    "kinetic_eV",
    "total_eV",
    "conserved_eV",
    "pressure_GPa",
    "volume_A3",
    "max_force_eV_A",
    "min_distance_A",
)
DEVIATION_COLUMNS = ("energy_std_eV", "max_force_std_eV_A", "max_force_std_atom")
WHOLE = ("step", "max_force_std_atom")


def columns_for(calculator: Calculator) -> tuple[str, ...]:
    """The columns of a run with this calculator: deviations where it gives them."""
    given = calculator.implemented_properties
    return COLUMNS + (DEVIATION_COLUMNS if {"energy_std", "forces_std"} <= set(given) else ())


def record_of(
    atoms: Atoms, columns: Sequence[str], *, step: int, time_fs: float, kelvin: float, conserved: float
) -> Record:
    """The row of the current state; NaN where a quantity does not exist."""
    nan, calculator = float("nan"), atoms.calc
    volume = has_volume(atoms)
    stressed = volume and "stress" in calculator.implemented_properties
    stress = atoms.get_stress(include_ideal_gas=True) if stressed else None
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    forces = atoms.get_forces(apply_constraint=False)
    record: Record = {
        "step": float(step),
        "time_fs": time_fs,
        "temperature_K": kelvin,
        "potential_eV": potential,
        "kinetic_eV": kinetic,
        "total_eV": potential + kinetic,
        "conserved_eV": conserved,
        "pressure_GPa": nan if stress is None else float(-np.mean(stress[:3]) / units.GPa),
        "volume_A3": float(atoms.get_volume()) if volume else nan,
        "max_force_eV_A": float(np.linalg.norm(forces, axis=1).max()),
        "min_distance_A": calculator.min_distance(),
    }
    return record | (_deviations(calculator.results) if DEVIATION_COLUMNS[0] in columns else {})


def _deviations(results: Mapping[str, Any]) -> Record:
    norms = force_std_norm(results["forces_std"])
    worst = int(norms.argmax())
    values = (results["energy_std"], float(norms[worst]), float(worst))
    return dict(zip(DEVIATION_COLUMNS, values, strict=True))


def format_row(record: Record) -> str:
    """One line of CSV; numbers keep all digits, NaN is an empty field."""
    cells = [
        "" if np.isnan(x) else str(int(x)) if name in WHOLE else repr(float(x)) for name, x in record.items()
    ]
    return ",".join(cells) + "\n"


def read_log(path: Path) -> list[Record]:
    """Rows of a log table; empty fields are NaN.

    Raises:
        DataError: a line that is no row; names it.
    """
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    names = header.split(",")
    return [_row(names, line, f"{path}, line {number}") for number, line in enumerate(lines, 2)]


def _row(names: Sequence[str], line: str, where: str) -> Record:
    try:
        cells = zip(names, line.split(","), strict=True)
        return {name: float(cell) if cell else float("nan") for name, cell in cells}
    except ValueError as error:
        raise DataError(
            f"This line of the log is damaged ({error}).",
            where=where,
            fix="restore the file, or start the run again in another folder",
        ) from error
