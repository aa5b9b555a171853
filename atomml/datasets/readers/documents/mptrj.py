"""MPtrj: ``{mp_id: {frame_id: document}}``, stress in kbar with VASP's sign."""

from __future__ import annotations

import re
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
from atomml.datasets.readers.documents.structures import pymatgen_geometry
from atomml.datasets.readers.labelled import labelled_frame, new_info, note_unread, scalar_tags
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "MPtrjOptions"]

FRAME_ID = re.compile(r"(.+-\d+)-(\d+)")


class MPtrjOptions(JsonOptions):
    """Options of the reader ``mptrj``."""

    energy_key: Literal["uncorrected_total_energy", "corrected_total_energy", "energy_per_atom"] = (
        "uncorrected_total_energy"
    )
    """Which energy is learned: as VASP has it, with the corrections of the Materials Project, or
    ``energy_per_atom`` times the number of atoms."""


def recognises(path: Path) -> bool:
    """A JSON object with the key ``uncorrected_total_energy``."""
    return begins_with(path, "{", "uncorrected_total_energy")


def pieces(paths: Sequence[Path], options: MPtrjOptions) -> list[Piece]:
    """Whole materials, about 5000 documents each."""
    return json_pieces(paths, 2, "{")


def read(piece: Piece, options: MPtrjOptions) -> FrameStore:
    """Energies, forces and stress; ``id`` is the frame id, the tags say which material and trajectory."""
    info = new_info(
        piece.path.name,
        {"energy": options.energy_key, "forces": "force", "stress": "stress"},
        licence="MIT (figshare 23713842)",
        level_of_theory="PBE and PBE+U, Materials Project settings",
        stress_sign=f"{options.stress_sign}, kbar in the file",
        stated={
            "energy_key": options.energy_key,
            "stress_unit": "kbar",
            "stress_sign": options.stress_sign,
        },
    )
    keys = LabelKeys(stress_key="stress", stress_unit="kbar", stress_sign=options.stress_sign)
    convert = partial(_frame, energy_key=options.energy_key, keys=keys, info=info)
    return read_documents(piece, 2, "{", convert, info, options)


def _frame(
    document: Document, where: str, *, energy_key: str, keys: LabelKeys, info: dict[str, Any]
) -> Frame:
    doc = parsed(document, where)
    mp_id, frame_id = document.keys
    structure = doc.get("structure")
    geometry = pymatgen_geometry(structure, where)
    tags, unread = scalar_tags(doc, {"structure", "force", "stress", "mp_id", energy_key})
    match = FRAME_ID.fullmatch(frame_id)
    tags |= {"mp_id": mp_id, "traj": match[1] if match else frame_id, "step": int(match[2]) if match else 0}
    energy = doc.get(energy_key)
    if energy_key == "energy_per_atom" and energy is not None:
        if not isinstance(energy, int | float):
            raise DataError("The energy is not a number.", where=where, fix="remove the frame")
        energy *= len(geometry.numbers)
    raw = {"energy": energy, "forces": doc.get("force"), "stress": doc.get("stress")}
    frame = labelled_frame(geometry, raw, keys, info, where, id=frame_id, tags=tags)
    note_unread(info, unread)
    return frame


READER = Reader(
    name="mptrj",
    about="MPtrj_2022.9_full.json[.gz]: {mp_id: {frame_id: document}}, stress in kbar (VASP sign)",
    options=MPtrjOptions,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
