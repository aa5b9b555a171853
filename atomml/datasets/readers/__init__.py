"""Readers of foreign files; each module has one `Reader` or more."""

from __future__ import annotations

from atomml.datasets.readers.choice import all_readers, choose_reader, load_frames, read_frames
from atomml.datasets.readers.reader import PIECE_FRAMES, UNITS, Piece, Reader

__all__ = [
    "PIECE_FRAMES",
    "UNITS",
    "Piece",
    "Reader",
    "all_readers",
    "choose_reader",
    "load_frames",
    "read_frames",
]
