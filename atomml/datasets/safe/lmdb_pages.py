"""Pages of an LMDB file: where every key and value lies, with nothing in the file taken on trust.

The layout is that of LMDB 0.9 (data version 1) as written by 64-bit little-endian machines.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np

from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = [
    "PAGE_HEADER",
    "LmdbIndex",
    "Meta",
    "damaged",
    "overflow_header",
    "read_at",
    "read_index",
    "read_meta",
]

PAGE_HEADER = 16  # bytes: page number u8, pad u2, flags u2, lower u2, upper u2 (or overflow pages u4)
NODE_HEADER = 8  # bytes: low u2, high u2, flags u2, key size u2
MAGIC, VERSION, NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1
META = struct.Struct("<Q4H2I2Q" + 2 * "I2H5Q" + "2Q")
OVERFLOW = struct.Struct("<Q2HI")
PAGE_KIND = 0x6F  # branch, leaf, overflow, meta, leaf2, sub-page; the other bits are of a running writer
BRANCH, LEAF, OVERFLOW_PAGE, META_PAGE = 1, 2, 4, 8
BIG, SUB_DATABASE, DUPLICATES = 1, 2, 4  # flags of a leaf node
MAX_DEPTH = 32  # of liblmdb's cursor
MAX_KEY = 511  # of liblmdb
CHUNK_BYTES = 1 << 23  # of pages handled at once


class Meta(NamedTuple):
    """The newest state of the file: page size, root and depth of the tree, entries, last page."""

    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


class LmdbIndex(NamedTuple):
    """Entry i: key ``keys[offsets[i]:offsets[i + 1]]``, value of ``sizes[i]`` bytes at byte ``at[i]`` of the file.

    ``overflow[i]``: the value has pages of its own, the first of which starts `PAGE_HEADER` bytes before it.
    """

    page_size: int
    keys: bytes
    offsets: ndarray
    at: ndarray
    sizes: ndarray
    overflow: ndarray


class _Nodes(NamedTuple):
    """Nodes of some pages: row in ``pages``, byte of the node in ``data``, its header."""

    row: ndarray
    at: ndarray
    low: ndarray
    flags: ndarray
    key_size: ndarray


def damaged(what: str, where: str) -> NoReturn:
    """Raise the error for a file whose pages contradict each other."""
    raise DataError(
        f"The LMDB file is truncated or damaged: {what}.",
        where=where,
        fix="copy or download the file again and compare its checksum",
    )


def read_at(fd: int, n: int, at: int, where: str) -> bytes:
    """Exactly ``n`` bytes at byte ``at``.

    Raises:
        DataError: the file ends before, or the medium fails.
    """
    parts, got = [], 0
    while got < n:
        part = _pread(fd, n - got, at + got, where)
        if not part:
            damaged(f"it ends at byte {at + got}, {n} bytes at byte {at} were expected", where)
        parts.append(part)
        got += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _pread(fd: int, n: int, at: int, where: str) -> bytes:
    try:
        return os.pread(fd, n, at)
    except OSError as error:
        raise DataError(f"The file cannot be read ({error.strerror}).", where=where) from error


def read_meta(fd: int, where: str) -> Meta:
    """The newer of the two meta pages.

    Raises:
        DataError: not an LMDB file, one of another machine or version, or a damaged meta page.
    """
    head = _pread(fd, META.size, 0, where)
    _check_kind(head, where)
    first = _meta(head, 0, where)
    second = _meta(read_at(fd, META.size, first.page_size, where), 1, where)
    if first.page_size != second.page_size:
        damaged("its two meta pages state different page sizes", where)
    return second if second.transaction > first.transaction else first


def _check_kind(head: bytes, where: str) -> None:
    if len(head) < META.size:
        raise DataError(f"This is not an LMDB file: it has only {len(head)} bytes.", where=where)
    little, big = MAGIC.to_bytes(4, "little"), MAGIC.to_bytes(4, "big")
    if head[16:20] == big or head[12:16] in (little, big):
        kind = "32-bit" if head[12:16] in (little, big) else "big-endian"
        raise DataError(
            f"This LMDB file was written on a {kind} machine; only 64-bit little-endian files can be read.",
            where=where,
            fix="dump it there with mdb_dump and load it here with mdb_load",
        )
    if head[16:20] != little:
        raise DataError("This is not an LMDB file (its first bytes are others).", where=where)


def _meta(page: bytes, number: int, where: str) -> Meta:
    pgno, _, kind, _, _, magic, version, _, _, *rest = META.unpack(page)
    page_size, _, _, _, _, _, _, free_root = rest[:8]
    _, flags, depth, _, _, _, entries, root = rest[8:16]
    last_page, transaction = rest[16:]
    if magic != MAGIC or pgno != number or kind & PAGE_KIND != META_PAGE:
        damaged(f"its meta page {number} is not one", where)
    if version != VERSION:
        raise DataError(
            f"The LMDB file has data version {version}, not {VERSION}.",
            where=where,
            fix="write it with LMDB 0.9",
        )
    if page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768) or not 1 <= last_page < 2**47:
        damaged(f"it states pages of {page_size} bytes and a last page {last_page}", where)
    for name, page_number in (("tree", root), ("free list", free_root)):
        if page_number != NO_PAGE and not 2 <= page_number <= last_page:
            damaged(f"the root of its {name} is page {page_number} of {last_page}", where)
    return Meta(page_size, flags, depth, entries, root, last_page, transaction)


def read_index(fd: int, where: str) -> LmdbIndex:
    """Walk the tree level by level; every page, node and value range is checked against the file.

    Only branch and leaf pages are read, not the values.

    Raises:
        DataError: see `read_meta`; pages, nodes or values that are out of bounds, shared or in a circle;
            keys out of order; another number of entries than stated; named databases or duplicate keys.
    """
    meta = read_meta(fd, where)
    if meta.flags:
        _unsupported(
            f"its unnamed database has flags {meta.flags:#x} (duplicate, reversed or integer keys)", where
        )
    if meta.root == NO_PAGE:
        if meta.entries:
            damaged(f"it states {meta.entries} entries but has no tree", where)
        return _index(meta.page_size, [])
    if not 1 <= meta.depth <= MAX_DEPTH:
        damaged(f"it states a tree of depth {meta.depth}", where)
    level = np.array([meta.root], dtype=np.int64)
    tree = level
    for _ in range(meta.depth - 1):
        level = np.concatenate(
            [
                _children(nodes, pages, meta, where)
                for pages, _, nodes in _nodes(fd, level, BRANCH, meta, where)
            ]
        )
        tree = np.concatenate([tree, level])
        if len(np.unique(tree)) != len(tree):
            damaged("a page of its tree is reached twice", where)
    size = os.fstat(fd).st_size
    parts = [
        _entries(data, nodes, pages, meta, size, where)
        for pages, data, nodes in _nodes(fd, level, LEAF, meta, where)
    ]
    index = _index(meta.page_size, parts)
    _check_index(index, tree, meta, where)
    return index


def overflow_header(header: bytes, page: int, page_size: int, size: int, where: str) -> None:
    """Check the header of a value's own pages.

    Raises:
        DataError: it is another page, or has fewer pages than the value needs.
    """
    pgno, _, kind, pages = OVERFLOW.unpack(header)
    if pgno != page or kind & PAGE_KIND != OVERFLOW_PAGE or pages < _pages_of(size, page_size):
        damaged(f"page {page} is not the start of a value of {size} bytes", where)


def _pages_of(size: Any, page_size: int) -> Any:
    return -(-(PAGE_HEADER + size) // page_size)


def _unsupported(what: str, where: str) -> NoReturn:
    raise DataError(
        f"This LMDB file is of another kind: {what}.",
        where=where,
        fix="copy its records into a file with one unnamed database and single values",
    )


def _nodes(
    fd: int, level: ndarray, kind: int, meta: Meta, where: str
) -> Iterator[tuple[ndarray, ndarray, _Nodes]]:
    """Page numbers, bytes and nodes of the pages of a level, some megabytes at a time."""
    step = CHUNK_BYTES // meta.page_size
    for start in range(0, len(level), step):
        pages = level[start : start + step]
        runs = np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1)
        data = np.frombuffer(
            b"".join(
                read_at(fd, len(run) * meta.page_size, int(run[0]) * meta.page_size, where) for run in runs
            ),
            dtype=np.uint8,
        )
        yield pages, data, _nodes_of(data, pages, kind, meta, where)


def _nodes_of(data: ndarray, pages: ndarray, kind: int, meta: Meta, where: str) -> _Nodes:
    size = meta.page_size
    words = data.view("<u2")
    heads = words.reshape(len(pages), size // 2)[:, :8].astype(np.int64)
    numbers = data.reshape(len(pages), size)[:, :8].copy().view("<u8")[:, 0]
    lower, upper = heads[:, 6], heads[:, 7]
    name = "branch" if kind == BRANCH else "leaf"
    bad = (numbers != pages.astype(np.uint64)) | (heads[:, 5] & PAGE_KIND != kind)
    _refuse(bad, pages, f"is not the {name} page that it should be", where)
    bad = (lower <= PAGE_HEADER) | (lower % 2 == 1) | (lower > upper) | (upper > size)
    _refuse(bad, pages, "has bounds outside itself", where)
    counts = (lower - PAGE_HEADER) // 2
    row = np.repeat(np.arange(len(pages)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    pointer = words[row * (size // 2) + PAGE_HEADER // 2 + nth].astype(np.int64)
    bad = (pointer < upper[row]) | (pointer % 2 == 1) | (pointer + NODE_HEADER > size)
    _refuse(bad, pages[row], "has a node outside itself", where)
    at = row * size + pointer
    low, high, flags, key_size = (words[at // 2 + k].astype(np.int64) for k in range(4))
    low |= high << 16
    used = NODE_HEADER + key_size + (0 if kind == BRANCH else np.where(flags & BIG, 8, low))
    _refuse(pointer + used > size, pages[row], "has a node that reaches beyond it", where)
    total = np.bincount(row, weights=used, minlength=len(pages))
    _refuse(total > size - upper, pages, "has nodes that overlap", where)
    return _Nodes(row, at, low, flags, key_size)


def _children(nodes: _Nodes, pages: ndarray, meta: Meta, where: str) -> ndarray:
    children = nodes.low | nodes.flags << 32
    bad = (children < 2) | (children > meta.last_page)
    _refuse(bad, pages[nodes.row], "points to a page outside the file", where)
    return children


def _entries(
    data: ndarray, nodes: _Nodes, pages: ndarray, meta: Meta, file_size: int, where: str
) -> tuple[bytes, ndarray, ndarray, ndarray, ndarray]:
    """Keys (joined), key sizes, places and sizes of the values, and which have pages of their own."""
    of, flags = pages[nodes.row], nodes.flags
    if (flags & SUB_DATABASE).any():
        _unsupported("it holds named databases", where)
    if (flags & DUPLICATES).any():
        _unsupported("it holds several values for a key", where)
    _refuse((flags & ~BIG) != 0, of, "has a node of an unknown kind", where)
    bad = (nodes.key_size == 0) | (nodes.key_size > MAX_KEY)
    _refuse(bad, of, f"has a key that is empty or longer than {MAX_KEY} bytes", where)
    starts = nodes.at + NODE_HEADER
    ends = np.cumsum(nodes.key_size)
    places = np.repeat(starts - (ends - nodes.key_size), nodes.key_size) + np.arange(ends[-1])
    at = of * meta.page_size + nodes.at - nodes.row * meta.page_size + NODE_HEADER + nodes.key_size
    big = flags & BIG != 0
    if big.any():
        own = data[(starts + nodes.key_size)[big, None] + np.arange(8)].copy().view("<u8")[:, 0]
        _refuse((own < 2) | (own > meta.last_page), of[big], "points to a value outside the file", where)
        at[big] = own.astype(np.int64) * meta.page_size + PAGE_HEADER
    _refuse(at + nodes.low > file_size, of, f"has a value beyond the file's {file_size} bytes", where)
    return data[places].tobytes(), nodes.key_size, at, nodes.low, big


def _index(page_size: int, parts: list[tuple[bytes, ndarray, ndarray, ndarray, ndarray]]) -> LmdbIndex:
    keys, lengths, at, sizes, overflow = zip(*parts, strict=True) if parts else ((),) * 5
    empty = np.zeros(0, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([empty, *lengths]))]).astype(np.int64)
    return LmdbIndex(
        page_size,
        b"".join(keys),
        offsets,
        np.concatenate([empty, *at]),
        np.concatenate([empty, *sizes]),
        np.concatenate([np.zeros(0, dtype=np.bool_), *overflow]),
    )


def _check_index(index: LmdbIndex, tree: ndarray, meta: Meta, where: str) -> None:
    n = len(index.at)
    if n != meta.entries:
        damaged(f"it has {n} entries and states {meta.entries}", where)
    bounds, keys = index.offsets.tolist(), index.keys
    last = b""
    for k in range(n):
        key = keys[bounds[k] : bounds[k + 1]]
        if key <= last:
            damaged(f"key {k} ({key[:20]!r}) does not follow the one before", where)
        last = key
    first = index.at[index.overflow] // meta.page_size
    count = _pages_of(index.sizes[index.overflow], meta.page_size)
    starts = np.concatenate([tree, first])
    stops = np.concatenate([tree + 1, first + count])
    order = np.argsort(starts, kind="stable")
    if (starts[order][1:] < stops[order][:-1]).any():
        damaged("two values, or a value and the tree, share a page", where)


def _refuse(bad: ndarray, pages: ndarray, what: str, where: str) -> None:
    if bad.any():
        damaged(f"page {int(pages[np.argmax(bad)])} {what}", where)
