"""Append-only files of records that survive a kill and a full disk at any moment, and locks of folders.

A line is the first 16 hexadecimal digits of the SHA-256 of what follows, a space, and a JSON object. Only the last
line can be torn.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from atomml.errors import AtommlError, ConfigError, DataError
from atomml.files import sync_folder

__all__ = ["RecordFile", "is_locked", "line_of", "lock_folder", "record_of"]

HASH = 16  # hexadecimal digits before each record
TRIES, PAUSE = 5, 0.05  # of taking a lock, s
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that do not have them

Open = TypeVar("Open", bound="RecordFile")


def line_of(record: Mapping[str, Any]) -> bytes:
    """A line with the checksum of its record."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    return _hash(body) + b" " + body + b"\n"


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if the line is torn or damaged."""
    head, _, body = line.removesuffix(b"\n").partition(b" ")
    return json.loads(body) if line.endswith(b"\n") and _hash(body) == head else None


class RecordFile:
    """An append-only file of records that one process at a time has open; a context manager.

    Args:
        path: made if absent, with its folder.
        lock: the file whose lock keeps other processes out.
        busy: raised if another process has it.
        unwritable: makes what is raised if the disk is full or refuses.

    Attributes:
        path: of the file.
        size: where the lines end that count; `write_record` cuts off what is behind.

    Raises:
        AtommlError: one of these.
    """

    def __init__(
        self, path: Path, *, lock: Path, busy: AtommlError, unwritable: Callable[[OSError], AtommlError]
    ) -> None:
        self.path, self.size, self._unwritable = path, 0, unwritable
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_file(lock)
            self.file = path.open("a+b", buffering=0)
            sync_folder(path.parent)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise unwritable(error) from error

    def __enter__(self: Open) -> Open:  # beartype, in tests, does not take Self here
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have it."""
        self.file.close()
        self._lock.close()

    def write_record(self, record: Mapping[str, Any]) -> bytes:
        """Add a record; it is on the disk when this returns. The line that holds it.

        Raises:
            AtommlError: it cannot be written; the lines before it are as they were.
        """
        line = line_of(record)
        try:
            _append(self.file, line, self.size)
        except OSError as error:
            raise self._unwritable(error) from error
        self.size += len(line)
        return line


def lock_folder(folder: Path) -> BinaryIO:
    """Lock ``.lock`` in a folder, which is made if absent, until it is closed or the process ends.

    Raises:
        ConfigError: another process has it.
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _lock_file(folder / ".lock")
    except BlockingIOError:
        raise ConfigError(
            "Another process is at work in this folder.",
            where=str(folder),
            fix="wait for it or stop it, or choose another folder",
        ) from None
    except OSError as error:
        raise DataError(
            f"Cannot write to this folder ({error.strerror}).",
            where=str(folder),
            fix="free some disk space or choose another folder",
        ) from error


def is_locked(path: Path) -> bool:
    """Whether a process has the lock."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, ImportError):
        return False
    except BlockingIOError:
        return True
    return False


def _lock_file(path: Path) -> BinaryIO:
    """The open file, locked until it is closed or the process ends, however that ends.

    On Windows, and on file systems without locks, it is only open.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be made.
    """
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # not on Windows
        return file
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:  # perhaps only `is_locked`, for a moment
            time.sleep(PAUSE)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return file
            file.close()
            raise
    file.close()
    raise BlockingIOError


def _append(file: FileIO, line: bytes, size: int) -> None:
    """Write a line at ``size`` of an unbuffered file and flush it; after an OSError nothing of it is left."""
    written = 0
    try:
        file.truncate(size)  # what an earlier error left
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(size)
        raise


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:HASH].encode()
