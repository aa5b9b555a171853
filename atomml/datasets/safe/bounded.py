"""Compressed bytes, compressed files and JSON of unknown origin, read within stated bounds."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

import orjson

from atomml.errors import DataError

fast_zlib: Any = zlib
try:
    from isal import isal_zlib

    fast_zlib = isal_zlib  # rows of databases are inflated twice as fast
except ImportError:  # no wheel for this platform
    pass

__all__ = ["gzip_decompress", "open_compressed", "parse_json", "zlib_decompress"]

CHUNK = 1 << 16  # bytes of input handed over at once; more than the limit is inflated by no more than this
XZ_MEMORY = 100 << 20  # bytes; xz -9 needs 65 MiB to be read
JSON_BYTES = 1 << 28
JSON_DEPTH = 100
MOST_DIGITS = 300
_GZIP = 31  # zlib's window bits for a gzip header
_NOT_FINITE = re.compile(rb"NaN|Infinity")
_FIX_LIMIT = "if the file is what you expect, read it with a higher limit; otherwise get it again"
_FIX_DAMAGED = "get the file again: it is damaged or not of this kind"


def _too_much(limit: int, where: str) -> DataError:
    return DataError(
        f"more than {limit:,} bytes come out of the compressed data", where=where, fix=_FIX_LIMIT
    )


def _damaged(kind: str, reason: object, where: str) -> DataError:
    return DataError(f"the {kind} data cannot be read: {reason}", where=where, fix=_FIX_DAMAGED)


def zlib_decompress(data: bytes, *, limit: int, where: str) -> bytes:
    """Inflate one zlib stream (header ``78 ..``) that ends where ``data`` ends.

    Args:
        data: the stream.
        limit: greatest size of the result in bytes.
        where: file and record, for the error.

    Raises:
        DataError: truncated, damaged, followed by other bytes, or larger than ``limit``.
    """
    stream = fast_zlib.decompressobj()
    out = _inflated(stream, data, "zlib", fast_zlib.error, limit, where)
    if not stream.eof:
        raise _damaged("zlib", "it ends too early", where)
    if stream.unused_data:
        raise _damaged("zlib", f"{len(stream.unused_data)} bytes follow its end", where)
    return out


def _inflated(stream: Any, data: bytes, kind: str, damage: type[Exception], limit: int, where: str) -> bytes:
    try:
        out: bytes = stream.decompress(data, limit + 1)
    except damage as error:
        raise _damaged(kind, error, where) from None
    if len(out) > limit:
        raise _too_much(limit, where)
    return out


def gzip_decompress(data: bytes, *, limit: int, where: str) -> bytes:
    """Inflate one or more gzip members that end where ``data`` ends (zeros may follow).

    Args:
        data: the members.
        limit: greatest size of the result in bytes.
        where: file and record, for the error.

    Raises:
        DataError: truncated, damaged, followed by other bytes, or larger than ``limit``.
    """
    stream = zlib.decompressobj(_GZIP)
    out = _inflated(stream, data, "gzip", zlib.error, limit, where)
    if stream.eof and not stream.unused_data:
        return out
    return _Inflated(io.BytesIO(data), _Gzip, "gzip", limit, where).readall()


@runtime_checkable
class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's gzip decompressor with the interface of those of lzma and bz2."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length
        return out

    _full = False


def _xz() -> _Decompressor:
    return cast(_Decompressor, lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY))


def _bz2() -> _Decompressor:
    return cast(_Decompressor, bz2.BZ2Decompressor())


class _Inflated(io.RawIOBase):
    """The uncompressed side of a file of one or more compressed streams, bounded in size."""

    def __init__(self, source: Any, start: Any, kind: str, limit: int, where: str) -> None:
        self._source, self._start, self._kind = source, start, kind
        self._left, self._limit, self._where = limit, limit, where
        self._stream: _Decompressor = start()
        self._input = b""
        self._done = False
        self.name, self.mode = where, "rb"  # a BinaryIO has both

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        out = self._next(len(buffer))
        buffer[: len(out)] = out
        return len(out)

    def readall(self) -> bytes:
        parts = []
        while part := self._next(CHUNK):
            parts.append(part)
        return b"".join(parts)

    def _next(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end only."""
        while size and not self._done:
            if self._stream.eof:
                self._next_stream()
                continue
            if not self._input and self._stream.needs_input:
                self._input = self._source.read(CHUNK // 4)
                if not self._input:
                    raise _damaged(self._kind, "it ends too early", self._where)
            given, self._input = self._input, b""
            try:
                out = self._stream.decompress(given, min(size, self._left + 1))
            except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
                raise _damaged(self._kind, error, self._where) from None
            self._left -= len(out)
            if self._left < 0:
                raise _too_much(self._limit, self._where)
            if out:
                return out
        return b""

    def _next_stream(self) -> None:
        """Pass over the zeros between streams; the end of the file after a stream is the end."""
        rest = self._stream.unused_data
        while not (rest := rest.lstrip(b"\0")):
            rest = self._source.read(CHUNK // 4)
            if not rest:
                self._done = True
                return
        self._input, self._stream = rest, self._start()


class _Bounded(io.RawIOBase):
    """A plain file of at most ``limit`` bytes."""

    def __init__(self, source: BinaryIO, limit: int, where: str) -> None:
        self._source, self._left, self._limit, self._where = source, limit, limit, where
        self.name, self.mode = where, "rb"

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        out = self._source.read(len(buffer))
        self._left -= len(out)
        if self._left < 0:
            raise DataError(f"larger than {self._limit:,} bytes", where=self._where, fix=_FIX_LIMIT)
        buffer[: len(out)] = out
        return len(out)


_KINDS = {".gz": ("gzip", _Gzip), ".xz": ("xz", _xz), ".bz2": ("bzip2", _bz2)}


def open_compressed(path: Path, *, limit: int, where: str) -> BinaryIO:
    """Open a file for reading, through its decompressor where its name ends in .gz, .xz or .bz2.

    The bytes are read and inflated as they are asked for. Streams that follow one another in the file are
    joined, as gzip, xz and bzip2 do.

    Args:
        path: the file.
        limit: greatest number of uncompressed bytes in all.
        where: file, for the errors.

    Raises:
        DataError: the file cannot be opened or its compression is not supported; and from ``read``, where it is
            truncated, damaged, larger than ``limit``, or needs more than 100 MiB to be inflated (xz).
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".zst", ".lz4", ".br", ".z", ".lzma", ".zip", ".7z"):
        raise DataError(
            f"files compressed as {suffix} are not read", where=where, fix="compress as .gz, .xz or .bz2"
        )
    try:
        source = Path(path).open("rb")  # noqa: SIM115  (closed with what is returned)
    except OSError as error:
        raise DataError(
            f"the file cannot be opened: {error.strerror}", where=where, fix="check the path"
        ) from None
    raw: io.RawIOBase
    if suffix in _KINDS:
        kind, start = _KINDS[suffix]
        raw = _Inflated(source, start, kind, limit, where)
    else:
        raw = _Bounded(source, limit, where)
    return cast(BinaryIO, io.BufferedReader(raw, buffer_size=CHUNK))


def parse_json(data: bytes, *, where: str, nan: bool = False, limit: int = JSON_BYTES) -> Any:
    """Parse one JSON document of at most ``limit`` bytes and 100 levels.

    Whole numbers beyond 64 bits become floats; of repeated keys the last one holds.

    Args:
        data: UTF-8 text.
        where: file and record, for the error.
        nan: whether ``NaN``, ``Infinity`` and ``-Infinity``, which are not JSON but are written by many
            programs, are read as such numbers.
        limit: greatest number of bytes.

    Raises:
        DataError: not JSON, too deep, too large, or a number that is not finite where ``nan`` is False.
    """
    if len(data) > limit:
        raise DataError(f"JSON of {len(data):,} bytes, more than {limit:,}", where=where, fix=_FIX_LIMIT)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        value = _parse_not_finite(data, error, where, nan)
    if data.count(b"[") + data.count(b"{") > JSON_DEPTH and _deeper(value, JSON_DEPTH):
        raise DataError(f"JSON of more than {JSON_DEPTH} levels", where=where, fix=_FIX_DAMAGED)
    return value


def _parse_not_finite(data: bytes, error: Exception, where: str, nan: bool) -> Any:
    if not _NOT_FINITE.search(data):
        raise _damaged("JSON", error, where) from None
    if not nan:
        raise DataError(
            f"the JSON cannot be read ({error}): it may hold NaN or Infinity",
            where=where,
            fix="correct or remove the record: a label that is not finite cannot be used",
        ) from None
    try:
        return json.loads(data.decode("utf-8"), parse_int=_int)
    except (ValueError, RecursionError) as second:
        raise _damaged("JSON", second, where) from None


def _int(text: str) -> int | float:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits")
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else float(value)  # as orjson reads it


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than ``levels``."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            kinds = set(map(type, children))
            if dict in kinds or list in kinds:
                below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return False
        level = below
    return bool(level)
