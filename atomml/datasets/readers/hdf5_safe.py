"""HDF5 read with suspicion: plain numbers in this file only, of bounded size, through standard filters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomml._optional import require
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = [
    "attribute",
    "child",
    "group_of",
    "is_hdf5",
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


def child(group: Any, name: str, where: str) -> Any | None:
    """A group or dataset that lies in this file itself; None if there is none of this name.

    Raises:
        DataError: a soft or external link.
    """
    h5py = require("h5py", extra="hdf5")
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{name!r} is a {type(link).__name__} and not data of this file.",
            where=where,
            fix="copy the data into one file (h5repack does not follow links)",
        )
    return group[name]


def group_of(parent: Any, name: str, where: str) -> Any:
    """The group ``name``.

    Raises:
        DataError: there is none, or it is a dataset or a link.
    """
    h5py = require("h5py", extra="hdf5")
    found = child(parent, name, where)
    if not isinstance(found, h5py.Group):
        raise DataError(f"There is no group {name!r}.", where=where, fix="the file is not of this format")
    return found


def names_from(group: Any, start: int, stop: int | None) -> Iterator[str]:
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


def numbers(group: Any, name: str, where: str, rows: slice | None = None) -> ndarray | None:
    """A dataset as an array of numbers or flags; None if there is none, or if it is the text "None".

    Args:
        group: that has it.
        name: of the dataset.
        where: the group, for messages.
        rows: of its first axis; all by default.

    Raises:
        DataError: a link, objects or text, data in other files, an unknown filter, larger than 1 GiB.
    """
    dataset = _dataset(group, name, where)
    if dataset is None or (dataset.dtype.kind in "OS" and text(group, name, where) in (None, "None")):
        return None
    if dataset.dtype.kind not in "fiub":
        raise DataError(
            f"{name!r} has the type {dataset.dtype}, not numbers.", where=where, fix="write it as an array"
        )
    count = dataset.size
    if rows is not None and dataset.ndim:
        length = dataset.shape[0]
        count = count // max(length, 1) * len(range(*rows.indices(length)))
    if count * dataset.dtype.itemsize > LARGEST_ARRAY:
        raise DataError(
            f"{name!r} has the shape {dataset.shape}: more than {LARGEST_ARRAY >> 30} GiB.", where=where
        )
    return np.asarray(dataset[() if rows is None else rows])


def text(group: Any, name: str, where: str) -> str | None:
    """A dataset of one text; None if there is none.

    Raises:
        DataError: something else than one text.
    """
    h5py = require("h5py", extra="hdf5")
    dataset = _dataset(group, name, where)
    if dataset is None:
        return None
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.size != 1:
        raise DataError(f"{name!r} is not one text.", where=where, fix="remove it")
    if dataset.dtype.itemsize > LARGEST_TEXT:
        raise DataError(f"{name!r} is a text of {dataset.dtype.itemsize} bytes.", where=where)
    value = np.asarray(dataset[()]).reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def attribute(item: Any, name: str, where: str) -> float | int | bool | str | None:
    """An attribute that is one number, flag or text; None if there is none.

    Raises:
        DataError: something else.
    """
    h5py = require("h5py", extra="hdf5")
    if name not in item.attrs:
        return None
    kind = item.attrs.get_id(name)
    one = kind.shape is not None and int(np.prod(kind.shape)) == 1
    if one and kind.dtype.kind in "fiub":
        return np.asarray(item.attrs[name]).reshape(-1)[0].item()
    if one and h5py.check_string_dtype(kind.dtype) is not None and kind.dtype.itemsize <= LARGEST_TEXT:
        value = np.asarray(item.attrs[name]).reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    raise DataError(
        f"The attribute {name!r} is not one number or text ({kind.dtype}, {kind.shape}).", where=where
    )


def unit_of(group: Any, name: str, where: str) -> str | None:
    """The attribute ``units`` of a dataset, lower case."""
    dataset = _dataset(group, name, where)
    unit = None if dataset is None else attribute(dataset, "units", where)
    return None if unit is None else str(unit).strip().lower()


def _dataset(group: Any, name: str, where: str) -> Any | None:
    h5py = require("h5py", extra="hdf5")
    dataset = child(group, name, where)
    if dataset is None:
        return None
    problem = ""
    if not isinstance(dataset, h5py.Dataset):
        problem = "is not a dataset"
    elif dataset.is_virtual or dataset.external:
        problem = "lies in other files"
    elif dataset.shape is None:
        problem = "is empty"
    else:
        plist = dataset.id.get_create_plist()
        filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
        if filters - FILTERS:
            problem = (
                f"is compressed with the filter {min(filters - FILTERS)}, which is not one of HDF5's own"
            )
    if problem:
        raise DataError(f"{name!r} {problem}.", where=where, fix="write it as a plain dataset of this file")
    return dataset
