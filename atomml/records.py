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
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from atomml.errors import ConfigError, DataError

__all__ = ["append_line", "is_locked", "line_of", "lock_file", "lock_folder", "record_of"]

HASH = 16  # hexadecimal digits before each record
TRIES, PAUSE = 5, 0.05  # of taking a lock, s
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that do not have them


def line_of(record: Mapping[str, Any]) -> bytes:
    """A line with the checksum of its record."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    return _hash(body) + b" " + body + b"\n"


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if the line is torn or damaged."""
    head, _, body = line.removesuffix(b"\n").partition(b" ")
    return json.loads(body) if line.endswith(b"\n") and _hash(body) == head else None


def append_line(file: FileIO, line: bytes, size: int) -> None:
    """Add a line to an unbuffered file whose whole lines end at ``size``; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; the file is as it was before.
    """
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


def lock_file(path: Path) -> BinaryIO:
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


def lock_folder(folder: Path) -> BinaryIO:
    """`lock_file` of ``.lock`` in a folder, which is made if absent.

    Raises:
        ConfigError: another process has it.
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lock_file(folder / ".lock")
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


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:HASH].encode()
