"""Everything that ASE reads, as a `Reader`; large extended XYZ files are read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from atomml.datasets.ase_files import read_ase, read_part, require_labels
from atomml.datasets.readers.label_options import LabelOptions
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece, Reader
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "AseOptions", "check_info"]

LARGE = 32 * 2**20  # bytes of a file that is read in parts


class AseOptions(LabelOptions):
    """Files that ASE reads: extended XYZ, trajectories, databases, VASP output, CIF and others."""

    index: str = ":"
    """Which frames, as in ASE: ``:`` all, ``::10`` every tenth."""
    format: str | None = None
    """ASE's name of the file format, if the suffix does not tell."""
    require_energy: bool = True
    """Refuse files in which no frame has an energy."""


def _recognises(path: Path) -> bool:
    return path.is_file()


def _pieces(paths: Sequence[Path], options: AseOptions) -> list[Piece]:
    return [piece for path in paths for piece in _pieces_of(path, options)]


def _pieces_of(path: Path, options: AseOptions) -> list[Piece]:
    plain = path.suffix in (".xyz", ".extxyz") and options.format in (None, "extxyz")
    if not plain or options.index != ":" or path.stat().st_size < LARGE:
        return [Piece(path)]
    ends = list(_frame_ranges(path))
    return [Piece(path, start, stop, first=k * PIECE_FRAMES) for k, (start, stop) in enumerate(ends)]


def _frame_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Byte ranges of `PIECE_FRAMES` frames each; an XYZ frame is a count, a comment and so many lines."""
    with path.open("rb") as file:
        start = frames = 0
        while line := file.readline():
            if not line.strip():
                continue
            try:
                lines = int(line) + 1
            except ValueError as error:
                raise DataError(
                    f"Line {line[:40]!r} should be the number of atoms of a frame.",
                    where=f"{path}, byte {file.tell() - len(line)}",
                    fix="the file is damaged here, or is not extended XYZ (state the format)",
                ) from error
            for _ in islice(iter(file.readline, b""), lines):
                pass
            frames += 1
            if frames % PIECE_FRAMES == 0:
                yield start, file.tell()
                start = file.tell()
        if file.tell() > start:
            yield start, file.tell()


def _read(piece: Piece, options: AseOptions) -> FrameStore:
    if piece.stop is None:
        stated: dict[str, Any] = options.model_dump()
        return read_ase(piece.path, **stated)
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        text = file.read(piece.stop - piece.start).decode("utf-8")
    return read_part(piece.path, text, options.keys(), first=piece.first)


def check_info(info: Mapping[str, Any], options: Mapping[str, Any], where: str) -> None:
    """After reading in parts, what is demanded of the whole.

    Raises:
        DataError: see `require_labels`.
    """
    stated = AseOptions(**options)
    require_labels(info, stated.keys(), stated.require_energy, where)


READER = Reader(
    "ase",
    "everything that ASE reads (extxyz, traj, db, vasprun.xml, cif ...)",
    AseOptions,
    _recognises,
    _pieces,
    _read,
)
