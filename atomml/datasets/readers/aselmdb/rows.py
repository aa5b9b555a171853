"""Rows of ASE databases (their JSON dictionaries) as frames, without building any ASE object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from atomml.datasets.frame import Frame, check_frame
from atomml.datasets.labels import LABELS, STRESS_UNITS, LabelKeys, to_stress
from atomml.datasets.readers.aselmdb.account import RowAccount, RowRules
from atomml.datasets.readers.aselmdb.codec import (
    atomic_numbers,
    flat_list,
    floats,
    integers,
    one_number,
    parse_text,
)
from atomml.datasets.readers.aselmdb.constraints import fixed_atoms
from atomml.datasets.readers.aselmdb.tags import row_tags
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["row_frame"]

PERIODIC = np.ones(3, dtype=np.bool_)
ALL_THREE = {"__ndarray__": [[3], "bool", [True, True, True]]}  # as ASE writes pbc of a crystal


def row_frame(row: Any, rules: RowRules, account: RowAccount, where: str, name: str) -> Frame:
    """One row as a frame; shapes are checked here, finite numbers and elements by `check_frame`.

    Args:
        row: the decoded JSON.
        rules: options.
        account: counts what was found and left out.
        where: file and row.
        name: of the frame.

    Raises:
        DataError: not a row, or a part of another shape or kind.
    """
    if type(row) is not dict or "numbers" not in row or "positions" not in row:
        raise DataError("This is not a row of an ASE database (no numbers or positions).", where=where)
    numbers = atomic_numbers(row["numbers"], where)
    n = len(numbers)
    positions = floats(row["positions"], (n, 3), "positions", where)
    cell = floats(row["cell"], (3, 3), "cell", where) if "cell" in row else np.zeros((3, 3))
    if rules.keys.length_unit != "Ang":
        positions, cell = positions * rules.keys.length_scale, cell * rules.keys.length_scale
    pbc = PERIODIC if row.get("pbc") == ALL_THREE else _pbc(row.get("pbc"), where)
    data = row.get("data") or {}
    if type(data) is not dict:
        data = _dictionary(data, "data", where)
    given: Mapping[str, Any] = row
    from_data: tuple[str, ...] = ()
    if rules.nan_is_absent or not data.keys().isdisjoint(LABELS):
        given, from_data = _chosen(row, data, rules, account, where)
    energy, forces, stress = _labels(given, n, pbc, rules.keys, account, where)
    pairs = row.get("key_value_pairs")
    constraints = row.get("constraints")
    frame = Frame(
        numbers,
        positions,
        cell,
        pbc,
        energy,
        forces,
        stress,
        name,
        row_tags(data, _dictionary(pairs, "key_value_pairs", where) if pairs else {}, rules, account, where),
        integers(row["tags"], "tags", where, n) if "tags" in row else None,
        fixed_atoms(constraints, n, account.unread, where) if constraints else None,
    )
    if rules.check:
        check_frame(frame, where)
    account.seen[(*row,), (energy == energy, forces is not None, stress is not None), from_data] += 1
    return frame


def _dictionary(value: Any, name: str, where: str) -> dict[str, Any]:
    parsed = parse_text(value, name, where) if type(value) is str else value
    if type(parsed) is not dict:
        raise DataError(f"The row's {name} is not a dictionary.", where=where)
    return parsed


def _pbc(value: Any, where: str) -> ndarray:
    if value is None:
        return np.zeros(3, dtype=np.bool_)
    flat = flat_list(value, "pbc", where)
    if len(flat) != 3 or not all(v in (0, 1) for v in flat):
        raise DataError("The pbc is not three flags.", where=where)
    return np.array(flat, dtype=np.bool_)


def _labels(
    given: Mapping[str, Any], n: int, pbc: ndarray, keys: LabelKeys, account: RowAccount, where: str
) -> tuple[float, ndarray | None, ndarray | None]:
    """Energy (NaN if there is none), forces and stress in the units of atomml."""
    energy, forces, stress = float("nan"), None, None
    value = given.get("energy")
    if value is not None:
        energy = one_number(value, "energy", where) * keys.energy_scale
        if not math.isfinite(energy):
            raise DataError("The energy is NaN or infinite.", where=where, fix="skip the row, or correct it")
    value = given.get("forces")
    if value is not None:
        forces = floats(value, (n, 3), "forces", where)
        if keys.energy_unit != "eV" or keys.length_unit != "Ang":
            forces = forces * (keys.energy_scale / keys.length_scale)
    value = given.get("stress")
    if value is not None and not (pbc is PERIODIC or pbc.all()):
        account.flat_stress += 1
    elif value is not None:
        stress = _stress(flat_list(value, "stress", where), keys, where)
    return energy, forces, stress


def _stress(flat: list[Any], keys: LabelKeys, where: str) -> ndarray:
    if len(flat) != 6:
        return to_stress(floats(flat, (9,), "stress", where), 1.0, "stress", keys, where)
    xx, yy, zz, yz, xz, xy = flat
    full = floats([xx, xy, xz, xy, yy, yz, xz, yz, zz], (9,), "stress", where).reshape(3, 3)
    sign = 1.0 if keys.stress_sign == "ase" else -1.0
    factor = sign * STRESS_UNITS[keys.stress_unit]
    return full if factor == 1.0 else full * factor


def _chosen(
    row: Mapping[str, Any], data: Mapping[str, Any], rules: RowRules, account: RowAccount, where: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The labels of a row that has some in ``data``, as they are in the file; and which ``data`` gave."""
    given: dict[str, Any] = {}
    from_data: list[str] = []
    for label in LABELS:
        value, other = row.get(label), data.get(label)
        if value is not None and other is not None:
            account.differs[label] += flat_list(value, label, where) != flat_list(other, label, where)
        if other is not None and rules.data_first:
            from_data.append(label)
            value = other
        elif other is not None:
            account.unread[f"data.{label}"] += 1
        if rules.nan_is_absent and value is not None:
            absent = any(type(x) is float and x != x for x in flat_list(value, label, where))
            value = None if absent else value
        given[label] = value
    return given, tuple(from_data)
