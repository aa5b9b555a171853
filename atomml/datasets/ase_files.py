"""Reader for everything ASE reads: extxyz (also .gz, .xz), trajectories, databases, VASP output, CIF."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from atomml.datasets.labels import (
    LABELS,
    LabelKeys,
    candidates,
    choose_sources,
    to_energy,
    to_forces,
    to_stress,
)
from atomml.datasets.packing import optional_column, tag_column
from atomml.datasets.store import UNITS, FrameStore, concatenate, offsets_of
from atomml.datasets.store_files import is_store
from atomml.datasets.strings import PackedStrings
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["as_paths", "from_ase", "read_ase", "read_part", "require_labels", "with_file_tag"]

PathLike = str | Path
DECOMPRESS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


class _Read(NamedTuple):
    """What is kept of one structure until the whole file has been read and its labels are chosen."""

    numbers: ndarray
    positions: ndarray
    cell: ndarray
    pbc: ndarray
    labels: dict[str, dict[str, Any]]
    tags: dict[str, Any]
    atom_tags: ndarray | None
    fixed: ndarray | None


def read_ase(
    paths: PathLike | Sequence[PathLike],
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    energy_unit: str = "eV",
    length_unit: str = "Ang",
    stress_unit: str = "eV/A^3",
    stress_sign: str = "ase",
    index: str = ":",
    format: str | None = None,
    require_energy: bool = True,
) -> FrameStore:
    """Read labelled structures from files that ASE can read.

    Labels are found among the calculator's results, then under common names in ``info`` and ``arrays``;
    what was used is in ``store.info["labels"]``. Scalar entries of ``info`` become tags. Units and the sign
    of the stress are as stated, never guessed (`LabelKeys` says what the options mean).

    Args:
        paths: one file or several; with several, the tag ``file`` says where a frame came from.
        energy_key: see `LabelKeys`, as the next six.
        forces_key: likewise.
        stress_key: likewise.
        energy_unit: likewise.
        length_unit: likewise.
        stress_unit: likewise.
        stress_sign: likewise.
        index: which frames, as in ASE (":" all, "::10" every tenth).
        format: ASE's name of the file format, if the suffix does not tell.
        require_energy: refuse a file in which no frame has an energy.

    Raises:
        DataError: an unreadable or empty file, no energies, forces or stress of the wrong shape, NaN or
            infinite labels or positions, a frame without atoms, an unknown key or unit.
    """
    keys = LabelKeys(energy_key, forces_key, stress_key, energy_unit, length_unit, stress_unit, stress_sign)
    files = as_paths(paths)
    stores = []
    for path in files:
        frames = _iterate(path, index, format)
        store = _pack(frames, keys, str(path), path.name, require_energy)
        stores.append(store if len(files) == 1 else with_file_tag(store, str(path)))
    return concatenate(stores)


def from_ase(
    frames: Iterable[Atoms],
    *,
    keys: LabelKeys | None = None,
    name: str = "structures",
    require_energy: bool = False,
) -> FrameStore:
    """Pack structures that are already in memory; labels as in `read_ase`.

    Raises:
        DataError: as `read_ase`; also labels that belong to another geometry than the one given.
    """

    def checked() -> Iterator[Atoms]:
        for k, atoms in enumerate(frames):
            calc = atoms.calc
            if calc is not None and getattr(calc, "results", None) and calc.check_state(atoms):
                raise DataError(
                    "The labels belong to another geometry: the structure was changed after its calculation.",
                    where=f"{name}, frame {k} (counting from 0)",
                    fix="calculate again, or remove the calculator (atoms.calc = None)",
                )
            yield atoms

    return _pack(checked(), keys or LabelKeys(), name, name, require_energy)


def read_part(path: Path, text: str, keys: LabelKeys, *, first: int) -> FrameStore:
    """Frames of a part of an extended XYZ file, given as text; ``first`` is the number of its first frame.

    Raises:
        DataError: as `read_ase`; a stated key may be absent from a part.
    """

    def frames() -> Iterator[Atoms]:
        count = first
        try:
            for atoms in ase.io.iread(io.StringIO(text), index=":", format="extxyz"):
                yield atoms
                count += 1
        except Exception as error:
            raise _unreadable(path, count, error) from error

    return _pack(frames(), keys, str(path), path.name, False, first=first, whole=False)


def require_labels(info: Mapping[str, Any], keys: LabelKeys, require_energy: bool, where: str) -> None:
    """What `read_ase` demands of a whole file, for one that was read in parts.

    Raises:
        DataError: a stated key that no frame has, no energy at all.
    """
    for label in LABELS:
        if info["labels"][label]["found"] == 0 and (
            keys.stated(label) is not None or (require_energy and label == "energy")
        ):
            raise DataError(
                f"No frame has {'an energy' if label == 'energy' else label} under the key "
                f"{keys.stated(label) or 'that is looked for'}.",
                where=where,
                fix=f"state {label}_key; not read were: {', '.join(info.get('not_read', {})) or 'none'}",
            )


def as_paths(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    """One path or several as a list.

    Raises:
        DataError: none was given.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if not listed:
        raise DataError("No data file was given.", fix="give at least one path")
    return [Path(p).expanduser() for p in listed]


def with_file_tag(store: FrameStore, name: str) -> FrameStore:
    """The same frames with the tag ``file``."""
    fields = {key: getattr(store, key) for key in store.__dataclass_fields__}
    fields["tags"] = {**store.tags, "file": np.full(len(store), name)}
    return FrameStore(**fields | {"folder": None})


def _iterate(path: Path, index: str, format: str | None) -> Iterator[Atoms]:
    if not path.exists():
        raise DataError("The data file does not exist.", where=str(path), fix="check the path")
    if path.is_dir():
        kind = "a native store: use load_frames or FrameStore.open" if is_store(path) else "a folder"
        raise DataError(f"This is {kind}, not a file.", where=str(path), fix="give the files inside")
    count = 0
    try:
        with _plain_file(path) as plain:
            for atoms in ase.io.iread(str(plain), index=index, format=format):
                yield atoms
                count += 1
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, count, error) from error


def _unreadable(path: Path, count: int, error: Exception) -> DataError:
    return DataError(
        f"ASE cannot read this file beyond {count} frames ({type(error).__name__}: {error}).",
        where=f"{path}, frame {count} (counting from 0)",
        fix="the file may be truncated or of another format; state the format, or cut the frame out",
    )


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[Path]:
    """The file itself, or its decompressed copy: ASE seeks backwards, which is quadratic in a .gz or .xz."""
    opener = DECOMPRESS.get(path.suffix)
    if opener is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="atomml-") as folder:
        plain = Path(folder) / path.stem
        with opener(path, "rb") as packed, open(plain, "wb") as out:
            shutil.copyfileobj(packed, out)
        yield plain


def _pack(
    frames: Iterable[Atoms],
    keys: LabelKeys,
    source: str,
    short: str,
    require_energy: bool,
    *,
    first: int = 0,
    whole: bool = True,
) -> FrameStore:
    """Columns from structures; everything per atom is joined in one step.

    ``first`` is the number of the first frame; without ``whole`` there are more frames in the file.
    """
    unread: Counter[str] = Counter()
    names: Counter[str] = Counter()
    kept: list[_Read] = []
    for k, atoms in enumerate(frames, first):
        frame = _frame(atoms, keys, unread, f"{source}, frame {k} (counting from 0)")
        results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
        names.update({*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"})
        kept.append(frame)
    if not kept:
        raise DataError("The file has no frames.", where=source, fix="check the file and the index option")
    chosen = choose_sources([f.labels for f in kept], keys, names, source, whole=whole)
    if require_energy and whole and not chosen["energy"]["found"]:
        raise DataError(
            f"None of the {len(kept)} frames has an energy.",
            where=source,
            fix="state energy_key; the file has the keys: " + (", ".join(sorted(names)) or "none"),
        )
    energy, forces, stress = _label_columns(kept, chosen, keys, source, first)
    n_atoms = np.array([len(f.numbers) for f in kept], dtype=np.int64)
    for name in {c["key"].split(":")[1] for c in chosen.values() if c["key"]}:
        unread.pop(name, None)
    labels_used = {c["key"] for c in chosen.values()}
    return FrameStore(
        n_atoms,
        offsets_of(n_atoms),
        np.concatenate([f.numbers for f in kept]).astype(np.uint8),
        np.concatenate([f.positions for f in kept]),
        np.stack([f.cell for f in kept]),
        np.stack([f.pbc for f in kept]),
        energy,
        forces,
        stress,
        PackedStrings.pack(f"{short}#{first + k}" for k in range(len(kept))),
        _tag_columns([f.tags for f in kept], labels_used),
        optional_column([f.atom_tags for f in kept], n_atoms, np.int64),
        optional_column([f.fixed for f in kept], n_atoms, np.bool_),
        {
            "source": source,
            "units": dict(UNITS),
            "labels": chosen,
            "stated": {k: getattr(keys, k) for k in keys.__dataclass_fields__},
            "not_read": dict(sorted(unread.items())),
        },
    )


def _frame(atoms: Atoms, keys: LabelKeys, unread: Counter[str], where: str) -> _Read:
    if len(atoms) == 0:
        raise DataError("The frame has no atoms.", where=where, fix="remove the frame")
    if atoms.numbers.min() < 1 or atoms.numbers.max() > 118:
        raise DataError("The frame has an unknown element (X or beyond 118).", where=where, fix="correct it")
    positions = np.array(atoms.positions, dtype=np.float64) * keys.length_scale
    cell = np.array(atoms.cell.array, dtype=np.float64) * keys.length_scale
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise DataError("A position or the cell is NaN or infinite.", where=where, fix="remove the frame")
    labels = candidates(atoms, keys)
    found = {source.split(":")[1] for sources in labels.values() for source in sources}
    tags = {}
    for key, value in atoms.info.items():
        scalar = value.item() if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 else value
        if isinstance(scalar, str | bool | int | float):
            tags[str(key)] = scalar
        elif key not in found:
            unread[str(key)] += 1
    known = {"numbers", "positions", "tags"} | found
    unread.update(key for key in atoms.arrays if key not in known)
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    unread.update(key for key in results if key not in found)
    atom_tags = np.array(atoms.arrays["tags"], dtype=np.int64) if "tags" in atoms.arrays else None
    fixed = _fixed(atoms, unread)
    return _Read(
        np.array(atoms.numbers), positions, cell, np.array(atoms.pbc, bool), labels, tags, atom_tags, fixed
    )


def _fixed(atoms: Atoms, unread: Counter[str]) -> ndarray | None:
    mask = None
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask = np.zeros(len(atoms), dtype=bool) if mask is None else mask
            mask[constraint.index] = True
        else:
            unread[f"constraint {type(constraint).__name__}"] += 1
    return mask


def _label_columns(
    frames: list[_Read], chosen: dict[str, dict[str, Any]], keys: LabelKeys, source: str, first: int
) -> tuple[ndarray, ndarray, ndarray]:
    energy = np.full(len(frames), np.nan)
    stress = np.full((len(frames), 3, 3), np.nan)
    forces, ignored = [], 0
    for k, frame in enumerate(frames):
        where = f"{source}, frame {first + k} (counting from 0)"
        e, f, s = (frame.labels[label].get(chosen[label]["key"]) for label in LABELS)
        if e is not None:
            energy[k] = to_energy(e, keys, where)
        n = len(frame.numbers)
        forces.append(np.full((n, 3), np.nan) if f is None else to_forces(f, n, keys, where))
        if s is not None:
            volume = abs(float(np.linalg.det(frame.cell)))
            if volume > 0 and frame.pbc.all():
                stress[k] = to_stress(s, volume, chosen["stress"]["key"], keys, where)
            else:
                ignored += 1
    chosen["stress"]["ignored_without_3d_cell"] = ignored
    chosen["stress"]["found"] -= ignored
    return energy, np.concatenate(forces), stress


def _tag_columns(tags: list[dict[str, Any]], labels_used: set[str | None]) -> dict[str, ndarray]:
    names = dict.fromkeys(key for frame in tags for key in frame)
    return {
        name: tag_column([frame.get(name) for frame in tags])
        for name in names
        if f"info:{name}" not in labels_used
    }
