"""HDF5 read with suspicion: plain numbers in this file only, of bounded size, through standard filters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomml._optional import require
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = [
    "attribute",
    "attribute_names",
    "group_of",
    "is_hdf5",
    "is_none",
    "names_from",
    "numbers",
    "open_hdf5",
    "text",
    "unit_of",
]

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_ARRAY = 1 << 30  # bytes of one array
LARGEST_TEXT = 1 << 20
FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scale-offset, lzf


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """The file, read-only; whatever HDF5 finds wrong with it is a DataError.

    Raises:
        UnsupportedError: h5py is not installed.
        DataError: not HDF5, truncated or damaged.
    """
    h5py = require("h5py", extra="hdf5")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise DataError(
            f"HDF5 cannot read this file ({type(error).__name__}: {str(error)[:200]}).",
            where=str(path),
            fix="it is truncated or damaged: fetch it again",
        ) from error


def group_of(parent: Any, name: str, where: str) -> Any:
    """The group ``name``.

    Raises:
        DataError: there is none, or it is a dataset or a link.
    """
    found = optional_group(parent, name, where)
    if found is None:
        raise DataError(f"There is no group {name!r}.", where=where, fix="the file is not of this format")
    return found


def optional_group(parent: Any, name: str, where: str) -> Any | None:
    """The group ``name``; None if there is none.

    Raises:
        DataError: it is a dataset or a link.
    """
    h5py = require("h5py", extra="hdf5")
    found = _child(parent, name, where)
    if found is not None and not isinstance(found, h5py.h5g.GroupID):
        raise DataError(f"{name!r} is not a group.", where=where, fix="the file is not of this format")
    return None if found is None else h5py.Group(found)


def _child(group: Any, name: str, where: str) -> Any | None:
    """The identifier of an object that lies in this file itself.

    h5py's identifiers instead of its objects: a structure has ten small datasets, and the objects take most
    of the time.
    """
    h5py = require("h5py", extra="hdf5")
    raw = name.encode("utf-8")
    if not group.id.links.exists(raw):
        return None
    kind = group.id.links.get_info(raw).type
    if kind != h5py.h5l.TYPE_HARD:
        raise DataError(
            f"{name!r} is {'a soft' if kind == h5py.h5l.TYPE_SOFT else 'an external'} link and not data.",
            where=where,
            fix="copy what it points to into one file",
        )
    return h5py.h5o.open(group.id, raw)


def names_from(group: Any, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Names of the children ``start`` to ``stop`` in the order of the names."""
    names: list[bytes] = []
    total = len(group)
    end = total if stop is None else min(stop, total)
    if start >= end:
        return

    def collect(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) >= end - start else None

    group.id.links.iterate(collect, idx=start)
    for name in names:
        yield name.decode("utf-8")


def shape_of(group: Any, name: str, where: str) -> tuple[int, ...] | None:
    """The shape of a dataset; None if there is none.

    Raises:
        DataError: as `numbers`.
    """
    dataset = _dataset(group, name, where)
    return None if dataset is None else dataset.shape


def numbers(group: Any, name: str, where: str) -> ndarray | None:
    """A dataset as an array of numbers or flags; None if there is none, or if it is the text "None".

    Args:
        group: that has it.
        name: of the dataset.
        where: the group, for messages.

    Raises:
        DataError: a link, objects or text, data in other files, an unknown filter, larger than 1 GiB.
    """
    h5py = require("h5py", extra="hdf5")
    dataset = _dataset(group, name, where)
    if dataset is None:
        return None
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.kind in "OS" and _text(dataset, name, where) == "None":
        return None
    if dtype.kind not in "fiub":
        raise DataError(
            f"{name!r} has the type {dtype}, not numbers.", where=where, fix="write it as an array"
        )
    if math.prod(shape) * dtype.itemsize > LARGEST_ARRAY:
        raise DataError(f"{name!r} has the shape {shape}: more than {LARGEST_ARRAY >> 30} GiB.", where=where)
    array = np.empty(shape, dtype=dtype)
    if array.size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def text(group: Any, name: str, where: str) -> str | None:
    """A dataset of one text; None if there is none.

    Raises:
        DataError: something else than one text.
    """
    dataset = _dataset(group, name, where)
    return None if dataset is None else _text(dataset, name, where)


def is_none(group: Any, name: str, where: str) -> bool:
    """Whether a dataset is the text "None"."""
    h5py = require("h5py", extra="hdf5")
    found = _child(group, name, where)
    if not isinstance(found, h5py.h5d.DatasetID) or found.dtype.kind not in "OS":
        return False
    return text(group, name, where) == "None"


def _text(dataset: Any, name: str, where: str) -> str:
    h5py = require("h5py", extra="hdf5")
    dtype = dataset.dtype
    if (
        h5py.check_string_dtype(dtype) is None
        or math.prod(dataset.shape) != 1
        or dtype.itemsize > LARGEST_TEXT
    ):
        raise DataError(f"{name!r} is not one text.", where=where, fix="remove it")
    return _decoded(np.asarray(h5py.Dataset(dataset)[()]))


def _decoded(array: ndarray) -> str:
    value = array.reshape(-1)[0].item() if array.dtype.kind == "S" else array.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def attribute(item: Any, name: str, where: str) -> float | int | bool | str | None:
    """An attribute that is one number, flag or text; None if there is none.

    Args:
        item: a group, or the identifier of a dataset.
        name: of the attribute.
        where: the group, for messages.

    Raises:
        DataError: something else.
    """
    h5py = require("h5py", extra="hdf5")
    identifier, raw = (item.id if isinstance(item, h5py.Group) else item), name.encode("utf-8")
    if not h5py.h5a.exists(identifier, raw):
        return None
    kind = h5py.h5a.open(identifier, raw)
    dtype, shape = kind.dtype, kind.shape
    one = shape is not None and math.prod(shape) == 1
    if one and dtype.kind in "fiub":
        array = np.empty(shape, dtype=dtype)
        kind.read(array)
        return array.reshape(-1)[0].item()
    if one and h5py.check_string_dtype(dtype) is not None and dtype.itemsize <= LARGEST_TEXT:
        array = np.empty(shape, dtype=dtype)
        kind.read(array)
        return _decoded(array)
    raise DataError(f"The attribute {name!r} is not one number or text ({dtype}, {shape}).", where=where)


def attribute_names(group: Any) -> list[str]:
    """Names of the attributes of a group.

    Raises:
        UnicodeDecodeError: one that is not text; `open_hdf5` reports it.
    """
    return [name.decode("utf-8") if isinstance(name, bytes) else name for name in group.attrs]


def unit_of(group: Any, name: str, where: str) -> str | None:
    """The attribute ``units`` of a dataset, lower case."""
    dataset = _dataset(group, name, where)
    unit = None if dataset is None else attribute(dataset, "units", where)
    return None if unit is None else str(unit).strip().lower()


def _dataset(group: Any, name: str, where: str) -> Any | None:
    h5py = require("h5py", extra="hdf5")
    dataset = _child(group, name, where)
    if dataset is None:
        return None
    problem = ""
    if not isinstance(dataset, h5py.h5d.DatasetID):
        problem = "is not a dataset"
    else:
        plist = dataset.get_create_plist()
        filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
        if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
            problem = "lies in other files"
        elif filters - FILTERS:
            problem = (
                f"is compressed with the filter {min(filters - FILTERS)}, which is not one of HDF5's own"
            )
        elif dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            problem = "is empty"
    if problem:
        raise DataError(f"{name!r} {problem}.", where=where, fix="write it as a plain dataset of this file")
    return dataset
