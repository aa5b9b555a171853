"""`FrameStore`: labelled structures in packed columns, in memory or memory-mapped from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import UInt8

from atomml.datasets.frame import Frame
from atomml.datasets.index import FrameIndex, frame_index
from atomml.datasets.strings import PackedStrings
from atomml.datasets.tags import tag_text, tags_at
from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

if TYPE_CHECKING:
    from atomml.graph.atom_graph import AtomGraph

UNITS = {"energy": "eV", "length": "Ang", "forces": "eV/Ang", "stress": "eV/Ang^3", "stress_sign": "ase"}
CHUNK = 200_000  # frames at a time, where a column would not fit into memory with its intermediates

__all__ = ["UNITS", "FrameStore", "atom_rows", "concatenate", "label_summary"]


@dataclass(frozen=True, eq=False)
class FrameStore:
    """Structures and labels; frame i owns the atoms ``offsets[i]:offsets[i+1]``.

    Units eV, Å, eV/Å, eV/Å³ (ASE sign: σ = (1/V) ∂E/∂ε, positive when the crystal wants to shrink).
    NaN in a label means that the source has no such label for this frame.

    Attributes:
        tags: per-frame columns (``config_type``, ``T``, ``traj`` ...), strings or numbers.
        atom_tags: per-atom class (OC20: 0 subsurface, 1 surface, 2 adsorbate), if the source has one.
        fixed: atoms held by ``FixAtoms`` in the source; their forces are the raw ones, never zeroed.
        info: source, units, licence, level of theory, label keys; JSON values only.
        folder: where the columns are mapped from, if they are.
    """

    n_atoms: Int64[ndarray, " frames"]
    offsets: Int64[ndarray, " frames+1"]
    numbers: UInt8[ndarray, " atoms"]
    positions: Float64[ndarray, "atoms 3"]
    cell: Float64[ndarray, "frames 3 3"]
    pbc: Bool[ndarray, "frames 3"]
    energy: Float64[ndarray, " frames"]
    forces: Float64[ndarray, "atoms 3"]
    stress: Float64[ndarray, "frames 3 3"]
    ids: PackedStrings
    tags: Mapping[str, ndarray] = field(default_factory=dict)
    atom_tags: Int64[ndarray, " atoms"] | None = None
    fixed: Bool[ndarray, " atoms"] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @staticmethod
    def open(folder: str | Path, *, verify: bool | None = None) -> FrameStore:
        """Map a folder written by `save`.

        Args:
            folder: the folder that holds ``header.json``.
            verify: recompute every checksum; by default only for stores below 64 MiB.

        Raises:
            DataError: not a frame store, another version, truncated or altered.
        """
        from atomml.datasets.store_files import open_store

        return open_store(Path(folder), verify=verify)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the columns to ``folder``, which appears only when complete.

        Raises:
            DataError: the folder exists and ``overwrite`` is false, or the disk refuses (full, read-only).
        """
        from atomml.datasets.store_writer import save_store

        return save_store(self, Path(folder), overwrite=overwrite)

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __repr__(self) -> str:
        where = f", {self.folder}" if self.folder else ""
        return f"FrameStore({len(self)} frames, {len(self.numbers)} atoms, {label_summary(self)}{where})"

    def __reduce__(self) -> tuple[Callable[..., FrameStore], tuple[Any, ...]]:
        if self.folder is not None:
            return FrameStore.open, (self.folder,)
        return FrameStore, tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def _row(self, i: int) -> int:
        row = i + len(self) if i < 0 else i
        if not 0 <= row < len(self):
            raise IndexError(f"frame {i} of {len(self)}")
        return row

    def atoms_of(self, i: int) -> slice:
        """Where the atoms of frame i are in the per-atom columns."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def __getitem__(self, i: int) -> Atoms:
        """Frame i as ``ase.Atoms``, labels in a `SinglePointCalculator`, tags in ``info``."""
        row = self._row(i)
        part = self.atoms_of(row)
        atoms = Atoms(self.numbers[part], self.positions[part], cell=self.cell[row], pbc=self.pbc[row])
        atoms.info.update(self.tags_of(row))
        if self.atom_tags is not None:
            atoms.set_tags(self.atom_tags[part])
        if self.fixed is not None and self.fixed[part].any():
            atoms.set_constraint(FixAtoms(mask=np.array(self.fixed[part])))
        labels: dict[str, Any] = {}
        if np.isfinite(self.energy[row]):
            labels["energy"] = float(self.energy[row])
        if np.isfinite(self.forces[part]).all():
            labels["forces"] = np.array(self.forces[part])
        if np.isfinite(self.stress[row]).all():
            labels["stress"] = full_3x3_to_voigt_6_stress(self.stress[row])
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms

    def frame(self, i: int) -> Frame:
        """Frame i as views of the columns: the cheapest access; tags by `tags_of`."""
        row = self._row(i)
        first, end = self.offsets[row : row + 2].tolist()
        return Frame(
            self.numbers[first:end],
            self.positions[first:end],
            self.cell[row],
            self.pbc[row],
            self.energy.item(row),
            self.forces[first:end],
            self.stress[row],
            atom_tags=None if self.atom_tags is None else self.atom_tags[first:end],
            fixed=None if self.fixed is None else self.fixed[first:end],
        )

    def tags_of(self, i: int) -> dict[str, Any]:
        """Tags of frame i as Python values; absent ones (empty string, NaN) are left out."""
        return tags_at(self.tags, i)

    def graph(self, i: int, cutoff: float) -> AtomGraph:
        """Frame i as a graph with labels, atom tags and ``index`` = i; ``cutoff`` in Å."""
        from atomml.graph.atom_graph import atom_graph  # torch is not needed to read or convert files

        row = self._row(i)
        part = self.atoms_of(row)
        return atom_graph(
            self.numbers[part].astype(np.int64),
            np.array(self.positions[part]),
            np.array(self.cell[row]),
            np.array(self.pbc[row]),
            float(cutoff),
            energy=float(self.energy[row]),
            forces=np.array(self.forces[part]),
            stress=np.array(self.stress[row]),
            tag=None if self.atom_tags is None else np.array(self.atom_tags[part]),
            index=row,
        )

    def subset(self, rows: Sequence[int] | ndarray) -> FrameStore:
        """Copy of the frames ``rows``, in that order.

        Raises:
            DataError: a row outside the store.
        """
        index = _checked_rows(rows, len(self))
        atoms = atom_rows(self.offsets, index)
        n_atoms = np.array(self.n_atoms[index])
        return FrameStore(
            n_atoms,
            offsets_of(n_atoms),
            np.array(self.numbers[atoms]),
            np.array(self.positions[atoms]),
            np.array(self.cell[index]),
            np.array(self.pbc[index]),
            np.array(self.energy[index]),
            np.array(self.forces[atoms]),
            np.array(self.stress[index]),
            PackedStrings.pack(self.ids[int(i)] for i in index),
            {name: np.array(column[index]) for name, column in self.tags.items()},
            None if self.atom_tags is None else np.array(self.atom_tags[atoms]),
            None if self.fixed is None else np.array(self.fixed[atoms]),
            dict(self.info),
        )

    def fingerprint(self) -> str:
        """SHA-256 over geometry and labels in order; file names, ids and tags do not enter."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = fingerprint_digest()
        for name in ("n_atoms", "numbers", "positions", "cell", "pbc", "energy", "forces", "stress"):
            digest.update(np.ascontiguousarray(getattr(self, name)).data.cast("B") if len(self) else b"")
        return digest.hexdigest()

    @cached_property
    def index(self) -> FrameIndex:
        """Largest forces and elements of every frame; stored with a store on disk, else computed once."""
        return frame_index(self)

    def elements(self, rows: Sequence[int] | ndarray | None = None) -> list[int]:
        """Atomic numbers that occur in ``rows`` (all by default), ascending."""
        return self.index.present(None if rows is None else np.asarray(rows, dtype=np.int64))

    def element_counts(
        self, rows: Sequence[int] | ndarray | None = None
    ) -> tuple[list[int], Int64[ndarray, "frames elements"]]:
        """Elements that occur in ``rows`` (all by default) and how many atoms of each every frame has."""
        index = np.arange(len(self)) if rows is None else _checked_rows(rows, len(self))
        elements = self.elements(index)
        column = np.zeros(256, dtype=np.int64)
        column[elements] = np.arange(len(elements))
        counts = np.zeros((len(index), len(elements)), dtype=np.int64)
        for first in range(0, len(index), CHUNK):
            part = index[first : first + CHUNK]
            frame = np.repeat(np.arange(len(part)), self.n_atoms[part])
            code = frame * len(elements) + column[self.numbers[atom_rows(self.offsets, part)]]
            flat = np.bincount(code, minlength=len(part) * len(elements))
            counts[first : first + CHUNK] = flat.reshape(len(part), len(elements))
        return elements, counts

    def has_label(self) -> dict[str, Bool[ndarray, " frames"]]:
        """Which frames have an energy, forces, a stress."""
        return {
            "energy": np.isfinite(self.energy),
            "forces": np.isfinite(self.index.max_force),
            "stress": np.isfinite(self.stress).all(axis=(1, 2)),
        }

    def origins(self) -> list[dict[str, Any]]:
        """The ``info`` of every file or store that this one was joined from; its own if it was not joined."""
        parts, found = [self.info], []
        while parts:
            info = parts.pop(0)
            parts[:0] = info.get("parts", [])
            if "parts" not in info:
                found.append(info)
        return found

    def label_counts(self) -> dict[str, int]:
        """Number of frames with an energy, forces, a stress."""
        return {name: int(mask.sum()) for name, mask in self.has_label().items()}


def fingerprint_digest() -> Any:
    """SHA-256 before the first column of a fingerprint; the columns follow in the order of the store."""
    return hashlib.sha256(b"atomml-frames-1")


def label_summary(store: FrameStore) -> str:
    """``energy 500/500, forces 500/500, stress 0/500``."""
    return ", ".join(f"{name} {count}/{len(store)}" for name, count in store.label_counts().items())


def offsets_of(n_atoms: Int64[ndarray, " frames"]) -> Int64[ndarray, " frames+1"]:
    """Cumulative atom counts, starting at 0."""
    return np.concatenate([[0], np.cumsum(n_atoms)]).astype(np.int64)


def atom_rows(offsets: Int64[ndarray, " ends"], rows: Int64[ndarray, " rows"]) -> Int64[ndarray, " atoms"]:
    """Rows of the per-atom columns that belong to the frames ``rows``, in order."""
    counts = offsets[rows + 1] - offsets[rows]
    start = np.repeat(offsets[rows] - offsets_of(counts)[:-1], counts)
    return (start + np.arange(int(counts.sum()))).astype(np.int64)


def concatenate(stores: Sequence[FrameStore]) -> FrameStore:
    """All frames of ``stores`` in order; a tag that one of them lacks is absent (empty, NaN) there.

    A tag that is text in any of them is text in all.

    Raises:
        DataError: no stores.
    """
    if not stores:
        raise DataError("There is nothing to concatenate.", fix="give at least one data set")
    if len(stores) == 1:
        return stores[0]

    def join(name: str) -> ndarray:
        return np.concatenate([getattr(s, name) for s in stores])

    n_atoms = join("n_atoms")
    return FrameStore(
        n_atoms=n_atoms,
        offsets=offsets_of(n_atoms),
        numbers=join("numbers"),
        positions=join("positions"),
        cell=join("cell"),
        pbc=join("pbc"),
        energy=join("energy"),
        forces=join("forces"),
        stress=join("stress"),
        ids=PackedStrings.pack(s for store in stores for s in store.ids),
        tags={name: _join_tag(name, stores) for name in dict.fromkeys(k for s in stores for k in s.tags)},
        atom_tags=_join_optional("atom_tags", stores, np.int64),
        fixed=_join_optional("fixed", stores, np.bool_),
        info={"parts": [{"frames": len(s), **s.info} for s in stores]},
    )


def _join_optional(name: str, stores: Sequence[FrameStore], dtype: type[np.generic]) -> ndarray | None:
    columns = [getattr(s, name) for s in stores]
    if all(c is None for c in columns):
        return None
    filled = [
        np.zeros(len(s.numbers), dtype=dtype) if c is None else c
        for c, s in zip(columns, stores, strict=True)
    ]
    return np.concatenate(filled)


def _join_tag(name: str, stores: Sequence[FrameStore]) -> ndarray:
    columns = [s.tags.get(name) for s in stores]
    if any(c is not None and c.dtype.kind == "U" for c in columns):
        return np.concatenate([tag_text(s.tags.get(name), len(s)) for s in stores])
    return np.concatenate(
        [np.full(len(s), np.nan) if c is None else c for c, s in zip(columns, stores, strict=True)]
    )


def _checked_rows(rows: Sequence[int] | ndarray, n: int) -> Int64[ndarray, " rows"]:
    index = np.asarray(rows, dtype=np.int64).reshape(-1)
    wrong = index[(index < 0) | (index >= n)]
    if len(wrong):
        raise DataError(
            f"Row {wrong[0]} does not exist: the data set has {n} frames (0 to {n - 1}).",
            fix="use rows or a split made for this data set",
        )
    return index
