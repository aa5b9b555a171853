"""`Reader`: how one kind of file becomes frames, in pieces that can be read in any order and process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomml.config import Config
from atomml.datasets.store import UNITS, FrameStore

__all__ = ["PIECE_FRAMES", "UNITS", "Piece", "Reader"]

PIECE_FRAMES = 5_000  # frames of a piece, where a reader can choose


@dataclass(frozen=True)
class Piece:
    """Part of the work of reading: some records of one file. Small enough for memory.

    Attributes:
        path: the file.
        start, stop: records (rows, keys, bytes; the reader's business); None for all that follow.
        member: of an archive.
        first: frames of the file before this piece, if the reader names frames by their number.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    member: str = ""
    first: int = 0

    def __str__(self) -> str:
        inside = f":{self.member}" if self.member else ""
        end = "" if self.stop is None else self.stop
        return f"{self.path}{inside}" + (f" [{self.start}:{end}]" if self.start or self.stop else "")


@dataclass(frozen=True)
class Reader:
    """One kind of file. All functions are at module level, so that a worker process finds them by ``name``.

    Attributes:
        name: as in ``atomml data convert --reader NAME``.
        about: one line.
        options: configuration; its attribute docstrings are the manual.
        recognises: whether a path (file or folder) is of this kind, from its name and first bytes only.
        pieces: the work for these paths, in the order of the frames in the store.
        read: one piece; frames that cannot be used are errors, or are skipped and counted where the option
            says so. ``info`` states source, units, level of theory, licence, sign as far as they are known.
    """

    name: str
    about: str
    options: type[Config]
    recognises: Callable[[Path], bool]
    pieces: Callable[[Sequence[Path], Any], list[Piece]]
    read: Callable[[Piece, Any], FrameStore]
