"""MatPES: one JSON array of documents, kbar in VASP's sign; its files of isolated atoms and of splits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from atomml.datasets.safe.bounded import open_compressed, parse_json
from atomml.datasets.splits import Split
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "MatPESOptions", "matpes_split"]

LABEL_KEYS = {"energy": "energy", "forces": "forces", "stress": "stress"}
DERIVED = {"nsites", "nelements", "volume", "density", "density_atomic"}  # follow from the structure
SPLIT_LIMIT = 1 << 30
PARTS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test",)}


class MatPESOptions(JsonOptions):
    """Options of the reader ``matpes``."""


def recognises(path: Path) -> bool:
    """A JSON array with the key ``matpes_id``."""
    return begins_with(path, "[", "matpes_id")


def pieces(paths: Sequence[Path], options: MatPESOptions) -> list[Piece]:
    """About 5000 documents each."""
    return json_pieces(paths, 1, "[")


def read(piece: Piece, options: MatPESOptions) -> FrameStore:
    """Total energies, forces and stress; scalars and ``provenance`` become tags."""
    info = new_info(
        piece.path.name,
        LABEL_KEYS,
        licence="BSD-3-Clause (MatPES); see its data card",
        level_of_theory="see the tag functional",
        stress_sign=f"{options.stress_sign}, kbar in the file",
        stated={"stress_unit": "kbar", "stress_sign": options.stress_sign},
    )
    keys = LabelKeys(stress_key="stress", stress_unit="kbar", stress_sign=options.stress_sign)
    return read_documents(piece, 1, "[", partial(_frame, keys=keys, info=info), info, options)


def _frame(document: Document, where: str, *, keys: LabelKeys, info: dict[str, Any]) -> Frame:
    doc = parsed(document, where)
    structure: Any = doc.get("structure")
    geometry = pymatgen_geometry(structure, where)
    tags, unread = scalar_tags(doc, {*LABEL_KEYS, "structure", "matpes_id", "provenance", *DERIVED})
    provenance = doc.get("provenance")
    if isinstance(provenance, dict):
        inner, other = scalar_tags(provenance)
        tags |= {name if name not in tags else f"provenance.{name}": v for name, v in inner.items()}
        unread += [f"provenance.{name}" for name in other]
    if structure.get("charge"):
        tags["charge"] = structure["charge"]
    if any((site.get("properties") or {}).get("magmom") is not None for site in structure["sites"]):
        unread.append("magmom")
    frame = labelled_frame(geometry, doc, keys, info, where, id=str(doc.get("matpes_id") or ""), tags=tags)
    note_unread(info, unread)
    return frame


def matpes_split(store: FrameStore, path: str | Path, *, partial: bool = False) -> Split:
    """The official division: ``{"train": [rows], "valid": [rows], "test": [rows]}``, .json or .json.gz.

    Args:
        store: all frames of the matching ``MatPES-*.json``, in its order.
        path: ``MatPES-*-split.json.gz``.
        partial: allow rows of the store that are in no part.

    Raises:
        DataError: not such a file, frames were left out when the store was made, or the file belongs to
            another version (the numbers of rows differ, a row is missing or twice).
    """
    where = str(path)
    with open_compressed(Path(path), limit=SPLIT_LIMIT, where=where) as file:
        data = parse_json(file.read(), where=where)
    if _left_out(store.info):
        raise DataError(
            "Frames were left out when this data set was made, so that its rows are not those of the file.",
            where=where,
            fix="read all frames (skip_bad=false)",
        )
    parts = {name: _rows(data, names, where) for name, names in PARTS.items()}
    unknown = set(data) - {name for names in PARTS.values() for name in names}
    total = sum(map(len, parts.values()))
    largest = max((int(rows.max()) for rows in parts.values() if len(rows)), default=-1)
    if unknown or largest >= len(store) or (total != len(store) and not partial):
        raise DataError(
            f"The split has {total} rows up to {largest}, the data set has {len(store)} frames"
            + (f"; unknown parts {', '.join(sorted(unknown))}." if unknown else "."),
            where=where,
            fix="use the split of the same version and functional, and all of its frames",
        )
    split = Split(**parts, how={"method": "official", "file": Path(path).name})
    split.check(where)
    return split


def _left_out(info: dict[str, Any]) -> bool:
    return "skipped" in info or any("skipped" in part for part in info.get("parts", ()))


def _rows(data: Any, names: tuple[str, ...], where: str) -> Any:
    found = [data[name] for name in names if name in data] if isinstance(data, dict) else None
    if found is None or len(found) > 1:
        raise DataError("This is not a split of MatPES.", where=where, fix='it has {"train": [rows], ...}')
    rows = found[0] if found else []
    if not isinstance(rows, list) or not all(type(row) is int and 0 <= row < 2**62 for row in rows):
        raise DataError(f"The part {names[0]} is not a list of row numbers.", where=where)
    return np.sort(np.array(rows, dtype=np.int64))


READER = Reader(
    name="matpes",
    about="MatPES-*.json[.gz]: array of documents with pymatgen structures, stress in kbar (VASP sign)",
    options=MatPESOptions,
    recognises=recognises,
    pieces=pieces,
    read=read,
)
