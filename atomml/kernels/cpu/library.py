"""The compiled library behind the CPU kernels: which of its variants fits this processor, and how it is called."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from atomml.errors import DataError, UnsupportedError
from atomml.shapes import Tensor

__all__ = [
    "HOW_TO_BUILD",
    "VARIANTS",
    "Coupling",
    "Edges",
    "call",
    "edges_by_center",
    "edges_by_neighbor",
    "integers",
    "library",
    "native",
    "refuse",
    "variant",
]

VARIANTS = ("portable", "avx2", "avx512")
"""Builds of the same source, from the one that runs everywhere to the fastest; the index is the processor's level."""

HOW_TO_BUILD = "install a C++ compiler (g++ or clang++), then install atomml again"


class Edges(ctypes.Structure):
    """``AtommlEdges`` of api.h."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("others", ctypes.c_int64),
        ("edges", ctypes.c_int64),
        ("pointer", ctypes.c_void_p),
        ("edge", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
    ]


class Coupling(ctypes.Structure):
    """``AtommlCoupling`` of api.h."""

    _fields_ = [
        ("dim_x", ctypes.c_int64),
        ("dim_y", ctypes.c_int64),
        ("dim_out", ctypes.c_int64),
        ("paths", ctypes.c_int64),
        ("degrees", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("index", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The fastest variant that is installed and that this processor runs; None when none was built."""
    name = variant()
    return None if name is None else ctypes.CDLL(str(_installed()[name]))


@cache
def variant() -> str | None:
    """Name of the variant in use, one of `VARIANTS`; None when the package was installed without a compiler."""
    found = _installed()
    if "portable" not in found:
        return None
    level = int(ctypes.CDLL(str(found["portable"])).atomml_processor_level())
    return next(name for name in reversed(VARIANTS[: level + 1]) if name in found)


def _installed() -> dict[str, Path]:
    folder = Path(__file__).parent
    files = {name: next(folder.glob(f"_{name}.*"), None) for name in VARIANTS}
    return {name: path for name, path in files.items() if path is not None}


def native(name: str, dtype: torch.dtype) -> Any:
    """The C function ``atomml_{name}`` for the numbers of ``dtype``.

    Raises:
        UnsupportedError: the kernels were not built, or not for these numbers.
    """
    loaded = library()
    if loaded is None:
        raise UnsupportedError("The native CPU kernels were not built.", fix=HOW_TO_BUILD)
    suffix = {torch.float32: "f32", torch.float64: "f64"}.get(dtype)
    if suffix is None:
        raise UnsupportedError(f"There are no native kernels for {dtype}.", fix="use float32 or float64")
    return getattr(loaded, f"atomml_{name}_{suffix}")


def refuse(status: int, where: str) -> None:
    """Stop at what a C function returned, unless that is 0.

    Raises:
        DataError: an index is out of range.
        UnsupportedError: memory is exhausted.
    """
    if status == 2:
        raise DataError(
            "The edges do not fit the atoms: an index is out of range, or they are not sorted by centre.",
            where=where,
            fix="use the neighbour lists and indices of atomml.graph",
        )
    if status:
        raise UnsupportedError("Memory is exhausted.", where=where, fix="use smaller batches")


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call ``atomml_{name}`` for the numbers of ``dtype``; tensors pass their address, None a null pointer.

    Raises:
        DataError: an index is out of range.
        UnsupportedError: memory is exhausted; not built, or not for ``dtype``.
    """
    refuse(native(name, dtype)(*map(_converted, arguments)), f"kernel {name}")


def _converted(argument: Any) -> Any:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return argument


def edges_by_center(neighbor: Tensor, row_ptr: Tensor, atoms: int) -> Edges:
    """Rows are centres: sums over the neighbours of each atom. The tensors must outlive the result."""
    return Edges(len(row_ptr) - 1, atoms, len(neighbor), row_ptr.data_ptr(), None, neighbor.data_ptr())


def edges_by_neighbor(center: Tensor, transpose: Tensor, col_ptr: Tensor, atoms: int) -> Edges:
    """Rows are neighbours: sums over the edges that leave each atom. The tensors must outlive the result."""
    return Edges(
        len(col_ptr) - 1, atoms, len(center), col_ptr.data_ptr(), transpose.data_ptr(), center.data_ptr()
    )


def integers(values: Sequence[int]) -> Any:
    """An int64 array for C."""
    return (ctypes.c_int64 * len(values))(*values)
