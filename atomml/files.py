"""Writing files so that a crash, a kill or a full disk never leaves half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atomml.errors import AtommlError, DataError

__all__ = ["full_disk", "replace_file", "sync_folder", "write_atomically"]


def replace_file(path: Path, data: bytes) -> None:
    """Write to a temporary name beside ``path``, flush to the disk, then rename: all or nothing.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes, *, error: type[AtommlError] = DataError) -> None:
    """`replace_file` for a file that a user asked for.

    Raises:
        AtommlError: of the kind ``error``: the file cannot be written; what was there before is untouched.
    """
    try:
        replace_file(path, data)
    except OSError as problem:
        raise error(
            f"Cannot write the file ({problem.strerror}); what was there before is untouched.",
            where=str(path),
            fix="free some space or choose another folder",
        ) from problem


@contextmanager
def full_disk(folder: Path, *, error: type[AtommlError] = DataError) -> Iterator[None]:
    """Say what to do when the disk is full in the middle of work that can go on.

    Raises:
        AtommlError: of the kind ``error``: it is.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise error(
            "The disk is full; what is finished is safe.",
            where=str(folder),
            fix="free some space, then go on with --resume",
        ) from problem
