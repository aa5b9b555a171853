"""Values of unpickled records as arrays of a stated shape; everything else is an error that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = [
    "cell_of",
    "flags_of",
    "integer_of",
    "integers_of",
    "number_of",
    "pbc_of",
    "required",
    "vectors_of",
]

LARGEST_INTEGER = 2**53  # beyond it float64 has gaps


def required(record: Mapping[str, Any], key: str, where: str) -> Any:
    """The value of ``key``.

    Raises:
        DataError: there is none; names the keys that are there.
    """
    value = record.get(key)
    if value is None:
        keys = ", ".join(sorted(str(k) for k in record if record[k] is not None)[:20])
        raise DataError(f"The record has no {key}.", where=where, fix=f"it has: {keys or 'nothing'}")
    return value


def number_of(value: Any, key: str, where: str) -> float:
    """A finite number, from a number or an array of one.

    Raises:
        DataError: anything else.
    """
    array = _numeric(value, key, where)
    if array.size != 1 or not np.isfinite(array).all():
        shown = f"of shape {array.shape}" if array.size != 1 else "NaN or infinite"
        raise DataError(f"{key} is {shown}, not one finite number.", where=where, fix="remove the record")
    return float(array.reshape(()))


def integer_of(value: Any, key: str, where: str) -> int:
    """An integer, from an int, a float without fraction or an array of one.

    Raises:
        DataError: anything else.
    """
    if type(value) is int and abs(value) < 2**63:
        return value
    array = integers_of(value, key, where)
    if array.size != 1:
        raise DataError(f"{key} has shape {array.shape}, not one integer.", where=where)
    return int(array.reshape(()))


def integers_of(value: Any, key: str, where: str) -> Int64[ndarray, ...]:
    """Integers of any shape; OC20 keeps them as float32 too.

    Raises:
        DataError: a value that has a fraction or is not finite.
    """
    array = _numeric(value, key, where)
    if array.dtype.kind in "ib":
        return array.astype(np.int64)
    whole = np.abs(array) <= LARGEST_INTEGER  # false for NaN
    if not whole.all() or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise DataError(f"{key} has values that are not integers.", where=where, fix="remove the record")
    return array.astype(np.int64)


def vectors_of(value: Any, n: int, key: str, where: str) -> Float64[ndarray, "atoms 3"]:
    """One vector per atom [N, 3], exactly as stored (float32 is widened).

    Raises:
        DataError: another shape.
    """
    array = _numeric(value, key, where)
    if array.shape != (n, 3):
        raise DataError(f"{key} has shape {array.shape}, not ({n}, 3).", where=where, fix="remove the record")
    return array.astype(np.float64)


def flags_of(value: Any, n: int, key: str, where: str) -> Bool[ndarray, " atoms"]:
    """One flag per atom, stored as 0 and 1 of any type.

    Raises:
        DataError: another shape or value.
    """
    array = integers_of(value, key, where)
    if array.shape != (n,) or ((array != 0) & (array != 1)).any():
        raise DataError(f"{key} is not one 0 or 1 for each of {n} atoms.", where=where)
    return array == 1


def cell_of(value: Any, where: str) -> Float64[ndarray, "3 3"]:
    """The cell, stored as (3, 3) or (1, 3, 3); zeros if there is none.

    Raises:
        DataError: another shape.
    """
    if value is None:
        return np.zeros((3, 3))
    array = _numeric(value, "cell", where)
    if array.shape not in ((3, 3), (1, 3, 3)):
        raise DataError(f"cell has shape {array.shape}, not (3, 3).", where=where)
    return array.astype(np.float64).reshape(3, 3)


def pbc_of(value: Any, cell: Float64[ndarray, "3 3"], where: str) -> Bool[ndarray, " 3"]:
    """Periodic directions; where the record does not say: all with a cell (as in OC20), none without.

    Raises:
        DataError: not three flags.
    """
    if value is None:
        return np.full(3, bool(cell.any()))
    array = np.asarray(value)
    if array.size == 1:
        return np.full(3, bool(flags_of(array.reshape(1), 1, "pbc", where)[0]))
    return flags_of(array.reshape(-1), 3, "pbc", where)


def _numeric(value: Any, key: str, where: str) -> ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # a list of rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{key} is a {type(value).__name__}, not numbers.", where=where)
    return array
