"""``input.data`` of n2p2 and RuNNer: text blocks from ``begin`` to ``end``, in units that have to be stated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomml.config import Config
from atomml.datasets.frame import Frame, Tag
from atomml.datasets.labels import LabelKeys
from atomml.datasets.readers.documents.structures import element_numbers
from atomml.datasets.readers.labelled import (
    Geometry,
    convert_records,
    labelled_frame,
    new_info,
    note_unread,
    pack_in_batches,
)
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece, Reader
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["READER", "N2p2Options"]

BEGIN = re.compile(rb"^[ \t]*begin[ \t]*\r?$", re.MULTILINE)
CHUNK = 1 << 20
LONGEST_LINE = 4 << 20
LARGEST_FRAME = 256 << 20
ATOM_WORDS = 9  # x y z element charge unused fx fy fz


class N2p2Options(Config):
    """Options of the reader ``n2p2``. The files do not say their units, so that both have to be stated."""

    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] | None = None
    """Unit of the energy; forces are in it per ``length_unit``. RuNNer's convention is Hartree."""
    length_unit: Literal["Ang", "Bohr", "nm"] | None = None
    """Unit of positions and lattice. RuNNer's convention is Bohr."""
    skip_bad: bool = False
    """Leave out structures that cannot be used, and count them, instead of stopping at the first."""


def recognises(path: Path) -> bool:
    """A file ``*.data`` whose first words are ``begin`` and then one that follows it."""
    if not path.is_file() or path.suffix != ".data":
        return False
    with open(path, "rb") as file:
        words = file.read(4096).split()
    return len(words) > 1 and words[0] == b"begin" and words[1] in (b"comment", b"lattice", b"atom")


def pieces(paths: Sequence[Path], options: N2p2Options) -> list[Piece]:
    """Ranges of bytes from one ``begin`` to another, about 5000 structures each."""
    made = []
    for path in paths:
        with open(path, "rb") as file:
            begins = list(_begins(file.read, str(path)))
        if not begins:
            raise DataError("There is no structure in this file.", where=str(path), fix="check the path")
        cuts = [0, *begins[PIECE_FRAMES::PIECE_FRAMES]]
        ends = [*cuts[1:], None]
        made += [
            Piece(path, start, stop, first=k * PIECE_FRAMES)
            for k, (start, stop) in enumerate(zip(cuts, ends, strict=True))
        ]
    return made


def read(piece: Piece, options: N2p2Options) -> FrameStore:
    """Energies and forces; the comment becomes a tag, charges are not read.

    Raises:
        DataError: units that are not stated, a line that cannot be read, an unknown keyword.
    """
    if options.energy_unit is None or options.length_unit is None:
        raise DataError(
            "The file does not say its units.",
            where=str(piece.path),
            fix="state energy_unit and length_unit; RuNNer's convention is Hartree and Bohr",
        )
    keys = LabelKeys(energy_unit=options.energy_unit, length_unit=options.length_unit)
    stated = {"energy_unit": options.energy_unit, "length_unit": options.length_unit}
    info = new_info(piece.path.name, {"energy": "energy", "forces": "atom"}, stated=stated)
    convert = partial(_frame, keys=keys, info=info)
    frames = convert_records(_blocks(piece), convert, skip_bad=options.skip_bad)
    return pack_in_batches(frames, info, where=str(piece.path))


def _begins(read: Callable[[int], bytes], where: str) -> Iterator[int]:
    """Bytes at which the lines ``begin`` start."""
    rest, at = b"", 0
    while chunk := read(CHUNK):
        text = rest + chunk
        cut = text.rfind(b"\n") + 1
        if cut == 0 and len(text) > LONGEST_LINE:
            raise DataError("A line is longer than 4 MiB.", where=f"{where}, byte {at}")
        yield from (at + match.start() for match in BEGIN.finditer(text[:cut]))
        rest, at = text[cut:], at + cut
    yield from (at + match.start() for match in BEGIN.finditer(rest))


def _blocks(piece: Piece) -> Iterator[tuple[str, list[bytes]]]:
    """(where, lines between ``begin`` and ``end``) of every structure."""
    lines: list[bytes] | None = None
    number, size = piece.first, 0
    with open(piece.path, "rb") as file:
        file.seek(piece.start)
        while piece.stop is None or file.tell() < piece.stop:
            line = file.readline(LARGEST_FRAME)
            where = f"{piece.path}, structure {number} (counting from 0)"
            if not line:
                break
            word = line.strip()
            size += len(line)
            if not word:
                continue
            if (word == b"begin") != (lines is None) or size > LARGEST_FRAME:
                raise DataError(
                    "The file is not blocks from `begin` to `end`."
                    if size <= LARGEST_FRAME
                    else "A structure is larger than 256 MiB.",
                    where=f"{where}, before byte {file.tell()}",
                    fix="the file is damaged here",
                )
            if lines is None:
                lines = []
            elif word == b"end":
                yield where, lines
                lines, size, number = None, 0, number + 1
            else:
                lines.append(word)
    if lines is not None:
        raise DataError(
            "The last structure has no `end`.",
            where=f"{piece.path}, structure {number} (counting from 0)",
            fix="the file is truncated: fetch it again",
        )


def _frame(lines: list[bytes], where: str, *, keys: LabelKeys, info: dict[str, Any]) -> Frame:
    parts: dict[bytes, list[list[bytes]]] = {}
    comments = []
    for line in lines:
        words = line.split()
        if words[0] == b"comment":
            comments.append(line[len(b"comment") :].strip().decode("utf-8", "replace"))
        else:
            parts.setdefault(words[0], []).append(words[1:])
    unknown = set(parts) - {b"lattice", b"atom", b"energy", b"charge"}
    if unknown:
        name = min(unknown).decode("utf-8", "replace")
        raise DataError(f"The keyword {name!r} is not known.", where=where, fix="the file is damaged here")
    atoms = parts.get(b"atom", [])
    wrong = next((words for words in atoms if len(words) != ATOM_WORDS), None)
    if wrong is not None:
        raise DataError(
            f"An atom has {len(wrong)} columns, not x y z element charge 0 fx fy fz.", where=where
        )
    table = _numbers([w[:3] + w[4:] for w in atoms], where).reshape(-1, 8)
    symbols = [words[3].decode("utf-8", "replace") for words in atoms]
    cell = _cell(parts.get(b"lattice", []), keys.length_scale, where)
    geometry = Geometry(
        element_numbers(symbols, where), table[:, :3] * keys.length_scale, cell, np.full(3, bool(cell.any()))
    )
    raw = {"energy": _single(parts, b"energy", where), "forces": table[:, 5:]}
    tags: dict[str, Tag] = {"comment": " ".join(comments)} if comments else {}
    frame = labelled_frame(geometry, raw, keys, info, where, tags=tags)
    total = _single(parts, b"charge", where)
    charged = {"charge": total is not None and total != 0, "atom charges": table[:, 3].any()}
    note_unread(info, [name for name, there in charged.items() if there])
    return frame


def _cell(rows: list[list[bytes]], scale: float, where: str) -> ndarray:
    if not rows:
        return np.zeros((3, 3))
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        raise DataError("The lattice is not three vectors.", where=where, fix="remove the structure")
    return _numbers(rows, where) * scale


def _single(parts: dict[bytes, list[list[bytes]]], name: bytes, where: str) -> float | None:
    rows = parts.get(name, [])
    if not rows:
        return None
    if len(rows) != 1 or len(rows[0]) != 1:
        raise DataError(f"The {name.decode()} is not one number.", where=where, fix="remove the structure")
    return float(_numbers(rows, where)[0, 0])


def _numbers(rows: list[list[bytes]], where: str) -> ndarray:
    try:
        return np.array([[float(word) for word in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"A number cannot be read ({error}).", where=where, fix="correct the file") from error


READER = Reader(
    name="n2p2",
    about="n2p2/RuNNer input.data: blocks from begin to end; units have to be stated",
    options=N2p2Options,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
