"""mlearn: JSON arrays with ``outputs``; and the arrays that ALIGNN makes of such data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from atomml.datasets.frame import Frame
from atomml.datasets.labels import LabelKeys
from atomml.datasets.readers.documents.files import (
    JsonOptions,
    begins_with,
    json_pieces,
    parsed,
    read_documents,
)
from atomml.datasets.readers.documents.stream import Document
from atomml.datasets.readers.documents.structures import jarvis_geometry, pymatgen_geometry
from atomml.datasets.readers.labelled import labelled_frame, new_info, note_unread, scalar_tags
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["ALIGNN_READER", "READER", "AlignnOptions", "MlearnOptions"]

StressOrder = Literal["vasp", "lammps", "ase"]
TO_ASE = {  # places of xx yy zz yz xz xy
    "vasp": (0, 1, 2, 4, 5, 3),  # xx yy zz xy yz zx
    "lammps": (0, 1, 2, 5, 4, 3),  # xx yy zz xy xz yz
    "ase": (0, 1, 2, 3, 4, 5),
}
PUBLISHED_ORDER: dict[str, StressOrder] = {  # as the sheared cells of the group "Elastic" show
    "Li": "vasp",
    "Si": "vasp",
    "Ge": "vasp",
    "Mo": "lammps",
    "Ni": "lammps",
    "Cu": "lammps",
}


class MlearnOptions(JsonOptions):
    """Options of the reader ``mlearn``."""

    energy_per_atom: bool = False
    """``energy`` is per atom and is multiplied by the number of atoms. The original files have totals."""
    stress_order: Literal["published", "vasp", "lammps", "ase"] = "published"
    """Six numbers are xx yy zz, then xy yz zx ("vasp"), xy xz yz ("lammps") or yz xz xy ("ase").
    "published" is the order of the published file of the element: vasp for Li, Si, Ge, lammps for Mo, Ni, Cu."""


class AlignnOptions(JsonOptions):
    """Options of the reader ``alignn``."""

    energy_per_atom: bool | None = None
    """Whether ``total_energy`` is per atom, which has to be stated: in the repacked mlearn files it is, in
    others it is the total."""
    read_stress: bool = True
    """Read ``stresses``. Do not with the repacked mlearn files: some hold the stresses of other frames, in
    others the components of the 3×3 are in the wrong places."""
    stress_order: Literal["vasp", "lammps", "ase"] | None = None
    """Order of six numbers, see the reader ``mlearn``; has to be stated if there are six and not 3×3."""


def recognises(path: Path) -> bool:
    """A JSON array with the keys ``outputs`` and ``virial_stress``."""
    return begins_with(path, "[", "virial_stress") and begins_with(path, "[", "outputs")


def recognises_alignn(path: Path) -> bool:
    """A JSON array with the keys ``lattice_mat`` and ``total_energy``."""
    return begins_with(path, "[", "lattice_mat") and begins_with(path, "[", "total_energy")


def pieces(paths: Sequence[Path], options: JsonOptions) -> list[Piece]:
    """About 5000 documents each."""
    return json_pieces(paths, 1, "[")


def read(piece: Piece, options: MlearnOptions) -> FrameStore:
    """Energies, forces and stress of ``outputs``; scalars (group, tag, description) become tags."""
    outputs = {"energy": "outputs.energy", "forces": "outputs.forces", "stress": "outputs.virial_stress"}
    info = _info(piece, outputs, options, options.energy_per_atom, options.stress_order)
    info["level_of_theory"], info["licence"] = "PBE", "BSD-3-Clause (materialsvirtuallab/mlearn)"
    convert = partial(_mlearn_frame, options=options, keys=_keys(options), info=info)
    return read_documents(piece, 1, "[", convert, info, options)


def read_alignn(piece: Piece, options: AlignnOptions) -> FrameStore:
    """Energies, forces and stress beside JARVIS ``atoms``; other scalars become tags.

    Raises:
        DataError: ``energy_per_atom`` is not stated.
    """
    if options.energy_per_atom is None:
        raise DataError(
            "The key total_energy of ALIGNN files is the energy per atom in some and the total in others.",
            where=str(piece.path),
            fix="state energy_per_atom=true (repacked mlearn) or energy_per_atom=false",
        )
    found = {"energy": "total_energy", "forces": "forces", "stress": "stresses"}
    info = _info(piece, found, options, options.energy_per_atom, options.stress_order)
    convert = partial(_alignn_frame, options=options, keys=_keys(options), info=info)
    return read_documents(piece, 1, "[", convert, info, options)


def _keys(options: JsonOptions) -> LabelKeys:
    return LabelKeys(stress_key="stress", stress_unit="kbar", stress_sign=options.stress_sign)


def _info(
    piece: Piece, keys: dict[str, str], options: JsonOptions, per_atom: bool, order: str | None
) -> dict[str, Any]:
    return new_info(
        piece.path.name,
        keys,
        stress_sign=f"{options.stress_sign}, kbar in the file",
        stated={
            "energy_per_atom": per_atom,
            "stress_sign": options.stress_sign,
            "stress_unit": "kbar",
            "stress_order": order,
        },
    )


def _mlearn_frame(
    document: Document, where: str, *, options: MlearnOptions, keys: LabelKeys, info: dict[str, Any]
) -> Frame:
    doc = parsed(document, where)
    geometry = pymatgen_geometry(doc.get("structure"), where)
    outputs = doc.get("outputs")
    if not isinstance(outputs, dict):
        raise DataError("The document has no outputs.", where=where, fix="the file is not of this format")
    n = len(geometry.numbers)
    if doc.get("num_atoms", n) != n:
        raise DataError(
            f"num_atoms is {doc['num_atoms']}, the structure has {n} sites.", where=where, fix="remove it"
        )
    order = options.stress_order
    raw = {
        "energy": _total(outputs.get("energy"), n, options.energy_per_atom, where),
        "forces": outputs.get("forces"),
        "stress": _in_ase_order(
            outputs.get("virial_stress"),
            PUBLISHED_ORDER.get(str(doc.get("element"))) if order == "published" else order,
            where,
        ),
    }
    tags, unread = scalar_tags(doc, {"structure", "outputs", "num_atoms"})
    unread += [f"outputs.{key}" for key in outputs if key not in ("energy", "forces", "virial_stress")]
    frame = labelled_frame(geometry, raw, keys, info, where, tags=tags)
    note_unread(info, unread)
    return frame


def _alignn_frame(
    document: Document, where: str, *, options: AlignnOptions, keys: LabelKeys, info: dict[str, Any]
) -> Frame:
    doc = parsed(document, where)
    geometry = jarvis_geometry(doc.get("atoms"), where)
    stress = doc.get("stresses")
    raw = {
        "energy": _total(
            doc.get("total_energy"), len(geometry.numbers), bool(options.energy_per_atom), where
        ),
        "forces": doc.get("forces"),
        "stress": _in_ase_order(stress, options.stress_order, where) if options.read_stress else None,
    }
    tags, unread = scalar_tags(doc, {"atoms", "total_energy", "forces", "stresses", "jid"})
    unread += ["stresses"] if not options.read_stress and stress is not None else []
    frame = labelled_frame(geometry, raw, keys, info, where, id=str(doc.get("jid") or ""), tags=tags)
    note_unread(info, unread)
    return frame


def _total(energy: Any, n_atoms: int, per_atom: bool, where: str) -> Any:
    if not per_atom or energy is None:
        return energy
    if not isinstance(energy, int | float):
        raise DataError("The energy is not a number.", where=where, fix="remove the frame")
    return energy * n_atoms


def _in_ase_order(stress: Any, order: StressOrder | None, where: str) -> Any:
    """Six numbers in ASE's order; anything else as it is."""
    if not isinstance(stress, list) or len(stress) != 6:
        return stress
    if order is None:
        raise DataError(
            "The stress has six numbers, and their order is not known.",
            where=where,
            fix="state stress_order: vasp (xx yy zz xy yz zx), lammps (xx yy zz xy xz yz) or ase",
        )
    return [stress[k] for k in TO_ASE[order]]


READER = Reader(
    name="mlearn",
    about="mlearn training.json/test.json: array with structure and outputs, stress in kbar (VASP sign)",
    options=MlearnOptions,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
ALIGNN_READER = Reader(
    name="alignn",
    about="ALIGNN id_prop.json: array with JARVIS atoms; state whether total_energy is per atom",
    options=AlignnOptions,
    recognises=recognises_alignn,
    pieces=pieces,
    read=read_alignn,
)
