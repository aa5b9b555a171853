"""Frames of the extended XYZ that OC20 is shipped in, read as fast as Python allows.

The grammar is that of the raw shards: the number of atoms; ``Lattice="..." Properties=... energy=... pbc="T T T"``;
one line per atom. Columns are found by ``Properties``. Numbers are the float64 nearest to the text, as in ASE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers

from atomml.datasets.readers.oc20.common import finite
from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = ["TextBlock", "TextFrame", "parse_block", "text_blocks"]

BLOCK = 1 << 20  # bytes read at a time
LONGEST_LINE = 1 << 16
MOST_ATOMS = 1_000_000
_PAIR = re.compile(rb'([^\s="]+)=(?:"([^"]*)"|(\S+))')
_SYMBOLS = {symbol.encode(): z for symbol, z in atomic_numbers.items() if z > 0}
_FLAGS = {b"T": True, b"F": False}
_KINDS = {"species": ("S", 1), "pos": ("R", 3), "move_mask": ("L", 1), "tags": ("I", 1), "forces": ("R", 3)}
_USED = {b"Lattice", b"Properties", b"energy", b"pbc"}


class TextBlock(NamedTuple):
    """The lines of one frame."""

    comment: bytes
    atoms: list[bytes]


class TextFrame(NamedTuple):
    """What one frame says, as it says it; None for what it does not have.

    Attributes:
        numbers: atomic numbers [N].
        positions: Å [N, 3].
        cell: rows are the lattice vectors, Å [3, 3].
        pbc: [3].
        energy: total energy, eV (``energy``, not ``free_energy``).
        forces: eV/Å [N, 3], raw.
        fixed: the opposite of ``move_mask`` [N].
        atom_tags: [N].
        unused: keys and columns that were not read.
    """

    numbers: Int64[ndarray, " atoms"]
    positions: Float64[ndarray, "atoms 3"]
    cell: Float64[ndarray, "3 3"]
    pbc: Bool[ndarray, " 3"]
    energy: float | None
    forces: Float64[ndarray, "atoms 3"] | None
    fixed: Bool[ndarray, " atoms"] | None
    atom_tags: Int64[ndarray, " atoms"] | None
    unused: tuple[str, ...]


class Layout(NamedTuple):
    """Columns of an atom line: first column by name, width of all, names that are not read."""

    first: dict[str, int]
    width: int
    unused: tuple[str, ...]


def text_blocks(read: Callable[[int], bytes], where: str) -> Iterator[TextBlock]:
    """The frames of an open file, one after the other.

    Args:
        read: of the file; it is asked for some bytes at a time.
        where: the file.

    Raises:
        DataError: a line that is not a number of atoms where one must be, a file that ends within a frame, an
            endless line; whatever ``read`` raises for damaged compression.
    """
    lines = _Lines(read)
    k = 0
    while True:
        at = f"{where}, frame {k} (counting from 0)"
        head = lines.take(1, at)
        if not head or (not head[0].strip() and not lines.more(at)):
            return
        if not head[0].strip().isdigit() or not 0 < int(head[0]) <= MOST_ATOMS:
            raise DataError(
                f"A frame begins with its number of atoms, this line is {head[0][:40]!r}.",
                where=at,
                fix="the file may be damaged: get it again, or skip the rest of it (on_error: skip)",
            )
        n = int(head[0])
        body = lines.take(n + 1, at)
        if len(body) < n + 1:
            raise DataError(
                f"The file ends within a frame: {max(len(body) - 1, 0)} of {n} atoms are there.",
                where=at,
                fix="the file is truncated: get it again, or skip the frame (on_error: skip)",
            )
        yield TextBlock(body[0], body[1:])
        k += 1


class _Lines:
    """Lines of a file in bulk; never more than a block and a line in memory beyond what is asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._lines: list[bytes] = []
        self._next, self._rest, self._end = 0, b"", False

    def take(self, count: int, where: str) -> list[bytes]:
        """The next ``count`` lines, fewer at the end of the file."""
        while len(self._lines) - self._next < count and not self._end:
            self._fill(where)
        taken = self._lines[self._next : self._next + count]
        self._next += len(taken)
        return taken

    def more(self, where: str) -> bool:
        """Whether there is anything but white space ahead."""
        while not self._end and not any(line.strip() for line in self._lines[self._next :]):
            self._lines, self._next = [], 0
            self._fill(where)
        return any(line.strip() for line in self._lines[self._next :])

    def _fill(self, where: str) -> None:
        block = self._read(BLOCK)
        self._end = not block
        text = self._rest + block
        lines = text.split(b"\n")
        self._rest = b"" if self._end else lines.pop()
        if self._end and not lines[-1]:
            lines.pop()
        if len(self._rest) > LONGEST_LINE:
            raise DataError(
                f"A line is longer than {LONGEST_LINE} bytes.", where=where, fix="get the file again"
            )
        self._lines = self._lines[self._next :] + lines
        self._next = 0


def parse_block(block: TextBlock, where: str) -> TextFrame:
    """Numbers of one frame.

    Raises:
        DataError: a missing or malformed key, an unknown element, a line with another number of columns, a word
            that is not a number or a flag.
    """
    pairs = {key: quoted or plain for key, quoted, plain in _PAIR.findall(block.comment)}
    layout = _layout(pairs.get(b"Properties", b"").decode("ascii", "replace"), where)
    text = b" ".join(block.atoms)
    words = text.split()
    width, n = layout.width, len(block.atoms)
    try:
        if len(words) != width * n:
            raise ValueError("columns")
        columns = {name: words[at::width] for name, at in layout.first.items()}
        numbers = np.array([_SYMBOLS[word] for word in columns["species"]], dtype=np.int64)
        positions = _vectors(words, layout.first["pos"], width)
        forces = _vectors(words, layout.first["forces"], width) if "forces" in columns else None
        mask = [_FLAGS[word] for word in columns["move_mask"]] if "move_mask" in columns else None
        tags = [int(word) for word in columns["tags"]] if "tags" in columns else None
        if b"_" in text:  # Python reads 1_0 as ten
            raise ValueError("underscore")
    except (ValueError, KeyError) as error:
        raise _line_error(block.atoms, layout, where) from error
    energy = pairs.get(b"energy")
    return TextFrame(
        numbers,
        positions,
        _cell(pairs.get(b"Lattice"), where),
        _pbc(pairs.get(b"pbc", b"T T T"), where),
        None if energy is None else finite(energy, "energy", where),
        forces,
        None if mask is None else ~np.array(mask, dtype=np.bool_),
        None if tags is None else np.array(tags, dtype=np.int64),
        (*layout.unused, *(key.decode("utf-8", "replace") for key in pairs.keys() - _USED)),
    )


def _vectors(words: list[bytes], at: int, width: int) -> Float64[ndarray, "atoms 3"]:
    rows = np.empty((len(words) // width, 3))
    for k in range(3):
        rows[:, k] = list(map(float, words[at + k :: width]))
    return rows


@lru_cache(maxsize=64)
def _columns(properties: str) -> Layout:
    fields = properties.split(":")
    if len(fields) % 3:
        raise ValueError(properties)
    first: dict[str, int] = {}
    unused, at = [], 0
    for name, kind, count in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        size = int(count)
        if size < 1 or name in first:
            raise ValueError(properties)
        if _KINDS.get(name) == (kind, size):
            first[name] = at
        else:
            unused.append(name)
        at += size
    if not {"species", "pos"} <= set(first):
        raise ValueError(properties)
    return Layout(first, at, tuple(unused))


def _layout(properties: str, where: str) -> Layout:
    try:
        return _columns(properties)
    except ValueError as error:
        raise DataError(
            f"Properties must describe species:S:1 and pos:R:3 among the columns, it is {properties[:80]!r}.",
            where=where,
            fix="this is not a frame of OC20: read the file with ASE",
        ) from error


def _cell(text: bytes | None, where: str) -> Float64[ndarray, "3 3"]:
    words = (text or b"").split()
    if len(words) != 9:
        raise DataError(
            f"The Lattice has {len(words)} numbers, not 9.", where=where, fix="get the file again"
        )
    return np.array([finite(word, "Lattice", where) for word in words]).reshape(3, 3)


def _pbc(text: bytes, where: str) -> Bool[ndarray, " 3"]:
    flags = [_FLAGS.get(word) for word in text.split()]
    if len(flags) != 3 or None in flags:
        raise DataError(f"pbc is {text[:40]!r}, not three of T and F.", where=where)
    return np.array(flags, dtype=np.bool_)


def _line_error(atoms: list[bytes], layout: Layout, where: str) -> DataError:
    """The first atom line that cannot be read."""
    numeric = [
        at + k for name in ("pos", "forces") if (at := layout.first.get(name)) is not None for k in range(3)
    ]
    for k, line in enumerate(atoms):
        words = line.split()
        if len(words) != layout.width:
            what = f"has {len(words)} columns, not {layout.width}"
        elif words[layout.first["species"]] not in _SYMBOLS:
            what = f"has the element {words[layout.first['species']].decode('utf-8', 'replace')!r}"
        elif bad := [words[c] for c in numeric if not _is_number(words[c])]:
            what = f"has {bad[0].decode('utf-8', 'replace')!r} for a number"
        elif (at := layout.first.get("move_mask")) is not None and words[at] not in _FLAGS:
            what = f"has {words[at].decode('utf-8', 'replace')!r} for the move_mask T or F"
        elif (at := layout.first.get("tags")) is not None and not words[at].lstrip(b"-").isdigit():
            what = f"has {words[at].decode('utf-8', 'replace')!r} for a tag"
        else:
            continue
        return DataError(
            f"The line of atom {k} {what}.",
            where=where,
            fix="the file may be damaged: get it again, or skip the frame (on_error: skip)",
        )
    return DataError("The atom lines cannot be read.", where=where, fix="get the file again")


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return b"_" not in word
