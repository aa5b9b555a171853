"""``metadata.npz`` beside ASE-LMDB files: one number per row of the folder, among them ``natoms``."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from atomml.datasets.frame import Frame, Tag
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["RowMetadata", "metadata_of", "npz_columns"]

NAME = "metadata.npz"
LARGEST = 1 << 32  # bytes of one column: 500 million rows
MOST_COLUMNS = 64


@dataclass(frozen=True)
class RowMetadata:
    """Columns over all rows of a folder, and where the rows of one file begin in them."""

    columns: Mapping[str, ndarray]
    offset: int

    def applied(self, frame: Frame, k: int, as_tags: bool, where: str) -> Frame:
        """The frame of the k-th row of the file, with the other columns as tags if they are wanted.

        Raises:
            DataError: the row has another number of atoms than ``natoms`` says.
        """
        stated = int(self.columns["natoms"][self.offset + k])
        if stated != len(frame.numbers):
            raise DataError(
                f"{NAME} says {stated} atoms, the row has {len(frame.numbers)}.",
                where=where,
                fix="the two do not belong together: state metadata=ignore, or use the right file",
            )
        if not as_tags:
            return frame
        own: dict[str, Tag] = {
            name: column[self.offset + k].item()
            for name, column in self.columns.items()
            if name != "natoms" and name not in frame.tags
        }
        return frame._replace(tags={**frame.tags, **own})


def metadata_of(file: Path, suffix: str, count: Callable[[Path], int]) -> RowMetadata:
    """The metadata of one file of a folder; no columns if there is no ``metadata.npz`` beside it.

    Args:
        file: an LMDB file.
        suffix: of the files that the metadata runs over, sorted by name.
        count: rows of such a file.

    Raises:
        DataError: damaged, or another number of rows than the files have.
    """
    path = file.parent / NAME
    try:
        status = path.stat()
    except OSError:
        return RowMetadata({}, 0)
    columns = _columns(path, status.st_size, status.st_mtime_ns)
    where = str(path)
    natoms = columns.get("natoms")
    if natoms is None or natoms.dtype.kind not in "iu":
        raise DataError(f"{NAME} has no whole numbers `natoms`.", where=where, fix="state metadata=ignore")
    files = sorted(file.parent.glob(f"*{suffix}"))
    counts = [count(other) for other in files]
    wrong = {name: len(column) for name, column in columns.items() if len(column) != sum(counts)}
    if wrong:
        name, length = next(iter(wrong.items()))
        raise DataError(
            f"{NAME} has {length} values of {name}, but the {len(files)} files beside it have "
            f"{sum(counts)} rows.",
            where=where,
            fix="state metadata=ignore, or add the missing files",
        )
    names = [other.name for other in files]
    return RowMetadata(columns, sum(counts[: names.index(file.name)]))


@lru_cache(maxsize=4)
def _columns(path: Path, *_: int) -> Mapping[str, ndarray]:
    return npz_columns(path)


def npz_columns(path: Path) -> dict[str, ndarray]:
    """One-dimensional columns of numbers, flags or text of an ``.npz`` file; nothing is unpickled.

    Sizes are checked before anything of them is allocated.

    Raises:
        DataError: not such a file, objects, more than one dimension, sizes that do not fit.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_COLUMNS:
                raise DataError(f"The file has {len(entries)} columns.", where=where)
            return {
                entry.filename.removesuffix(".npy"): _column(archive, entry, f"{where}:{entry.filename[:80]}")
                for entry in entries
            }
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"This is not an .npz file of plain columns ({type(error).__name__}: {str(error)[:200]}).",
            where=where,
            fix="state metadata=ignore",
        ) from error


def _column(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> ndarray:
    if entry.file_size > min(LARGEST, 1024 * entry.compress_size + (1 << 16)):
        raise DataError(f"The column is stated to have {entry.file_size} bytes.", where=where)
    with archive.open(entry) as file:
        data = file.read(entry.file_size + 1)
    head = io.BytesIO(data)
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(head)
    size = len(data) - head.tell()
    if dtype.kind not in "biufU" or len(shape) != 1 or shape[0] * dtype.itemsize != size or shape[0] < 0:
        raise DataError(
            f"The column has the shape {shape} and type {str(dtype)[:40]}, in {size} bytes.",
            where=where,
            fix="one number, flag or text per row is needed",
        )
    return np.frombuffer(data, dtype=dtype, offset=head.tell())
