"""LMDB files inside of ``.tar`` and ``.tar.gz`` archives: streamed, one at a time in an unnamed temporary file."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from atomml.datasets.safe.lmdb_file import LmdbFile
from atomml.errors import DataError

__all__ = ["archive_members", "is_archive", "open_member"]

ENDINGS = (".tar", ".tar.gz", ".tgz")
CHUNK = 1 << 20
EXPANSION, ALLOWANCE = 50, 1 << 26  # bytes of members per byte of archive, and what every archive may have
LONGEST_HEADER = 1 << 16  # bytes of an extended header (long names); tarfile reads them whole
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar archive that can be streamed."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def archive_members(path: Path, suffix: str, *, unpack: bool = True) -> Iterator[tuple[str, LmdbFile | None]]:
    """Name and content of the members that end in ``suffix``, in the order of the archive.

    Each is copied to an unnamed temporary file in ``TMPDIR``, which is gone as soon as the object is, whatever
    happens to the process. Nothing is ever written under a name from the archive.

    Args:
        path: the archive.
        suffix: of the members.
        unpack: False for names only (None in place of the content).

    Raises:
        DataError: not a tar archive, damaged or truncated; a member with an absolute name or ``..``, a link, a
            device or a sparse file, twice the same name; more data than an archive of this size can honestly
            hold, or than the disk has room for.
    """
    where = str(path)
    seen: set[str] = set()
    try:
        limit = EXPANSION * path.stat().st_size + ALLOWANCE
        with (
            _stream(path) as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=_Member) as tar,
        ):
            for member in tar:
                _check(member, where)
                limit -= member.size
                if limit < 0:
                    raise DataError(
                        f"The archive expands to more than {EXPANSION} times its size.",
                        where=f"{where}:{member.name[:200]}",
                        fix="unpack it by hand if you trust it, and name the folder",
                    )
                if not member.isreg() or not _wanted(member.name, suffix):
                    continue
                if member.name in seen:
                    raise DataError("The archive has two members of one name.", where=_label(path, member))
                seen.add(member.name)
                yield member.name, _unpacked(tar, member, path) if unpack else None
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(
            f"The archive is damaged or not a tar archive ({type(error).__name__}: {str(error)[:200]}).",
            where=where,
            fix="download it again",
        ) from error


def open_member(path: Path, name: str, suffix: str) -> LmdbFile:
    """One member of an archive; the members asked for in their order cost one pass over the archive.

    Raises:
        DataError: no such member; see `archive_members`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"The archive cannot be opened ({error.strerror}).", where=str(path)) from error
    key = (path, suffix, status.st_ino, status.st_size, status.st_mtime_ns, os.getpid())
    return _cursor(*key).open(name)


@lru_cache(maxsize=2)
def _cursor(path: Path, suffix: str, *_: int) -> _Cursor:
    return _Cursor(path, suffix)


class _Cursor:
    """Where a process is in an archive, and the member that it unpacked last."""

    def __init__(self, path: Path, suffix: str) -> None:
        self.path, self.suffix = path, suffix
        self.members = archive_members(path, suffix)
        self.name: str | None = None
        self.lmdb: LmdbFile | None = None
        self.lock = threading.Lock()

    def open(self, name: str) -> LmdbFile:
        with self.lock:
            if self.name == name and self.lmdb is not None:
                return self.lmdb
            for start_again in (False, True):
                if start_again:
                    self.members = archive_members(self.path, self.suffix)
                self.name = self.lmdb = None
                for found, lmdb in self.members:
                    if found == name and lmdb is not None:
                        self.name, self.lmdb = name, lmdb
                        return lmdb
        raise DataError("The archive has no such member.", where=f"{self.path}:{name}")


class _Member(tarfile.TarInfo):
    """A member whose extended headers are bounded before tarfile reads them into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in EXTENDED and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def _stream(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")


def _wanted(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and not PurePosixPath(name).name.startswith("._")  # macOS adds such files


def _label(path: Path, member: tarfile.TarInfo) -> str:
    return f"{path}:{member.name[:200]}"


def _check(member: tarfile.TarInfo, where: str) -> None:
    name = member.name
    problem = None
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        problem = "has an absolute name"
    elif ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        problem = "has `..` in its name"
    elif member.issparse():
        problem = "is a sparse file"
    elif not (member.isreg() or member.isdir()):
        problem = "is a link, a device or something else that is not a file"
    elif member.size < 0:
        problem = "has a negative size"
    if problem is not None:
        raise DataError(
            f"A member of the archive {problem}.",
            where=f"{where}:{name[:200]}",
            fix="an archive of data has no such members: do not use it unless you know where it is from",
        )


def _unpacked(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> LmdbFile:
    label = _label(path, member)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if member.size > free:
        raise DataError(
            f"The member has {member.size} bytes, but the temporary folder has room for {free}.",
            where=label,
            fix="set TMPDIR to a folder with more room, or unpack the archive",
        )
    source = tar.extractfile(member)
    with tempfile.TemporaryFile() as out:
        copied = 0
        while source is not None and (chunk := source.read(CHUNK)):
            out.write(chunk)
            copied += len(chunk)
        if copied != member.size:
            raise DataError(f"The member ends after {copied} of {member.size} bytes.", where=label)
        out.flush()
        try:
            lmdb = LmdbFile(Path(f"/dev/fd/{out.fileno()}"))
        except DataError as error:
            raise DataError(error.what, where=label, fix=error.fix) from error
    lmdb.path = Path(label)
    return lmdb
