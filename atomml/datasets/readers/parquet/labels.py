"""Energies, forces and stresses of a batch of parquet rows, in the units of atomml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from atomml.datasets.labels import ENERGY_UNITS, LENGTH_UNITS, STRESS_UNITS
from atomml.datasets.readers.parquet.columns import Problems, Ragged, is_text, ragged, scalars
from atomml.datasets.readers.parquet.schema import Roles
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["LabelColumns", "StressRules", "check_stress_rules", "read_labels"]

ASYMMETRY = 0.02  # of the largest component; more is not a stress tensor
VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)  # xx yy zz yz xz xy as 3×3
VASP = (0, 3, 5, 3, 1, 4, 5, 4, 2)  # xx yy zz xy yz zx as 3×3
NORMALISED = "cauchy_stress_volume_normalized"  # ColabFit: whether the stress was divided by the volume


class StressRules(NamedTuple):
    """What the user states about the stress; None where nothing was stated.

    Attributes:
        unit: eV/A^3, GPa, kbar; eV for a virial, which is divided by the volume.
        sign: "ase" or "pressure".
        order: of six numbers: "voigt" (xx yy zz yz xz xy) or "vasp" (xx yy zz xy yz zx).
    """

    unit: str | None = None
    sign: str | None = None
    order: str | None = None


@dataclass(frozen=True)
class LabelColumns:
    """Labels of the rows of a batch; absent ones are NaN.

    Attributes:
        energy: [rows], eV.
        forces: three per atom, eV/Å; None without such a column.
        has_forces: [rows].
        stress: [rows, 9], eV/Å³, ASE's sign.
        flat_stress: rows whose stress was left out because the cell is not periodic in three directions.
    """

    energy: ndarray
    forces: Ragged | None
    has_forces: ndarray
    stress: ndarray
    flat_stress: int


def check_stress_rules(roles: Roles, rules: StressRules, where: str) -> None:
    """Nothing about a stress is guessed.

    Raises:
        DataError: there is a stress column whose unit or sign was not stated.
    """
    lacking = [f"stress_{part}" for part in ("unit", "sign") if getattr(rules, part) is None]
    if roles.stress is not None and lacking:
        raise DataError(
            f"The file has a stress ({roles.stress}), but not what its {' and '.join(lacking)} is.",
            where=where,
            fix="state stress_unit (eV/A^3, GPa, kbar; eV for a virial) and stress_sign (ase: positive when "
            "stretched; pressure: the opposite, as VASP prints it), as the data set's card says; or stress=ignore",
        )


def read_labels(
    column: Callable[[str], Any],
    roles: Roles,
    atoms: ndarray,
    volume: ndarray,
    options: Any,
    problems: Problems,
    where: str,
) -> LabelColumns:
    """The labels of a batch.

    Args:
        column: gives the arrow array of a column by its name.
        roles: where the labels are.
        atoms: of every row [rows].
        volume: Å³ [rows]; NaN unless the cell is periodic in three directions.
        options: ``energy_unit``, ``length_unit``, ``stress_rules`` and ``nan_is_absent``.
        problems: rows that cannot be used are noted here.
        where: file, for messages.

    Raises:
        DataError: a column of the wrong type, six numbers of stress in no stated order.
    """
    rows, absent = len(atoms), bool(options.nan_is_absent)
    scale = ENERGY_UNITS[options.energy_unit]
    energy, has_forces = np.full(rows, np.nan), np.zeros(rows, dtype=np.bool_)
    if roles.energy is not None:
        values, valid = scalars(column(roles.energy), roles.energy, where)
        valid = valid & ~np.isnan(values) if absent else valid
        problems.add(valid & ~np.isfinite(values), "The energy is NaN or infinite.")
        energy = np.where(valid, values * scale, np.nan)
    forces = None
    if roles.forces is not None:
        forces = _per_atom(column(roles.forces), "forces", atoms, problems, where, absent)
        has_forces = forces.valid
        values = forces.values * (scale / LENGTH_UNITS[options.length_unit])
        forces = Ragged(values, forces.offsets, forces.valid, forces.odd)
    stress, flat = np.full((rows, 9), np.nan), 0
    if roles.stress is not None:
        stress, flat = _stress(column, roles.stress, volume, options.stress_rules, problems, where, absent)
    return LabelColumns(energy, forces, has_forces, stress, flat)


def _per_atom(
    array: Any, name: str, atoms: ndarray, problems: Problems, where: str, nan_is_absent: bool
) -> Ragged:
    found = ragged(array, name, problems, where)
    if found.values.dtype.kind != "f":
        found = Ragged(found.values.astype(np.float64), found.offsets, found.valid, found.odd)
    valid = found.valid & ((found.counts > 0) | (atoms == 0))
    problems.add(valid & (found.counts != 3 * atoms), f"The {name} are not three per atom.")
    if found.odd is not None:
        problems.add(valid & found.odd, f"The {name} are not lists of three numbers.")
    bad = _rows_with(~np.isfinite(found.values), found)
    if nan_is_absent:
        valid = valid & ~_rows_with(np.isnan(found.values), found)
    problems.add(valid & bad, f"The {name} are NaN or infinite.")
    return Ragged(found.values, found.offsets, valid, found.odd)


def _rows_with(flags: ndarray, column: Ragged) -> ndarray:
    """Rows in which any number has the flag."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[column.offsets[1:]] > total[column.offsets[:-1]]


def _stress(
    column: Callable[[str], Any],
    name: str,
    volume: ndarray,
    rules: StressRules,
    problems: Problems,
    where: str,
    nan_is_absent: bool,
) -> tuple[ndarray, int]:
    found = ragged(column(name), "stress", problems, where)
    valid = found.valid & (found.counts > 0)
    six, nine = found.counts == 6, found.counts == 9
    problems.add(valid & ~six & ~nine, "The stress has neither 6 nor 9 numbers.")
    if (six & valid).any() and rules.order is None:
        raise DataError(
            f"The stress ({name}) has six numbers, but their order was not stated.",
            where=where,
            fix="state stress_order: voigt (xx yy zz yz xz xy) or vasp (xx yy zz xy yz zx)",
        )
    full = np.full((len(valid), 9), np.nan)
    for mask, n in ((six & valid, 6), (nine & valid, 9)):
        rows = np.flatnonzero(mask)
        values = found.take(rows).values.reshape(-1, n).astype(np.float64)
        full[rows] = values if n == 9 else values[:, VOIGT if rules.order == "voigt" else VASP]
    filled = (six | nine) & valid
    if nan_is_absent:
        filled &= ~np.isnan(full).any(axis=1)
    problems.add(filled & ~np.isfinite(full).all(axis=1), "The stress is NaN or infinite.")
    flat = filled & np.isnan(volume)
    full[~filled | flat] = np.nan
    _check_normalised(column, filled & ~flat, rules, problems)
    return _converted(full, volume, rules, problems), int(flat.sum())


def _converted(full: ndarray, volume: ndarray, rules: StressRules, problems: Problems) -> ndarray:
    tensor = full.reshape(-1, 3, 3)
    with np.errstate(invalid="ignore"):
        asymmetry = np.abs(tensor - tensor.transpose(0, 2, 1)).max(axis=(1, 2))
        problems.add(
            asymmetry > ASYMMETRY * np.abs(tensor).max(axis=(1, 2)) + 1e-6, "The stress is not symmetric."
        )
    symmetric = 0.5 * (full + tensor.transpose(0, 2, 1).reshape(-1, 9))
    sign = 1.0 if rules.sign == "ase" else -1.0
    if rules.unit == "eV":
        return sign * symmetric / volume[:, None]
    return symmetric * (sign * STRESS_UNITS[rules.unit or ""])


def _check_normalised(
    column: Callable[[str], Any], rows: ndarray, rules: StressRules, problems: Problems
) -> None:
    """ColabFit says of every stress whether it was divided by the volume; that has to fit the unit."""
    try:
        array = column(NORMALISED)
    except KeyError:
        return
    flags = np.array([bool(flag) for flag in array.to_pylist()], dtype=np.bool_)
    said = (
        array.is_valid().to_numpy(zero_copy_only=False)
        if not is_text(array.type)
        else np.zeros(len(flags), bool)
    )
    problems.add(
        rows & said & (flags == (rules.unit == "eV")),
        f"The column {NORMALISED} contradicts the stated unit of the stress.",
    )
