"""Numbers of torch tensors as they lie in old pickles, read by hand into numpy arrays.

A tensor in a pickle is a call of ``torch._utils._rebuild_tensor_v2`` with a storage, and the storage a call of
``torch.storage._load_from_bytes`` with what ``torch.save`` wrote before version 1.6: five small pickles of protocol
2 (a magic number, a version, the byte order, the storage's type and size, its key), a count, and the elements.
torch itself reads these bytes with an unpickler that executes anything; here they are compared with what they can
only be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atomml.datasets.safe.torch_header import read_header
from atomml.errors import DataError

__all__ = ["DTYPES", "read_storage", "strided"]

DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
_INT = frozenset((int,))
MOST_DIMENSIONS = 16


def read_storage(data: bytes) -> np.ndarray:
    """The elements of a storage, a read-only view of ``data``; bfloat16 becomes float32.

    Raises:
        DataError: not such a storage, or its sizes do not agree with each other.
    """
    if data[:4] == b"PK\x03\x04":
        raise DataError(
            "a tensor's storage is a zip archive (torch.save since 1.6), which is not read within a pickle",
            fix="save the tensors as numpy arrays, or the file as extxyz or aselmdb",
        )
    kind, n, start = read_header(data)
    if kind not in DTYPES:
        raise DataError(f"a tensor's storage of type {kind!r}: known are {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[kind])
    count = int.from_bytes(data[start : start + 8], "little", signed=True)
    if len(data) < start + 8 or count != n:
        raise DataError(f"a tensor's storage states {n} elements in its header and {count} before its data")
    if n * dtype.itemsize != len(data) - start - 8:
        raise DataError(
            f"a tensor's storage of {n} elements ({kind}) holds {len(data) - start - 8} bytes instead of "
            f"{n * dtype.itemsize}"
        )
    values = np.frombuffer(data, dtype, count=n, offset=start + 8)
    if kind == "BoolStorage" and values.view(np.uint8).max(initial=0) > 1:
        raise DataError("a tensor of type bool holds bytes other than 0 and 1")
    return (values.astype("<u4") << 16).view("<f4") if kind == "BFloat16Storage" else values


def n_elements(size: Any) -> int:
    """The product of a tensor's sizes, or an error."""
    sizes = _whole_numbers(size, "size")
    if len(sizes) > MOST_DIMENSIONS:
        raise DataError(f"a tensor of {len(sizes)} dimensions, more than {MOST_DIMENSIONS}")
    return math.prod(sizes)


def strided(storage: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """A contiguous copy of the elements that a tensor shows of its storage.

    Args:
        storage: (n,) elements.
        offset: of the first element.
        size: tuple of whole numbers.
        stride: tuple of as many, in elements.

    Raises:
        DataError: negative numbers, or elements beyond the end of the storage.
    """
    n, sizes, strides = n_elements(size), _whole_numbers(size, "size"), _whole_numbers(stride, "stride")
    (first,) = _whole_numbers((offset,), "offset")
    if len(sizes) != len(strides):
        raise DataError(f"a tensor of {len(sizes)} sizes and {len(strides)} strides")
    if not n:
        return np.zeros(sizes, storage.dtype)
    last = first + sum((length - 1) * step for length, step in zip(sizes, strides, strict=True))
    if last >= len(storage):
        raise DataError(
            f"a tensor of size {sizes}, stride {strides} and offset {first} goes beyond its storage of "
            f"{len(storage)} elements"
        )
    steps = tuple(step * storage.itemsize for step in strides)
    return np.ndarray(sizes, storage.dtype, storage, first * storage.itemsize, steps).copy()


def _whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    if type(values) is not tuple or not _INT.issuperset(map(type, values)):
        raise DataError(f"a tensor's {what} is not made of whole numbers")
    if values and (min(values) < 0 or max(values) >= 1 << 48):
        raise DataError(f"a tensor's {what} is negative or beyond 2^48")
    return values
