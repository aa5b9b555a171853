"""Constraints of ASE databases: which atoms were held. Nothing is built by the names in the file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from atomml.datasets.readers.aselmdb.codec import flat_list, parse_text
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["fixed_atoms"]


def fixed_atoms(constraints: Any, n: int, not_read: Counter[str], where: str) -> ndarray | None:
    """Atoms held by ``FixAtoms``, or by ``FixCartesian`` in all three directions [N]; None if none is.

    Args:
        constraints: list of ``{"name": ..., "kwargs": {...}}``, of the older ``{"__name__": ..., ...}``, or
            either as JSON text.
        n: number of atoms.
        not_read: counts every other constraint by its name.
        where: file and row.

    Raises:
        DataError: not such a list, or an atom that does not exist.
    """
    listed = parse_text(constraints, "constraints", where) if isinstance(constraints, str) else constraints
    if type(listed) is not list:
        raise DataError("The constraints are not a list.", where=where)
    fixed: bytearray | None = None
    for constraint in listed:
        name, atoms = _held(constraint, n, where)
        if atoms is None:
            not_read[f"constraints.{name}"] += 1
            continue
        fixed = fixed or bytearray(n)
        try:
            for i in atoms:
                fixed[i] = 1
        except (IndexError, TypeError) as error:
            raise DataError(
                f"The constraint {name} names an atom that is not one of the {n} atoms.", where=where
            ) from error
    return None if fixed is None else np.frombuffer(fixed, dtype=np.bool_)


def _held(constraint: Any, n: int, where: str) -> tuple[str, list[Any] | None]:
    """Name of a constraint, and the atoms that it holds completely."""
    if type(constraint) is not dict:
        raise DataError("A constraint is not a dictionary.", where=where)
    old = constraint.get("__name__")
    name = str(constraint.get("name") if old is None else old)[:60].rpartition(".")[2]
    kwargs = constraint.get("kwargs", {}) if old is None else constraint
    if type(kwargs) is not dict:
        raise DataError(f"The arguments of the constraint {name} are not a dictionary.", where=where)
    if name == "FixAtoms":
        return name, _atoms(kwargs.get("indices", kwargs.get("mask")), n, name, where)
    if name == "FixCartesian":
        mask = flat_list(kwargs.get("mask", [True]), "mask", where)
        if not mask or not all(mask):
            return f"{name} (some directions)", None
        return name, _atoms(kwargs.get("a"), n, name, where)
    return name, None


def _atoms(value: Any, n: int, name: str, where: str) -> list[Any]:
    """Indices of atoms, from indices or from flags."""
    if value is None:
        raise DataError(f"The constraint {name} names no atoms.", where=where)
    flat = value if type(value) is list else flat_list(value, f"atoms of {name}", where)
    if flat and type(flat[0]) is bool:
        if len(flat) != n:
            raise DataError(f"The constraint {name} has {len(flat)} flags for {n} atoms.", where=where)
        return [i for i, held in enumerate(flat) if held]
    return flat
