"""numpy's records in a pickle as arrays: plain numbers only, all sizes compared before anything is made."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np

from atomml.datasets.safe.pickle_records import Record, named
from atomml.errors import DataError

__all__ = ["array_of_bytes", "check_reconstruct", "read_dtype"]

_DTYPE = named("numpy dtype")
_NUMERIC = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
_ORDERS: dict[str, Literal["<", ">", "|"]] = {"<": "<", ">": ">", "|": "|", "=": "<"}
MOST_DIMENSIONS = 32


def read_dtype(record: Any) -> np.dtype:
    """The type of numbers that ``numpy.dtype(code, False, True)`` with its state stands for.

    Raises:
        DataError: not such a record, or a type of anything but plain numbers (objects, texts, fields).
    """
    if type(record) is not _DTYPE or not 1 <= len(record.args) <= 3 or type(record.args[0]) is not str:
        raise DataError("an array without a type of numpy")
    code, state = record.args[0], record.state
    if not _NUMERIC.fullmatch(code):
        raise DataError(f"an array of type {ascii(code)[:40]}: only plain numbers are read")
    order: Literal["<", ">", "|"] = "|"
    if state is not None:
        if type(state) is not tuple or not 5 <= len(state) <= 9 or type(state[1]) is not str:
            raise DataError("the type of an array has a state that is not numpy's")
        if any(part is not None for part in state[2:5]) or state[1] not in _ORDERS:
            raise DataError("the type of an array has fields or parts: only plain numbers are read")
        order = _ORDERS[state[1]]
    return np.dtype(code).newbyteorder(order)


def array_of_bytes(data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    """An array of its own memory, little-endian, from the bytes of its elements.

    Args:
        data: bytes.
        dtype: of the elements in ``data``.
        shape: tuple of whole numbers.
        order: "C" or "F".

    Raises:
        DataError: sizes that do not agree.
    """
    if type(data) not in (bytes, bytearray):
        raise DataError("an array whose elements are not bytes (an array of objects?)")
    if type(shape) is not tuple or any(type(n) is not int or not 0 <= n < 1 << 48 for n in shape):
        raise DataError("an array whose shape is not made of whole numbers")
    if len(shape) > MOST_DIMENSIONS or order not in ("C", "F"):
        raise DataError("an array of more than 32 dimensions or of unknown order")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DataError(
            f"an array of shape {shape} and type {dtype} with {len(data)} bytes instead of "
            f"{math.prod(shape) * dtype.itemsize}"
        )
    flat = np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)
    if dtype.kind == "b" and flat.view(np.uint8).max(initial=0) > 1:
        raise DataError("an array of type bool holds bytes other than 0 and 1")
    return flat.reshape(shape, order=order).astype(dtype.newbyteorder("<"), order="C", copy=True)


def check_reconstruct(record: Record) -> None:
    """Refuse ``_reconstruct`` of anything but an empty array that its state will fill."""
    arguments = record.args
    if len(arguments) != 3 or arguments[0] is not named("numpy ndarray") or arguments[1] != (0,):
        raise DataError("an array that is not made as numpy makes arrays")
