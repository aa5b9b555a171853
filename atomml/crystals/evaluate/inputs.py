"""Crystals to be evaluated, with what is known of them, and sets to compare them with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import iread

from atomml.datasets import FrameStore, load_frames
from atomml.datasets.readers import choose_reader
from atomml.datasets.store_files import is_store
from atomml.errors import AtommlError, DataError

__all__ = ["Generated", "load_crystals", "read_generated", "skipped"]

AS_WRITTEN = {"niggli": False, "canonical": False, "thirds": False}
CRYSTAL_READERS = ("crystals-csv", "cif")


@dataclass(frozen=True)
class Generated:
    """What was generated, in the order of the file.

    Attributes:
        structures: None where one cannot be read.
        errors: why, or None.
        records: lines of structures.jsonl, empty without that file.
    """

    structures: tuple[Atoms | None, ...]
    errors: tuple[str | None, ...]
    records: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def reference_rows(self) -> list[int] | None:
        """Row of the reference that each structure predicts, if all records or comment lines say it."""
        rows = [
            record.get("reference", None if atoms is None else atoms.info.get("reference"))
            for record, atoms in zip(self.records, self.structures, strict=True)
        ]
        known = [int(row) for row in rows if row is not None]
        return known if known and len(known) == len(rows) else None


def read_generated(path: Path, *, relaxed: bool = False) -> Generated:
    """Crystals of a folder of `generate`, or of any file or folder with crystals, as they were written.

    Known are a folder with ``structures.jsonl``, a folder of CIF files, and what `load_frames` reads. What could not
    be made, and a CIF that cannot be read, counts as a structure that is not there.

    Args:
        path: the folder or file.
        relaxed: take the relaxed structures of a folder of `generate`.

    Raises:
        DataError: nothing to read, a damaged extxyz, files that do not belong together.
    """
    if path.is_dir() and (path / ("relaxed.jsonl" if relaxed else "structures.jsonl")).exists():
        return _folder(path, relaxed=relaxed)
    if relaxed:
        raise DataError("There are no relaxed structures.", where=str(path), fix="relax them first")
    if path.is_dir() and not is_store(path):
        return _cif_folder(path)
    if path.suffix in (".xyz", ".extxyz"):
        found = _extxyz(path)
        return Generated(found, (None,) * len(found), tuple({} for _ in found))
    store = load_crystals(path, skip_bad=True, **AS_WRITTEN)
    lost = skipped(store)
    structures = (*(store[k] for k in range(len(store))), *([None] * len(lost)))
    return Generated(structures, (*([None] * len(store)), *lost), tuple({} for _ in structures))


def load_crystals(path: Path, **options: Any) -> FrameStore:
    """`load_frames` without labels; the options are those of the readers of crystals, and of no others.

    Raises:
        DataError: see `load_frames`.
    """
    if not is_store(path) and choose_reader([path]).name in CRYSTAL_READERS:
        return load_frames(path, require_energy=False, **options)
    return load_frames(path, require_energy=False)


def _folder(path: Path, *, relaxed: bool) -> Generated:
    from atomml.crystals.outputs.folder import GENERATED, RELAXED, iterate_generated, read_records

    records = {record["index"]: record for record in read_records(path)}
    name = RELAXED if relaxed else GENERATED
    structures = {row["index"]: atoms for atoms, row in iterate_generated(path, name)}
    if relaxed:  # what could not be made counts, and what was not relaxed too
        found = {row["index"]: row for row in read_records(path, RELAXED)}
        absent = {"valid": False, "reason": "not relaxed"}
        records = {k: row | (found.get(k, absent) if row["valid"] else {}) for k, row in records.items()}
    errors = tuple(None if record["valid"] else str(record["reason"]) for record in records.values())
    return Generated(tuple(structures.get(k) for k in records), errors, tuple(records.values()))


def _extxyz(path: Path) -> tuple[Atoms, ...]:
    try:
        found = tuple(iread(path, index=":", format="extxyz"))
    except Exception as problem:  # ASE raises whatever its parser meets
        raise DataError(
            f"Cannot read structures ({type(problem).__name__}: {problem}).",
            where=str(path),
            fix="the file is damaged: write it again",
        ) from problem
    if not found:
        raise DataError("There is no structure in this file.", where=str(path))
    return found


def _cif_folder(path: Path) -> Generated:
    files = sorted(path.rglob("*.cif"))
    if not files:
        raise DataError(
            "There is neither structures.jsonl nor any CIF file.", where=str(path), fix="check the path"
        )
    structures: list[Atoms | None] = []
    errors: list[str | None] = []
    for file in files:
        try:
            structures.append(load_frames(file, reader="cif", require_energy=False, **AS_WRITTEN)[0])
            errors.append(None)
        except AtommlError as problem:
            structures.append(None)
            errors.append(problem.what)
    return Generated(
        tuple(structures), tuple(errors), tuple({"file": str(f.relative_to(path))} for f in files)
    )


def skipped(store: FrameStore) -> list[str]:
    """Why rows of a file were left out, one text for each."""
    return [
        reason
        for info in store.origins()
        for reason, entry in info.get("skipped", {}).items()
        for _ in range(entry["frames"])
    ]
