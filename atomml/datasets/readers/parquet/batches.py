"""A batch of parquet rows as a `FrameStore`: everything in columns, rows that cannot be used named or skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from atomml.datasets.labels import LABELS, LENGTH_UNITS
from atomml.datasets.packing import EXAMPLES
from atomml.datasets.readers.parquet.columns import Problems
from atomml.datasets.readers.parquet.labels import LabelColumns, read_labels
from atomml.datasets.readers.parquet.schema import Roles
from atomml.datasets.readers.parquet.structures import Structures, read_structures
from atomml.datasets.readers.parquet.tags import JSON_TEXT, read_tags, tag_fields
from atomml.datasets.store import FrameStore, atom_rows, offsets_of
from atomml.datasets.strings import PackedStrings
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["BatchAccount", "batch_store"]


@dataclass
class BatchAccount:
    """What was found, skipped and left out in the rows of a piece."""

    rows: int = 0
    found: Counter[str] = field(default_factory=Counter)
    flat_stress: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    unread_columns: set[str] = field(default_factory=set)
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def labels(self, roles: Roles) -> dict[str, dict[str, Any]]:
        """``info["labels"]``."""
        made: dict[str, dict[str, Any]] = {
            label: {"key": getattr(roles, label), "found": self.found[label], "of": self.rows}
            for label in LABELS
        }
        if self.flat_stress:
            made["stress"]["ignored_without_3d_cell"] = self.flat_stress
        return made

    def not_read(self) -> dict[str, int]:
        """``info["not_read"]``: columns and how many rows have them."""
        counts = self.unread + Counter(dict.fromkeys(self.unread_columns, self.rows))
        return dict(sorted(counts.items()))

    def skip(self, problems: Problems, first: int, where: str) -> None:
        """Count rows that were left out."""
        for row, what in sorted(problems.reasons.items()):
            reason = re.sub(r"-?\d[\d.e+-]*", "N", what)
            entry = self.skipped.setdefault(reason, {"frames": 0, "examples": []})
            entry["frames"] += 1
            if len(entry["examples"]) < EXAMPLES:
                entry["examples"].append(f"{where}, row {first + row}")


def batch_store(
    batch: Any, first: int, roles: Roles, options: Any, account: BatchAccount, path: Path
) -> FrameStore:
    """The frames of a batch.

    Args:
        batch: arrow record batch.
        first: number of its first row in the file.
        roles: where the parts are.
        options: of the reader.
        account: counts what was found, skipped and left out.
        path: the file.

    Raises:
        DataError: a row that cannot be used, unless they are skipped; a column of the wrong type.
    """
    where, problems, rows = str(path), Problems(), batch.num_rows
    column = _columns(batch)
    structures = read_structures(column, roles, rows, problems, where, periodic=options.periodic)
    length = LENGTH_UNITS[options.length_unit]
    cell = structures.cell.astype(np.float64).reshape(-1, 3, 3) * length
    problems.add(~np.isfinite(cell).all(axis=(1, 2)), "The cell is NaN or infinite.")
    with np.errstate(invalid="ignore", over="ignore"):
        volume = np.abs(np.linalg.det(np.where(np.isfinite(cell), cell, 0.0)))
    volume = np.where(structures.pbc.all(axis=1) & (volume > 0), volume, np.nan)
    labels = read_labels(column, roles, structures.numbers.counts, volume, options, problems, where)
    bad = ~np.isfinite(structures.positions.values)
    if bad.any():
        hit = np.searchsorted(structures.positions.offsets, np.flatnonzero(bad), side="right") - 1
        problems.add(np.unique(hit), "The positions are NaN or infinite.")
    if problems.reasons and options.on_error == "raise":
        row = min(problems.reasons)
        raise DataError(
            problems.reasons[row],
            where=f"{where}, row {first + row} (counting from 0)",
            fix="correct the row, or state on_error=skip",
        )
    account.skip(problems, first, where)
    kept = np.setdiff1d(np.arange(rows), np.array(list(problems.reasons), dtype=np.int64))
    store = _packed(structures, cell, labels, kept, length)
    ids = _ids(column, roles, rows, first, path)
    columns = _tag_columns(batch, roles, column, options.tags)
    tags = read_tags(columns, options.tags, account.unread, where)
    account.rows += len(kept)
    account.flat_stress += labels.flat_stress
    account.found["energy"] += int(np.isfinite(store.energy).sum())
    account.found["forces"] += int(labels.has_forces[kept].sum())
    account.found["stress"] += int(np.isfinite(store.stress[:, 0, 0]).sum())
    return replace(
        store,
        ids=PackedStrings.pack(ids[k] for k in kept),
        tags={name: values[kept] for name, values in tags.items()},
    )


def _packed(
    structures: Structures, cell: ndarray, labels: LabelColumns, kept: ndarray, length: float
) -> FrameStore:
    numbers = structures.numbers.take(kept)
    atoms = numbers.counts
    positions = structures.positions.take(kept).values.astype(np.float64).reshape(-1, 3)
    forces = np.full((len(numbers.values), 3), np.nan)
    if labels.forces is not None:
        has = labels.has_forces[kept]
        rows = np.flatnonzero(has)
        target = slice(None) if has.all() else atom_rows(offsets_of(atoms), rows)
        forces[target] = labels.forces.take(kept[rows]).values.reshape(-1, 3)
    return FrameStore(
        atoms,
        offsets_of(atoms),
        numbers.values.astype(np.uint8),
        positions if length == 1.0 else positions * length,
        cell[kept],
        structures.pbc[kept].astype(np.bool_),
        labels.energy[kept],
        forces,
        labels.stress[kept].reshape(-1, 3, 3),
        PackedStrings.pack([]),
    )


def _columns(batch: Any) -> Callable[[str], Any]:
    """Arrow arrays by name; with dots, fields inside of structs. KeyError for one that is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def at(name: str) -> Any:
        if name in batch.schema.names:
            array = batch.column(name)
        else:
            head, _, rest = name.rpartition(".")
            if not head:
                raise KeyError(name)
            array = pc.struct_field(at(head), rest)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        return array.storage if isinstance(array, pa.ExtensionArray) else array

    return at


def _tag_columns(
    batch: Any, roles: Roles, column: Callable[[str], Any], chosen: tuple[str, ...] | None
) -> dict[str, Any]:
    used = {*roles.columns().values(), *(("lattice",) if roles.sites else ())}
    return {
        key: column(key)
        for name in batch.schema.names
        if name not in used
        for key, is_tag in tag_fields(batch.schema.field(name).type, name)
        if is_tag and key not in used and (chosen is None or key in chosen or key == JSON_TEXT)
    }


def _ids(column: Callable[[str], Any], roles: Roles, rows: int, first: int, path: Path) -> list[str]:
    if roles.id is None:
        return [f"{path.name}:{first + k}" for k in range(rows)]
    return [
        f"{path.name}:{first + k}" if value is None else str(value)
        for k, value in enumerate(column(roles.id).to_pylist())
    ]
