"""Arrays in the JSON of ASE databases: ``{"__ndarray__": [shape, dtype, flat list]}`` or plain lists."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from atomml.datasets.safe.bounded import parse_json
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["array_parts", "atomic_numbers", "flat_list", "floats", "integers", "one_number", "parse_text"]

KINDS = {"float64": "f", "float32": "f", "int64": "i", "int32": "i", "bool": "b"}
NOT_NUMBERS = {
    "__complex__": "complex numbers",
    "__complex_ndarray__": "complex numbers",
    "__datetime__": "a date",
}


def floats(value: Any, shape: tuple[int, ...], name: str, where: str) -> ndarray:
    """An array of real numbers, float64; read-only.

    Raises:
        DataError: another shape, complex numbers, anything that is not a number.
    """
    if type(value) is dict:
        try:  # as ASE writes it: several times faster than the general way, which also finds the words
            stated, dtype, flat = value["__ndarray__"]
            if dtype == "float64" and (*stated,) == shape:
                return np.frombuffer(struct.pack(f"{len(flat)}d", *flat)).reshape(shape)
        except (TypeError, KeyError, ValueError, struct.error, OverflowError):
            pass
    flat, found = array_parts(value, name, where)
    if found != shape:
        raise DataError(f"The {name} have shape {found}, not {shape}.", where=where)
    try:
        packed = struct.pack(f"{len(flat)}d", *flat)
    except (struct.error, OverflowError) as error:
        raise DataError(f"The {name} are not all numbers ({error}).", where=where) from error
    return np.frombuffer(packed).reshape(shape)


def integers(value: Any, name: str, where: str, n: int | None = None) -> ndarray:
    """A list of whole numbers, int64; read-only. ``n`` of them, if it is given.

    Raises:
        DataError: another shape, or a number that is not whole.
    """
    flat, shape = array_parts(value, name, where)
    if len(shape) != 1 or (n is not None and shape != (n,)):
        raise DataError(f"The {name} have shape {shape}, not ({'N' if n is None else n},).", where=where)
    try:
        return np.frombuffer(struct.pack(f"{len(flat)}q", *flat), dtype=np.int64)
    except struct.error:
        numbers = floats(value, shape, name, where)
    if not (np.abs(numbers) < 2**53).all() or (numbers != np.round(numbers)).any():
        raise DataError(f"The {name} are not whole numbers.", where=where)
    return numbers.astype(np.int64)


def atomic_numbers(value: Any, where: str) -> ndarray:
    """Atomic numbers [N], uint8.

    Raises:
        DataError: another shape, no whole numbers, or numbers beyond any element.
    """
    try:
        stated, dtype, flat = value["__ndarray__"]
        if dtype == "int64" and stated == [len(flat)]:
            return np.frombuffer(bytes(flat), dtype=np.uint8)
    except (TypeError, KeyError, ValueError):
        pass
    numbers = integers(value, "numbers", where)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= 118:
        raise DataError("The frame has an unknown element (X or beyond 118).", where=where)
    return numbers.astype(np.uint8)


def one_number(value: Any, name: str, where: str) -> float:
    """A number, or an array of one.

    Raises:
        DataError: anything else.
    """
    if type(value) is float:
        return value
    if type(value) is not int:
        flat, shape = array_parts(value, name, where)
        if len(flat) != 1 or type(flat[0]) not in (float, int):
            raise DataError(f"The {name} is not one number but has shape {shape}.", where=where)
        value = flat[0]
    return float(value) if abs(value) < 2**1000 else float("inf")


def flat_list(value: Any, name: str, where: str) -> list[Any]:
    """What an array, a list, a list of lists or one value holds, in order.

    Raises:
        DataError: an array whose parts do not fit, another codec's object.
    """
    return array_parts(value, name, where)[0] if isinstance(value, list | dict) else [value]


def parse_text(text: str, name: str, where: str) -> Any:
    """JSON inside of JSON, as rows of old databases have it.

    Raises:
        DataError: not JSON.
    """
    return parse_json(text.encode(), where=f"{where}, {name}", nan=True)


def array_parts(value: Any, name: str, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """The numbers in a flat list, and their shape.

    Raises:
        DataError: another codec's object, parts that do not fit, rows of different lengths.
    """
    if type(value) is dict and value.get("__ase_objtype__") == "cell":
        value = value.get("array")
    if type(value) is list:
        return _nested(value, name, where)
    if type(value) is not dict:
        raise DataError(f"The {name} are not an array but {type(value).__name__}.", where=where)
    if "__ndarray__" in value:
        return _ndarray(value["__ndarray__"], name, where)
    kind = value.get("__ase_objtype__")
    found = next((words for key, words in NOT_NUMBERS.items() if key in value), None)
    found = found or (f"an ASE object of type {str(kind)[:40]!r}" if kind else "a dictionary")
    raise DataError(f"The {name} are not an array but {found}.", where=where, fix="correct the row")


def _ndarray(parts: Any, name: str, where: str) -> tuple[list[Any], tuple[int, ...]]:
    if type(parts) is not list or len(parts) != 3 or type(parts[0]) is not list or type(parts[2]) is not list:
        raise DataError(f"The array of the {name} is not [shape, type, numbers].", where=where)
    shape, dtype, flat = tuple(parts[0]), parts[1], parts[2]
    size = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise DataError(f"The shape of the {name} is not of whole numbers.", where=where)
        size *= side
    if size != len(flat):
        raise DataError(f"The {name} have {len(flat)} numbers, but the shape {shape}.", where=where)
    if KINDS.get(dtype if type(dtype) is str else "") is None and not _is_real(dtype):
        raise DataError(f"The {name} are of type {str(dtype)[:40]!r}, not real numbers.", where=where)
    return flat, shape


def _is_real(dtype: Any) -> bool:
    try:
        return type(dtype) is str and np.dtype(dtype).kind in "fiub"
    except (TypeError, ValueError, SyntaxError):
        return False


def _nested(value: list[Any], name: str, where: str) -> tuple[list[Any], tuple[int, ...]]:
    if not value or type(value[0]) is not list:
        return value, (len(value),)
    width = len(value[0])
    if any(type(row) is not list or len(row) != width for row in value):
        raise DataError(f"The {name} are rows of different lengths.", where=where)
    return [x for row in value for x in row], (len(value), width)
