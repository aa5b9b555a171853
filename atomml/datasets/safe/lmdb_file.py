"""LMDB files (one file, unnamed database) read without liblmdb, which crashes on a truncated or damaged file."""

from __future__ import annotations

import os
import stat
import weakref
from bisect import bisect_left
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from atomml.datasets.safe.lmdb_pages import PAGE_HEADER, damaged, overflow_header, read_at, read_index
from atomml.errors import DataError

__all__ = ["LmdbFile", "open_lmdb"]

MAX_VALUE = 1 << 30  # bytes; a damaged or sparse file could state up to 4 GiB
OPEN_FILES = 64


class LmdbFile:
    """A read-only LMDB file whose tree was checked; get one from `open_lmdb`.

    Values are read with ``pread``: nothing is mapped into memory, nothing is locked, and the object works in
    threads, after a fork and beside other programs that have the file open.

    Attributes:
        path: the file.
        n_entries: number of records.
    """

    def __init__(self, path: Path) -> None:
        where = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise DataError(f"The LMDB file cannot be opened ({error.strerror}).", where=where) from error
        weakref.finalize(self, os.close, self._fd)
        self.path = path
        self._index = read_index(self._fd, where)
        self.n_entries = len(self._index.at)

    def __len__(self) -> int:
        return self.n_entries

    def __reduce__(self) -> tuple[Any, ...]:
        return open_lmdb, (self.path,)

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None.

        Raises:
            DataError: the value's pages are damaged, the file has become shorter, or the value has more than 1 GiB.
        """
        n = bisect_left(range(self.n_entries), key, key=self._key)
        return self.value(n) if n < self.n_entries and self._key(n) == key else None

    def value(self, n: int) -> bytes:
        """The value of the n-th key in byte order; errors as for `get`."""
        index = self._index
        at, size = int(index.at[n]), int(index.sizes[n])
        where = f"{self.path}, key {self._key(n)[:40]!r}"
        if size > MAX_VALUE:
            damaged(f"the value is stated to have {size} bytes (the most is {MAX_VALUE})", where)
        if not index.overflow[n]:
            return read_at(self._fd, size, at, where)
        data = read_at(self._fd, PAGE_HEADER + size, at - PAGE_HEADER, where)
        overflow_header(data[:PAGE_HEADER], at // index.page_size, index.page_size, size, where)
        return data[PAGE_HEADER:]

    def keys(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Keys in byte order, from the ``start``-th to before the ``stop``-th; reads nothing."""
        first, last, _ = slice(start, stop).indices(self.n_entries)
        bounds = self._index.offsets[first : last + 1].tolist() if last > first else []
        return [self._index.keys[a:b] for a, b in pairwise(bounds)]

    def numeric_keys(self) -> list[int]:
        """The numbers, ascending, of the keys that are ASCII digits throughout."""
        return sorted(int(key) for key in self.keys() if key.isdigit())

    def _key(self, n: int) -> bytes:
        offsets = self._index.offsets
        return self._index.keys[offsets[n] : offsets[n + 1]]


def open_lmdb(path: str | Path) -> LmdbFile:
    """An LMDB file, checked page by page; the same object again while the file stays as it is.

    Args:
        path: the file, or a folder with ``data.mdb`` (an environment with ``subdir=True``).

    Raises:
        DataError: no such file, not LMDB (64-bit, little-endian, data version 1), named databases or duplicate
            keys, truncated or damaged.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = file / "data.mdb"
        real = file.resolve(strict=True)
        status = real.stat()
    except OSError as error:
        raise DataError(
            f"There is no LMDB file here ({error.strerror}).", where=str(file), fix="check the path"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError("This is not a regular file.", where=str(file))
    return _opened(real, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, inode: int, size: int, changed: int) -> LmdbFile:
    return LmdbFile(path)
