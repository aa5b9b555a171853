"""Train, validation and test rows: random, by group, by file or by a condition; saved with their origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from atomml.datasets.conditions import rows_where
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from atomml.files import write_atomically
from atomml.shapes import Float64, Int64, ndarray

__all__ = [
    "Split",
    "assign_groups",
    "split_by_condition",
    "split_by_file",
    "split_by_group",
    "split_random",
    "tag_values",
]

Size = int | float
FORMAT, FORMAT_VERSION = "atomml-split", 1
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a data set, ascending, no row in two parts.

    Attributes:
        train, valid, test: rows.
        how: the method and its arguments; ``fingerprint`` of the data set once saved with it.
    """

    train: Int64[ndarray, " train"]
    valid: Int64[ndarray, " valid"]
    test: Int64[ndarray, " test"]
    how: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path, store: FrameStore | None = None) -> Path:
        """Write JSON, with the fingerprint of ``store`` if it is given; replaced only when complete.

        Raises:
            DataError: the file cannot be written.
        """
        out = Path(path)
        how = (
            self.how
            if store is None
            else {**self.how, "fingerprint": store.fingerprint(), "frames": len(store)}
        )
        data = {"format": FORMAT, "version": FORMAT_VERSION, "how": how}
        data |= {part: getattr(self, part).tolist() for part in PARTS}
        write_atomically(out, json.dumps(data).encode())
        return out

    @staticmethod
    def load(path: str | Path, store: FrameStore | None = None) -> Split:
        """Read a split and, if ``store`` is given, check that it was made for this data set.

        Raises:
            DataError: not a split file, or the data set has another fingerprint or fewer rows.
        """
        where = str(path)
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT or data["version"] != FORMAT_VERSION:
                raise ValueError(f"format {data['format']} version {data['version']}")
            train, valid, test = (np.array(data[part], dtype=np.int64) for part in PARTS)
            split = Split(train, valid, test, dict(data["how"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"This is not a split file ({type(error).__name__}: {error}).",
                where=where,
                fix="make one with `atomml data split`",
            ) from error
        split.check(where)
        if store is not None and split.how.get("fingerprint", store.fingerprint()) != store.fingerprint():
            raise DataError(
                "The split was made for another data set (the fingerprints differ).",
                where=where,
                fix="use the data set it was made for, or make the split again",
            )
        if store is not None and max((int(p.max()) for p in split.parts() if len(p)), default=-1) >= len(
            store
        ):
            raise DataError(f"The split has rows beyond the {len(store)} frames.", where=where)
        return split

    def parts(self) -> tuple[ndarray, ndarray, ndarray]:
        """Train, valid, test."""
        return self.train, self.valid, self.test

    def check(self, where: str = "split") -> None:
        """Check that no row is negative or in two parts.

        Raises:
            DataError: names the row.
        """
        rows, counts = np.unique(np.concatenate(self.parts()), return_counts=True)
        if len(rows) and (rows[0] < 0 or counts.max() > 1):
            bad = rows[0] if rows[0] < 0 else rows[np.argmax(counts)]
            raise DataError(f"Row {bad} is negative or in two parts of the split.", where=where)

    def summary(self) -> str:
        """``train 400, valid 50, test 50 (random, seed 0)``."""
        sizes = ", ".join(f"{name} {len(part)}" for name, part in zip(PARTS, self.parts(), strict=True))
        seed = f", seed {self.how['seed']}" if "seed" in self.how else ""
        return f"{sizes} ({self.how.get('method', 'stated')}{seed})"


def split_random(n: int, *, valid: Size, test: Size = 0, train: Size | None = None, seed: int) -> Split:
    """Rows 0..n-1 in random order.

    Args:
        n: number of frames.
        valid: a fraction (float below 1) or a count (int); 0 for no such part.
        test: likewise.
        train: likewise; None for all that is left.
        seed: of the permutation.

    Raises:
        DataError: sizes that do not fit, or leave a requested part or the training part empty.
    """
    n_train, n_valid, n_test = part_counts(n, train, valid, test)
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, np.cumsum([n_test, n_valid, n_train]))
    how = {"method": "random", "train": train, "valid": valid, "test": test, "seed": seed}
    return _made(*(np.sort(parts[k]) for k in (2, 1, 0)), how=how)


def split_by_group(
    groups: Sequence[Any] | ndarray, *, valid: Size, test: Size = 0, train: Size | None = None, seed: int
) -> Split:
    """Whole groups (trajectories, molecules, compositions): no group is in two parts.

    Every part gets one group, then each group in random order goes to the part that lacks most frames, so
    that sizes (see `split_random`) are met up to the size of a group.

    Raises:
        DataError: fewer groups than parts, or sizes that do not fit.
    """
    labels = np.asarray(groups)
    names, inverse, members = np.unique(labels, return_inverse=True, return_counts=True)
    lacking = np.array(part_counts(len(labels), train, valid, test), dtype=np.float64)
    first = [p for p in (2, 1, 0) if lacking[p] > 0]
    if len(names) < len(first):
        raise DataError(
            f"There are {len(names)} groups, too few for {len(first)} parts.",
            where="split by group",
            fix="choose a tag with more values, fewer parts, or a random split",
        )
    row_part = assign_groups(members, lacking, first, seed=seed)[inverse]
    how = {
        "method": "group",
        "train": train,
        "valid": valid,
        "test": test,
        "seed": seed,
        "groups": len(names),
    }
    return _made(*(np.flatnonzero(row_part == p) for p in range(3)), how=how)


def assign_groups(
    sizes: Int64[ndarray, " groups"], wanted: Float64[ndarray, " parts"], first: Sequence[int], *, seed: int
) -> Int64[ndarray, " groups"]:
    """Part of each group: one each for the parts ``first``, then to the part that lacks most frames.

    −1 for groups that are left when no part lacks any.
    """
    lacking, part_of = wanted.copy(), np.full(len(sizes), -1)
    for k, group in enumerate(np.random.default_rng(seed).permutation(len(sizes))):
        part = first[k] if k < len(first) else int(np.argmax(lacking))
        if k >= len(first) and lacking[part] <= 0:
            break
        part_of[group] = part
        lacking[part] -= sizes[group]
    return part_of


def split_by_file(
    files: Sequence[str] | ndarray, valid: Sequence[str] = (), test: Sequence[str] = ()
) -> Split:
    """Frames of the named files (tag ``file``) are the validation and test parts, the others train.

    Raises:
        DataError: a name that no frame has, or in both lists.
    """
    names = np.asarray(files)
    known = {str(name) for name in names}
    for name in (*valid, *test):
        if name not in known or (name in valid and name in test):
            problem = "is in both parts" if name in known else "is not among the files"
            raise DataError(
                f"{name!r} {problem}.", where="split by file", fix=f"files: {', '.join(sorted(known))}"
            )
    in_valid, in_test = np.isin(names, list(valid)), np.isin(names, list(test))
    how = {"method": "file", "valid": list(valid), "test": list(test)}
    return _made(
        np.flatnonzero(~in_valid & ~in_test), np.flatnonzero(in_valid), np.flatnonzero(in_test), how=how
    )


def split_by_condition(
    store: FrameStore, test: str, *, valid: int | float = 0.1, group: str | None = None, seed: int = 0
) -> Split:
    """Frames that meet ``test`` ("T >= 1000 and system == LiCl") are the test part, the rest is shared.

    Args:
        store: the data set.
        test: a condition on tags, see `rows_where`.
        valid: fraction or count of the remaining frames.
        group: a tag; if given, no value of it is in two of train and valid.
        seed: of the random part.

    Raises:
        DataError: an unknown tag, or a part that would be empty.
    """
    test_rows = rows_where(store, test)
    rest = np.setdiff1d(np.arange(len(store)), test_rows)
    if not len(test_rows) or not len(rest):
        raise DataError(
            f"The condition {test!r} is met by {len(test_rows)} of {len(store)} frames.",
            where="split by condition",
            fix="`atomml data report` shows the values of every tag",
        )
    if group is None:
        inner = split_random(len(rest), valid=valid, seed=seed)
    else:
        inner = split_by_group(tag_values(store, group)[rest], valid=valid, seed=seed)
    how = {"method": "condition", "test": test, "valid": valid, "group": group, "seed": seed}
    return _made(rest[inner.train], rest[inner.valid], test_rows, how=how)


def tag_values(store: FrameStore, name: str) -> ndarray:
    """The column of a tag, or of one of `DERIVED`, which are always there; ``has_Li``: whether Li occurs.

    Raises:
        DataError: no such tag.
    """
    if name in store.tags:
        return store.tags[name]
    if name in DERIVED:
        return DERIVED[name](store)
    z = atomic_numbers.get(name.removeprefix("has_"), 0) if name.startswith("has_") else 0
    if z > 0:
        return store.index.has([z])[:, 0]
    raise DataError(
        f"The data set has no tag {name!r}.",
        where=str(store.info.get("source", "the data set")),
        fix=f"it has: {', '.join([*store.tags, *(d for d in DERIVED if d not in store.tags)])}, has_Li ...",
    )


def _formula(store: FrameStore) -> ndarray:
    from atomml.datasets.statistics import formulas

    return formulas(store)


def _volume_per_atom(store: FrameStore) -> ndarray:
    from atomml.datasets.statistics import volumes

    return volumes(store) / store.n_atoms


DERIVED: dict[str, Callable[[FrameStore], ndarray]] = {
    "formula": _formula,
    "n_atoms": lambda store: np.asarray(store.n_atoms),
    "energy_per_atom": lambda store: store.energy / store.n_atoms,
    "volume_per_atom": _volume_per_atom,
    "fmax": lambda store: np.asarray(store.index.max_force),
}
"""Columns that every store has: composition, atoms, eV/atom, Å³/atom (NaN without a 3D cell), largest force in
eV/Å (NaN without forces)."""


def part_counts(n: int, train: Size | None, valid: Size, test: Size) -> tuple[int, int, int]:
    """Frames of train, valid and test; see `split_random`."""
    n_valid, n_test = _count(n, valid, "valid"), _count(n, test, "test")
    n_train = n - n_valid - n_test if train is None else _count(n, train, "train")
    if n_train < 1 or n_train + n_valid + n_test > n:
        raise DataError(
            f"The sizes do not fit {n} frames: train {n_train}, valid {n_valid}, test {n_test}.",
            where="split",
            fix="ask for fewer frames",
        )
    return n_train, n_valid, n_test


def _count(n: int, size: Size, name: str) -> int:
    if size < 0 or (isinstance(size, float) and size > 1):
        raise DataError(f"The {name} size {size} is neither a fraction nor a count.", where="split")
    count = round(size * n) if isinstance(size, float) else size
    if size > 0 and count == 0:
        raise DataError(
            f"The {name} part would be empty: {size} of {n} frames.", where="split", fix="ask for more"
        )
    return count


def _made(train: ndarray, valid: ndarray, test: ndarray, *, how: dict[str, Any]) -> Split:
    return Split(train.astype(np.int64), valid.astype(np.int64), test.astype(np.int64), how)
