"""HDF5 with one group per structure: the shards of MACE, and the flat layout of mlip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomml.config import Config
from atomml.datasets.frame import Frame, Tag
from atomml.datasets.labels import LabelKeys
from atomml.datasets.readers.hdf5.safe import (
    attribute,
    attribute_names,
    group_of,
    is_hdf5,
    is_none,
    names_from,
    numbers,
    open_hdf5,
    optional_group,
    text,
)
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

__all__ = ["MACE_READER", "MLIP_READER", "StructureOptions"]

BATCH, CONFIG = "config_batch_", "config_"
GEOMETRY = ("atomic_numbers", "elements", "positions", "cell", "pbc")
MACE_LABELS = ("energy", "forces", "stress", "virials")
MACE_NAMES = {*GEOMETRY, *MACE_LABELS, "head", "config_type", "properties", "property_weights"}


class StructureOptions(Config):
    """Options of the readers ``mace-hdf5`` and ``mlip-hdf5``. The files do not say their units."""

    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] = "eV"
    """Unit of the energy; forces are in it per ``length_unit``."""
    length_unit: Literal["Ang", "Bohr", "nm"] = "Ang"
    """Unit of positions and cells."""
    stress_unit: Literal["eV/A^3", "GPa", "kbar"] = "eV/A^3"
    """Unit of the stress."""
    stress_sign: Literal["ase", "pressure"] = "ase"
    """``ase``: σ = (1/V) ∂E/∂ε, as both libraries have it; ``pressure``: the opposite sign."""
    skip_bad: bool = False
    """Leave out structures that cannot be used, and count them, instead of stopping at the first."""

    def keys(self, stress_key: str) -> LabelKeys:
        """Units and sign."""
        units = (self.energy_unit, self.length_unit, self.stress_unit, self.stress_sign)
        return LabelKeys(None, None, stress_key, *units)


def recognises_mace(path: Path) -> bool:
    """HDF5 with a group ``config_batch_0``."""
    return _first(path, lambda file, name: f"{BATCH}0" in file)


def recognises_mlip(path: Path) -> bool:
    """HDF5 whose first group has ``elements`` and ``positions``."""
    return _first(path, _is_mlip)


def pieces_mace(paths: Sequence[Path], options: StructureOptions) -> list[Piece]:
    """About 5000 structures of a batch each; batches and structures by their numbers."""
    made = []
    for path in paths:
        with open_hdf5(path) as file:
            batches = sorted(_numbers_of(file, BATCH, str(path)))
            before = 0
            for batch in batches:
                group = group_of(file, f"{BATCH}{batch}", str(path))
                n = len(group)
                for start in range(0, n, PIECE_FRAMES):
                    stop = min(start + PIECE_FRAMES, n)
                    made.append(Piece(path, start, stop, f"{BATCH}{batch}", before + start))
                before += n
    return made


def pieces_mlip(paths: Sequence[Path], options: StructureOptions) -> list[Piece]:
    """5000 structures each, by their names."""
    made = []
    for path in paths:
        with open_hdf5(path) as file:
            n = len(file)
        made += [
            Piece(path, start, min(start + PIECE_FRAMES, n), first=start)
            for start in range(0, n, PIECE_FRAMES)
        ]
    return made


def read_mace(piece: Piece, options: StructureOptions) -> FrameStore:
    """Energies, forces and stress, or virials where there is no stress; a label of weight 0 is not read.

    Raises:
        DataError: what `numbers` refuses, a missing structure, shapes that do not fit.
    """
    where = f"{piece.path}, {piece.member}"
    with open_hdf5(piece.path) as file:
        batch = group_of(file, piece.member, where)

        def groups() -> Iterator[tuple[str, Any]]:
            for k in range(piece.start, len(batch) if piece.stop is None else piece.stop):
                yield f"{where}/{CONFIG}{k}", group_of(batch, f"{CONFIG}{k}", where)

        return _read(piece, groups(), _mace_frame, options)


def read_mlip(piece: Piece, options: StructureOptions) -> FrameStore:
    """Energies, forces and stress; attributes that are one number or text become tags.

    Raises:
        DataError: what `numbers` and `attribute` refuse, shapes that do not fit.
    """
    with open_hdf5(piece.path) as file:

        def groups() -> Iterator[tuple[str, Any]]:
            for name in names_from(file, piece.start, piece.stop):
                where = f"{piece.path}, group {name}"
                yield where, group_of(file, name, where)

        return _read(piece, groups(), _mlip_frame, options)


def _read(
    piece: Piece,
    groups: Iterator[tuple[str, Any]],
    frame: Callable[[Any, str, StructureOptions, dict[str, Any]], Frame],
    options: StructureOptions,
) -> FrameStore:
    info = new_info(
        piece.path.name,
        {"energy": "energy", "forces": "forces", "stress": "stress or virials"},
        stress_sign=f"{options.stress_sign} as stated",
        stated=options.model_dump(exclude={"skip_bad"}),
    )

    def convert(group: Any, where: str) -> Frame:
        return frame(group, where, options, info)

    frames = convert_records(groups, convert, skip_bad=options.skip_bad)
    return pack_in_batches(frames, info, where=str(piece.path))


def _mace_frame(group: Any, where: str, options: StructureOptions, info: dict[str, Any]) -> Frame:
    inner = optional_group(group, "properties", where)
    labels = group if inner is None else inner  # before 2024 the labels were beside the geometry
    raw, unread = _mace_labels(group, labels, where)
    virial = raw["stress"] is None and raw["virials"] is not None
    if not virial and raw["virials"] is not None:
        unread.append("virials")
    keys = options.keys("virials" if virial else "stress")
    raw["stress"] = raw.pop("virials") if virial else raw["stress"]
    found = {
        "config_type": text(group, "config_type", where),
        "head": text(labels, "head", where) or text(group, "head", where),
    }
    tags: dict[str, Tag] = {name: value for name, value in found.items() if value not in (None, "None")}
    weight = numbers(group, "weight", where)
    tags |= {} if weight is None else {"weight": float(weight.reshape(-1)[0])}
    z = numbers(group, "atomic_numbers", where)
    frame = labelled_frame(_geometry(group, z, keys, where), _squeezed(raw), keys, info, where, tags=tags)
    others = [name for name in names_from(labels) if name not in MACE_NAMES and not name.endswith("weight")]
    note_unread(info, [*unread, *(name for name in others if not is_none(labels, name, where))])
    return frame


def _mace_labels(group: Any, labels: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """Labels that are there and have a weight, and the names of those that have none."""
    weights = optional_group(group, "property_weights", where)
    raw: dict[str, Any] = {}
    unread = []
    for name in MACE_LABELS:
        raw[name] = numbers(labels, name, where)
        if raw[name] is None:
            continue
        weight = numbers(group, f"{name}_weight", where) if weights is None else numbers(weights, name, where)
        if weight is not None and not weight.any():
            unread.append(f"{name} of weight 0")
            raw[name] = None
    return raw, unread


def _mlip_frame(group: Any, where: str, options: StructureOptions, info: dict[str, Any]) -> Frame:
    keys = options.keys("stress")
    raw: dict[str, Any] = {name: numbers(group, name, where) for name in ("forces", "stress")}
    energy = attribute(group, "energy", where)
    raw["energy"] = numbers(group, "energy", where) if energy is None else energy
    tags: dict[str, Tag] = {}
    for name in attribute_names(group):
        value = attribute(group, name, where)
        if value is not None and name not in ("energy", "n_atoms"):
            tags[name] = value
    z = numbers(group, "elements", where)
    geometry = _geometry(group, z, keys, where)
    stated = attribute(group, "n_atoms", where)
    if stated is not None and stated != len(geometry.numbers):
        raise DataError(f"n_atoms is {stated}, there are {len(geometry.numbers)} elements.", where=where)
    name = group.name.lstrip("/")
    frame = labelled_frame(geometry, _squeezed(raw), keys, info, where, id=name, tags=tags)
    note_unread(info, [n for n in names_from(group) if n not in ("energy", "forces", "stress", *GEOMETRY)])
    return frame


def _geometry(group: Any, z: ndarray | None, keys: LabelKeys, where: str) -> Geometry:
    places, cell, pbc = (numbers(group, name, where) for name in ("positions", "cell", "pbc"))
    if z is None or places is None:
        raise DataError("Elements or positions are missing.", where=where, fix="remove the structure")
    if z.ndim != 1 or z.dtype.kind == "b" or not np.array_equal(z, np.rint(z)):
        raise DataError("The elements are not atomic numbers.", where=where, fix="remove the structure")
    square = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    flags = np.full(3, bool(square.any())) if pbc is None else np.asarray(pbc).astype(bool).reshape(-1)
    return Geometry(
        z.astype(np.int64), places.astype(np.float64) * keys.length_scale, square * keys.length_scale, flags
    )


def _squeezed(raw: dict[str, Any]) -> dict[str, Any]:
    """Stress of shape (1, 3, 3), which some writers have, as 3×3."""
    stress = raw["stress"]
    return {**raw, "stress": stress[0] if stress is not None and stress.shape == (1, 3, 3) else stress}


def _first(path: Path, test: Callable[[Any, str], bool]) -> bool:
    if not is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            name = next(names_from(file, 0, 1), None)
            return name is not None and test(file, name)
    except DataError:
        return False


def _is_mlip(file: Any, name: str) -> bool:
    group = group_of(file, name, str(file.filename))
    return "elements" in group and "positions" in group


def _numbers_of(file: Any, prefix: str, where: str) -> list[int]:
    found = []
    for name in names_from(file):
        digits = name.removeprefix(prefix)
        if not name.startswith(prefix) or not digits.isdecimal():
            raise DataError(f"{name!r} is not a batch of structures.", where=where, fix="remove the group")
        found.append(int(digits))
    return found


MACE_READER = Reader(
    name="mace-hdf5",
    about="shards of mace_prepare_data: config_batch_*/config_*; eV, Å, ASE's sign unless stated otherwise",
    options=StructureOptions,
    recognises=recognises_mace,
    pieces=pieces_mace,
    read=read_mace,
)
MLIP_READER = Reader(
    name="mlip-hdf5",
    about="HDF5 of mlip/chemreporter: a group per structure with elements, positions, forces, attribute energy",
    options=StructureOptions,
    recognises=recognises_mlip,
    pieces=pieces_mlip,
    read=read_mlip,
)
