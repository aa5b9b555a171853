"""DeePMD systems: folders of ``set.*/*.npy`` with ``type.raw``; eV, Å, virial in eV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from atomml.config import Config
from atomml.datasets.frame import Frame
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

__all__ = ["READER", "DeepmdOptions"]

PER_FRAME = {"coord": 3, "force": 3, "box": 9, "energy": 1, "virial": 9}  # numbers a frame, or an atom
PER_ATOM = ("coord", "force")
TEXT_LIMIT = 64 << 20
UNREADABLE = (OSError, ValueError, EOFError, OverflowError, TypeError, SyntaxError, MemoryError, TokenError)
LOOK_AT = 2_000  # folders that are looked at to recognise a tree


class DeepmdOptions(Config):
    """Options of the reader ``deepmd``."""

    type_map: tuple[str, ...] | None = None
    """Elements of the types 0, 1, ..., for systems without ``type_map.raw``. Where a system has that file, its
    own is used."""
    skip_bad: bool = False
    """Leave out frames that cannot be used, and count them, instead of stopping at the first."""


def recognises(path: Path) -> bool:
    """A folder that is a system or has one in it."""
    return path.is_dir() and next(_systems(path, LOOK_AT), None) is not None


def pieces(paths: Sequence[Path], options: DeepmdOptions) -> list[Piece]:
    """Ranges of frames of every set of every system, in the order of their names.

    Raises:
        DataError: a folder without systems, arrays that cannot be read.
    """
    made = []
    for path in paths:
        systems = list(_systems(path, None))
        if not systems:
            raise DataError(
                "There is no DeePMD system here: a folder with type.raw and set.*/coord.npy.",
                where=str(path),
                fix="convert raw text files with dpdata first, or name the folder above the systems",
            )
        for system in systems:
            before = 0
            for folder in _sets(system):
                n = len(_array(folder / "coord.npy"))
                member = folder.relative_to(path).as_posix()
                made += [
                    Piece(path, start, min(start + PIECE_FRAMES, n), member, before + start)
                    for start in range(0, n, PIECE_FRAMES)
                ]
                before += n
    return made


def read(piece: Piece, options: DeepmdOptions) -> FrameStore:
    """Energies, forces and stress (−virial/V); the tag ``system`` is the folder below the given one.

    Raises:
        DataError: arrays that are missing, truncated, of other shapes or not numbers; types without element.
    """
    data = _open_set(piece, options)
    names = {"energy": "energy.npy", "forces": "force.npy", "stress": "virial.npy"}
    info = new_info(
        piece.path.name,
        {label: name for label, name in names.items() if name.removesuffix(".npy") in data.columns},
        stress_sign="virial W = -V sigma",
        stated={"virial_unit": "eV"},
        precision={name: array.dtype.name for name, array in data.columns.items()},
    )
    note_unread(info, data.others)
    records = (
        (f"{data.folder}, frame {piece.start + k} (counting from 0)", k)
        for k in range(len(data.columns["coord"]))
    )
    frames = convert_records(records, partial(_frame, data=data, info=info), skip_bad=options.skip_bad)
    return pack_in_batches(frames, info, where=str(data.folder))


@dataclass(frozen=True)
class _Set:
    """The mapped arrays of some frames of one set, with what the system says about them."""

    folder: Path
    name: str  # of the system
    first: int  # number of the first frame in the system
    columns: dict[str, ndarray]
    types: ndarray  # [atoms]
    mixed: ndarray | None  # types [frames, atoms], if the frames differ
    symbols: list[str]
    periodic: bool
    others: list[str]


def _open_set(piece: Piece, options: DeepmdOptions) -> _Set:
    folder = piece.path / piece.member
    system, rows = folder.parent, slice(piece.start, piece.stop)
    real = folder / "real_atom_types.npy"
    data = _Set(
        folder,
        piece.path.name if system == piece.path else system.relative_to(piece.path).as_posix(),
        piece.first,
        _columns(folder, rows),
        _fixed_types(system),
        _array(real)[rows] if real.is_file() else None,
        _symbols(system, options),
        not (system / "nopbc").exists(),
        sorted(p.name for p in folder.glob("*.npy") if p.stem not in PER_FRAME and p != real),
    )
    _check_shapes(data)
    return data


def _frame(k: int, where: str, *, data: _Set, info: dict[str, Any]) -> Frame:
    types = data.types if data.mixed is None else np.asarray(data.mixed[k], dtype=np.int64)
    real = types >= 0  # sets of mixed sizes are padded with atoms of type −1
    row = {name: np.array(column[k], dtype=np.float64).reshape(-1) for name, column in data.columns.items()}
    cell = row["box"].reshape(3, 3) if data.periodic else np.zeros((3, 3))
    geometry = Geometry(
        _elements(types[real], data.symbols, where),
        row["coord"].reshape(-1, 3)[real],
        cell,
        np.full(3, data.periodic),
    )
    raw = {
        "energy": row.get("energy"),
        "forces": row["force"].reshape(-1, 3)[real] if "force" in row else None,
        "stress": row.get("virial"),
    }
    keys = LabelKeys(stress_key="virial")
    frame_id = f"{data.name}/{data.first + k}"
    frame = labelled_frame(geometry, raw, keys, info, where, id=frame_id, tags={"system": data.name})
    if not real.all():
        info["padding_atoms"] = info.get("padding_atoms", 0) + int((~real).sum())
    return frame


def _systems(path: Path, most: int | None) -> Iterator[Path]:
    for k, (folder, inner, files) in enumerate(os.walk(path)):
        if most is not None and k >= most:
            return
        inner.sort()
        if "type.raw" in files and _sets(Path(folder)):
            yield Path(folder)


def _sets(system: Path) -> list[Path]:
    return sorted(p for p in system.glob("set.*") if (p / "coord.npy").is_file())


def _array(path: Path) -> ndarray:
    """A mapped array of numbers.

    Raises:
        DataError: truncated, an array of objects or text.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(
            f"The array cannot be read ({type(error).__name__}: {str(error)[:200]}).",
            where=str(path),
            fix="it is truncated or not a plain .npy file: write it again",
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim == 0:
        raise DataError("This is not an array of numbers.", where=str(path), fix="write it again")
    return array


def _columns(folder: Path, rows: slice) -> dict[str, ndarray]:
    found = {n: _array(folder / f"{n}.npy") for n in PER_FRAME if (folder / f"{n}.npy").is_file()}
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The arrays have different numbers of frames: {lengths}.",
            where=str(folder),
            fix="write them again",
        )
    return {name: array[rows] for name, array in found.items()}


def _check_shapes(data: _Set) -> None:
    n, n_atoms, where = len(data.columns["coord"]), len(data.types), str(data.folder)
    if data.mixed is not None and data.mixed.shape != (n, n_atoms):
        raise DataError(
            f"real_atom_types.npy has shape {data.mixed.shape}, not {(n, n_atoms)}.",
            where=where,
            fix="write it again",
        )
    if data.periodic and "box" not in data.columns:
        raise DataError(
            "The cell box.npy is missing.", where=where, fix="add an empty file nopbc if there is none"
        )
    for name, array in data.columns.items():
        width = PER_FRAME[name] * (n_atoms if name in PER_ATOM else 1)
        if array.size != n * width:
            raise DataError(
                f"{name}.npy has {array.size} numbers for {n} frames of {n_atoms} atoms, not {n * width}.",
                where=where,
                fix="type.raw and the arrays belong to different systems",
            )


def _text(path: Path) -> list[str]:
    if path.stat().st_size > TEXT_LIMIT:
        raise DataError("The file is too large to be what its name says.", where=str(path))
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file cannot be read ({error}).", where=str(path)) from error


def _fixed_types(system: Path) -> ndarray:
    path = system / "type.raw"
    try:
        types = np.array([int(word) for word in _text(path)], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"A type is not a number ({error}).", where=str(path)) from error
    return types


def _symbols(system: Path, options: DeepmdOptions) -> list[str]:
    path = system / "type_map.raw"
    if path.is_file():
        return _text(path)
    if options.type_map is None:
        raise DataError(
            "The system has no type_map.raw, so that the elements are not known.",
            where=str(system),
            fix="state type_map, for example [O, H] for types 0 and 1",
        )
    return list(options.type_map)


def _elements(types: ndarray, symbols: list[str], where: str) -> ndarray:
    if len(types) and types.max() >= len(symbols):
        raise DataError(
            f"Type {types.max()} has no element: the type map has {len(symbols)}.",
            where=where,
            fix="correct type_map.raw or the option type_map",
        )
    table = {int(t): symbols[t] for t in np.unique(types)}
    return element_numbers([table[int(t)] for t in types], where)


READER = Reader(
    name="deepmd",
    about="DeePMD systems: folders with type.raw and set.*/*.npy, also mixed types; eV, Å, virial in eV",
    options=DeepmdOptions,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
