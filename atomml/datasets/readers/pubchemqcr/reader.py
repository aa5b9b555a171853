"""PubChemQCR: relaxation trajectories of molecules in LMDB shards, one gzipped pickle per molecule.

Every step with energy and gradient is a frame: E in eV, F = −gradient in eV/Å, no cell. Facts about the format:
docs/guides/pubchemqcr.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols

from atomml.config import Config
from atomml.datasets.frame import Frame, Skipped
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers.pubchemqcr.labels import CONSTANTS, ConstantsName, atom_energies
from atomml.datasets.readers.pubchemqcr.record import LISTS, MOLECULE_OF_OTHER_ATOMS, Stage, Step, steps_of
from atomml.datasets.readers.reader import UNITS, Piece, Reader
from atomml.datasets.safe.bounded import gzip_decompress
from atomml.datasets.safe.lmdb_file import LmdbFile, open_lmdb
from atomml.datasets.safe.safe_pickle import load_pickle
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["READER", "PubChemQCROptions", "valid_cids"]

MOLECULES = 128  # of a piece: some 5,000 steps
SUBSET_FILE = "Data06.lmdb"  # PubChemQCR-S is this shard
MAX_RECORD = 1 << 28  # bytes of a decompressed molecule
LEVELS = {
    "pm3": "PM3",
    "hf": "Hartree-Fock (basis not stated in the source)",
    "DFT_1st": "B3LYP/6-31G* (PubChemQC; Firefly or SMASH)",
    "DFT_2nd": "B3LYP/6-31G* (PubChemQC; GAMESS)",
}


class PubChemQCROptions(Config):
    """What is read from the trajectories of PubChemQCR."""

    stage: Stage = "1st"
    """Part of the relaxation: pm3, hf, 1st (DFT_1st), 1st_smash (its steps computed with SMASH), 2nd (DFT_2nd)
    or mixing (DFT_1st followed by DFT_2nd). The published models use 1st."""

    subset: bool = False
    """PubChemQCR-S: of the files, only the one whose name contains ``Data06.lmdb``."""

    energy: Literal["total", "atom_references"] = "total"
    """Total energy, or the energy less the published energies of free atoms. Molecules with an element that is
    not in the table (I, Na, ...) are kept with ``total``, and left out and counted with ``atom_references``."""

    constants: ConstantsName = "paper"
    """``paper``: 27.2114 eV and 1.8897 Bohr/Å, with which the published labels were made; ``codata``: the values
    of ASE (energies differ by 0.5 parts per million, forces by 13)."""

    extra_references: dict[str, float] = {}
    """Energies of free atoms in Hartree that are added to the table or replace its entries: {I: -297.8}."""

    pickles: Literal["builtins", "numpy"] = "builtins"
    """What the records may hold: only Python's own types, or numpy numbers and arrays too."""

    skip_bad_records: bool = False
    """Leave out and count molecules whose record cannot be decoded, in place of an error."""


def recognises(path: Path) -> bool:
    """A shard (or a folder with shards) whose first key is a padded CID and whose first value is gzipped."""
    shards = sorted(path.glob("*.lmdb")) if path.is_dir() else [path] if path.suffix == ".lmdb" else []
    if not shards:
        return False
    try:
        shard = open_lmdb(shards[0])
        padded = any(len(key) == 9 and _cid(key) is not None for key in shard.keys(0, 1))
        return padded and shard.value(0)[:2] == b"\x1f\x8b"
    except DataError:
        return False


def shards_of(paths: Sequence[Path], subset: bool) -> list[Path]:
    """Shards in the order of the published numbering: those of a folder or pattern sorted by name.

    Raises:
        DataError: a path that does not exist, no shard in it, no shard of the subset.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not (path / "data.mdb").exists():
            inside = sorted(path.glob("*.lmdb"), key=str)
        elif not path.exists() and has_magic(str(path)):
            inside = [Path(name) for name in sorted(glob(str(path)))]
        else:
            inside = [path]
        if not inside:
            raise DataError("There are no files *.lmdb here.", where=str(path), fix="check the path")
        found += inside
    kept = [path for path in found if SUBSET_FILE in path.name] if subset else found
    if not kept:
        raise DataError(
            f"PubChemQCR-S is the file {SUBSET_FILE}, which is not among the {len(found)} files.",
            where=", ".join(str(p) for p in found[:5]),
            fix="give that file, or subset: false",
        )
    return kept


def pieces(paths: Sequence[Path], options: PubChemQCROptions) -> list[Piece]:
    """Ranges of molecules, in the order of shards and CIDs.

    Raises:
        DataError: as `shards_of`, or a shard that is damaged.
    """
    return [
        Piece(path, start, min(start + MOLECULES, n))
        for path in shards_of(paths, options.subset)
        for n in (open_lmdb(path).n_entries,)
        for start in range(0, n, MOLECULES)
    ]


def read(piece: Piece, options: PubChemQCROptions) -> FrameStore:
    """The frames of some molecules, each decoded once.

    Raises:
        DataError: the file or a record cannot be read.
    """
    unread: Counter[str] = Counter()
    info: dict[str, Any] = {
        "source": piece.path.name,
        "units": dict(UNITS),
        "stated": {
            "reader": "pubchemqcr",
            "stage": options.stage,
            "energy": options.energy,
            "constants": options.constants,
            "hartree_in_eV": CONSTANTS[options.constants].hartree,
            "bohr_per_angstrom": CONSTANTS[options.constants].bohr_per_angstrom,
        },
        "level_of_theory": "; ".join(LEVELS[name] for name in LISTS[options.stage]),
        "licence": "CC-BY-4.0",
    }
    if options.extra_references:
        info["stated"]["extra_references"] = dict(options.extra_references)
    frames = list(_frames(piece, options, unread))
    n = sum(isinstance(frame, Frame) for frame in frames)
    keys = {"energy": "energy", "forces": "-gradient", "stress": None}
    info["labels"] = {label: {"key": key, "found": n if key else 0, "of": n} for label, key in keys.items()}
    if unread:
        info["not_read"] = dict(sorted(unread.items()))
    return pack_frames(frames, info, where=str(piece))


def valid_cids(paths: Sequence[str | Path], **options: Any) -> list[int]:
    """CIDs in the numbering of the published split: of every molecule with a step that its rules keep.

    Decodes every molecule, so it takes as long as reading. Needed only where molecules were left out for a
    gradient of other atoms, which the published rules do not look for; see `pubchemqcr_split`.

    Raises:
        DataError: as for reading.
    """
    parsed = PubChemQCROptions(**options)
    return [
        cid
        for path in shards_of([Path(p) for p in paths], parsed.subset)
        for cid, results in _molecules(Piece(path), parsed, Counter())
        if any(isinstance(r, Step) or r.reason == MOLECULE_OF_OTHER_ATOMS for r in results)
    ]


def _frames(piece: Piece, options: PubChemQCROptions, unread: Counter[str]) -> Iterator[Frame | Skipped]:
    table = atom_energies(options.extra_references)
    for cid, results in _molecules(piece, options, unread):
        if options.energy == "atom_references":
            steps = [step for step in results if isinstance(step, Step)]
            lacking = sorted({int(z) for step in steps for z in step.numbers[np.isnan(table[step.numbers])]})
            if lacking:
                names = ", ".join(chemical_symbols[z] for z in lacking)
                yield Skipped(f"{piece.path}, CID {cid}", f"molecule: no reference energy (E0) for {names}")
                continue
        for result in results:
            yield result if isinstance(result, Skipped) else _frame(result, cid, options, table)


def _molecules(
    piece: Piece, options: PubChemQCROptions, unread: Counter[str]
) -> Iterator[tuple[int, list[Step | Skipped]]]:
    """CID and steps of every molecule of a piece; of -1 what has no CID."""
    file = open_lmdb(piece.path)
    for n, key in enumerate(file.keys(piece.start, piece.stop), piece.start):
        where = f"{piece.path}, key {key[:20].decode('ascii', 'replace')}"
        cid = _cid(key)
        if cid is None:
            yield -1, [Skipped(where, "record: the key is not a CID")]
            continue
        try:
            record = _record(file, n, options, where)
            yield cid, list(steps_of(record, options.stage, where, unread))
        except DataError as error:
            if not options.skip_bad_records:
                raise
            yield cid, [Skipped(where, f"record: cannot be decoded ({error.what[:80]})")]


def _record(file: LmdbFile, n: int, options: PubChemQCROptions, where: str) -> Any:
    data = gzip_decompress(file.value(n), limit=MAX_RECORD, where=where)
    return load_pickle(data, where=where, allow=options.pickles)


def _cid(key: bytes) -> int | None:
    return int(key) if key.isdigit() and len(key) <= 18 else None


def _frame(step: Step, cid: int, options: PubChemQCROptions, table: ndarray) -> Frame:
    constants = CONSTANTS[options.constants]
    energy = step.energy
    if options.energy == "atom_references":
        energy -= float(table[step.numbers].sum())
    return Frame(
        step.numbers,
        step.positions,
        np.zeros((3, 3)),
        np.zeros(3, dtype=np.bool_),
        energy * constants.hartree,
        step.gradient * -(constants.hartree * constants.bohr_per_angstrom),
        id=f"{cid:09d}/{step.list_name}/{step.number}",
        tags={
            "cid": cid,
            "traj": f"{cid:09d}",
            "stage": step.list_name,
            "step": step.number,
            "last": step.last,
            "smash": step.smash,
        },
    )


READER = Reader(
    "pubchemqcr",
    "PubChemQCR: relaxation trajectories of molecules, LMDB shards of gzipped pickles",
    PubChemQCROptions,
    recognises,
    pieces,
    read,
)
