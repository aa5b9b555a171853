"""SPICE: one HDF5 group per molecule with all its conformations, Bohr and Hartree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atomml.config import Config
from atomml.datasets.frame import Frame, Skipped, Tag
from atomml.datasets.labels import LabelKeys
from atomml.datasets.readers.hdf5.safe import (
    group_of,
    is_hdf5,
    names_from,
    numbers,
    open_hdf5,
    shape_of,
    text,
    unit_of,
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

__all__ = ["SPICE_READER", "SpiceOptions"]

LENGTHS = {"bohr": "Bohr", "angstrom": "Ang", "a": "Ang", "nanometer": "nm", "nm": "nm"}
ENERGIES = {
    "hartree": "Hartree",
    "ev": "eV",
    "kcal/mol": "kcal/mol",
    "kilocalorie/mole": "kcal/mol",
    "kj/mol": "kJ/mol",
    "kilojoule/mole": "kJ/mol",
}


class SpiceOptions(Config):
    """Options of the reader ``spice``; units are those of the attribute ``units``, else Bohr and Hartree."""

    energy_key: Literal["dft_total_energy", "formation_energy"] = "dft_total_energy"
    """Total energies, or less those of the free atoms."""
    gradient_key: str = "dft_total_gradient"
    """Gradient dE/dR; forces are its negative."""
    skip_bad: bool = False
    """Leave out conformations that cannot be used, and count them, instead of stopping at the first."""


def recognises(path: Path) -> bool:
    """HDF5 whose first group has ``atomic_numbers`` and ``conformations``."""
    if not is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            first = next(names_from(file, 0, 1), None)
            names = () if first is None else group_of(file, first, str(path))
            return "conformations" in names and "atomic_numbers" in names
    except DataError:
        return False


def pieces(paths: Sequence[Path], options: SpiceOptions) -> list[Piece]:
    """Whole molecules, about 5000 conformations each."""
    made = []
    for path in paths:
        with open_hdf5(path) as file:
            start, held, before, total = 0, 0, 0, len(file)
            for k, name in enumerate(names_from(file)):
                held += _conformations(file, name, str(path))
                if held >= PIECE_FRAMES or k == total - 1:
                    made.append(Piece(path, start, k + 1, first=before))
                    start, before, held = k + 1, before + held, 0
    return made


def read(piece: Piece, options: SpiceOptions) -> FrameStore:
    """Energies and forces; the tags say which molecule, SMILES and subset.

    Raises:
        DataError: what `numbers` refuses, shapes that do not fit, an unknown unit.
    """
    info = new_info(
        piece.path.name,
        {"energy": options.energy_key, "forces": f"-{options.gradient_key}"},
        stated={"energy_key": options.energy_key, "gradient_key": options.gradient_key},
    )
    with open_hdf5(piece.path) as file:
        return pack_in_batches(_frames(file, piece, options, info), info, where=str(piece.path))


def _conformations(file: Any, name: str, where: str) -> int:
    shape = shape_of(group_of(file, name, where), "conformations", where)
    if shape is None or len(shape) != 3:
        raise DataError(
            f"The group {name!r} has no conformations [frames, atoms, 3].",
            where=where,
            fix="remove the group",
        )
    return shape[0]


def _frames(
    file: Any, piece: Piece, options: SpiceOptions, info: dict[str, Any]
) -> Iterator[Frame | Skipped]:
    for name in names_from(file, piece.start, piece.stop):
        where = f"{piece.path}, group {name}"
        group = group_of(file, name, where)
        keys = _units(group, options, info, where)
        used = ("atomic_numbers", "conformations", options.energy_key, options.gradient_key)
        z, places, energy, gradient = (_floats(group, key, where) for key in used)
        if z is None or places is None or places.shape[1:] != (len(z), 3):
            raise DataError("The conformations do not fit the atomic numbers.", where=where)
        for key, array in ((options.energy_key, energy), (options.gradient_key, gradient)):
            if array is not None and len(array) != len(places):
                raise DataError(
                    f"{key!r} has {len(array)} rows for {len(places)} conformations.", where=where
                )
        tags: dict[str, Tag] = {"molecule": name}
        tags |= {key: value for key in ("subset", "smiles") if (value := text(group, key, where))}
        geometry = np.rint(z).astype(np.int64), places * keys.length_scale

        def convert(k: int, where: str, *, arrays: Any = (geometry, energy, gradient, keys, tags)) -> Frame:
            (z, places), energy, gradient, keys, tags = arrays
            raw = {
                "energy": None if energy is None else energy[k],
                "forces": None if gradient is None else -gradient[k],
            }
            still = Geometry(z, places[k], np.zeros((3, 3)), np.zeros(3, dtype=bool))
            return labelled_frame(still, raw, keys, info, where, id=f"{tags['molecule']}/{k}", tags=tags)

        records = ((f"{where}, conformation {k} (counting from 0)", k) for k in range(len(places)))
        yield from convert_records(records, convert, skip_bad=options.skip_bad)
        note_unread(info, sorted(set(names_from(group)) - {*used, "subset", "smiles"}))


def _units(group: Any, options: SpiceOptions, info: dict[str, Any], where: str) -> LabelKeys:
    length = unit_of(group, "conformations", where) or "bohr"
    energy = unit_of(group, options.energy_key, where) or "hartree"
    gradient = unit_of(group, options.gradient_key, where) or f"{energy}/{length}"
    if length not in LENGTHS or energy not in ENERGIES or gradient != f"{energy}/{length}":
        raise DataError(
            f"The units {length!r}, {energy!r} and {gradient!r} are not known or do not go together.",
            where=where,
            fix="correct the attributes `units`",
        )
    info["stated"] |= {"length_unit": LENGTHS[length], "energy_unit": ENERGIES[energy]}
    return LabelKeys(energy_unit=ENERGIES[energy], length_unit=LENGTHS[length])


def _floats(group: Any, name: str, where: str) -> ndarray | None:
    found = numbers(group, name, where)
    if found is not None and found.ndim == 0:
        raise DataError(f"{name!r} is one number and not an array.", where=where)
    return None if found is None else found.astype(np.float64)


SPICE_READER = Reader(
    name="spice",
    about="SPICE*.hdf5: a group per molecule with conformations; units from attributes, else Bohr and Hartree",
    options=SpiceOptions,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
