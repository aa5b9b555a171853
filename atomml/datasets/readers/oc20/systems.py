"""Tables of OC20 by system: ``oc20_data_mapping.pkl`` (what it is made of) and ``oc20_ref.pkl`` (its reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from atomml.datasets.frame import Tag
from atomml.datasets.readers.oc20.common import OLD_PARTS, SystemOptions
from atomml.datasets.safe.safe_pickle import PickleLimits, load_pickle
from atomml.datasets.splits import Split
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["Systems", "load_mapping", "load_references", "official_split", "systems_of"]

MOST_BYTES = 4 << 30  # of a table; the official mapping has 1.3 million entries and a few hundred MB
LIMITS = PickleLimits(n_bytes=MOST_BYTES, n_opcodes=10**9, n_calls=10**8, n_values=10**9)
NOT_TAGS = frozenset({"adsorption_site"})  # coordinates, not one value


class Systems:
    """The two tables, looked up by system; what was not found is counted."""

    def __init__(
        self, mapping: Mapping[str, Mapping[str, Any]] | None, references: Mapping[str, float] | None
    ) -> None:
        self._mapping, self._references = mapping, references
        self.asked = self.found = 0

    @property
    def has_references(self) -> bool:
        """Whether there is a table of references."""
        return self._references is not None

    def tags(self, sid: int | None) -> dict[str, Tag]:
        """Tags of a system; none if the mapping does not know it."""
        if self._mapping is None:
            return {}
        self.asked += 1
        entry = self._mapping.get(f"random{sid}")
        if entry is None:
            return {}
        self.found += 1
        return system_tags(entry)

    def reference(self, sid: int | None, where: str) -> float:
        """Energy of slab and gas, eV.

        Raises:
            DataError: there is no table, or it does not have the system.
        """
        value = None if self._references is None else self._references.get(f"random{sid}")
        if value is None:
            raise DataError(
                f"There is no reference energy of the system random{sid}.",
                where=where,
                fix="state reference_pickle: the path of the oc20_ref.pkl that knows the system",
            )
        return value

    def warnings(self, where: str) -> list[str]:
        """Whether the mapping did not know the systems of some frames of ``where``."""
        if self.found == self.asked:
            return []
        return [f"{where}: the mapping knows the systems of {self.found} of {self.asked} frames."]


def systems_of(options: SystemOptions) -> Systems:
    """The tables that the options name; a table is read once per process.

    Raises:
        DataError: see `load_mapping` and `load_references`.
    """
    return Systems(
        None if options.mapping is None else load_mapping(options.mapping),
        None if options.reference_pickle is None else load_references(options.reference_pickle),
    )


def load_mapping(path: str | Path) -> Mapping[str, Mapping[str, Any]]:
    """``oc20_data_mapping.pkl``: from ``random<sid>`` to its 12 fields.

    Raises:
        DataError: the file is absent, too large, holds anything but numbers and text, or another structure.
    """
    return _mapping(*_identity(Path(path).expanduser()))


def load_references(path: str | Path) -> Mapping[str, float]:
    """``oc20_ref.pkl``: from ``random<sid>`` to the energy (eV) to add to the adsorption energy.

    Raises:
        DataError: as `load_mapping`, or an energy that is not a finite number.
    """
    return _references(*_identity(Path(path).expanduser()))


def system_tags(entry: Mapping[str, Any]) -> dict[str, Tag]:
    """The fields of a system that are one value; the part under today's name (val_is is val_id)."""
    tags: dict[str, Tag] = {}
    for name, value in entry.items():
        if name in NOT_TAGS or value is None:
            continue
        plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
        if name == "split":
            plain = OLD_PARTS.get(plain, plain)
        elif isinstance(plain, tuple | list):
            plain = " ".join(str(part) for part in plain)
        if isinstance(plain, str | bool | int | float):
            tags[str(name)] = plain
    return tags


def official_split(
    store: FrameStore,
    *,
    train: Sequence[str] = ("train",),
    valid: Sequence[str] = ("val_id",),
    test: Sequence[str] = ("val_ood_both",),
    tag: str = "split",
) -> Split:
    """The official parts as a `Split`; frames of other parts are in none of the three.

    Args:
        store: with the tag ``split`` (reader option ``mapping``) or ``part`` (from the names of folders).
        train: names of parts, as ``train``, ``val_id``, ``val_ood_ads``, ``val_ood_cat``, ``val_ood_both``,
            ``val_ood`` (OC22); the names of 2020 (``val_is``, ``val_oos_bulk``) are understood.
        valid: likewise.
        test: likewise.
        tag: which tag has the name.

    Raises:
        DataError: the store has no such tag, a name that no frame has, or one in two parts.
    """
    if tag not in store.tags:
        raise DataError(
            f"The data set has no tag {tag!r}, which names the official part of a frame.",
            where=str(store.info.get("source", "the data set")),
            fix="read it with the option mapping (oc20_data_mapping.pkl), or use tag='part'",
        )
    column = store.tags[tag]
    present = {str(name) for name in np.unique(column)}
    groups = [tuple(OLD_PARTS.get(name, name) for name in names) for names in (train, valid, test)]
    for name in (name for names in groups for name in names):
        if name not in present or sum(name in names for names in groups) > 1:
            problem = "is in two of train, valid and test" if name in present else "is the part of no frame"
            raise DataError(
                f"{name!r} {problem}.",
                where=f"tag {tag!r}",
                fix=f"parts: {', '.join(sorted(present - {''}))}",
            )
    first, second, third = (np.flatnonzero(np.isin(column, list(names))).astype(np.int64) for names in groups)
    how = {"method": "official", "tag": tag, "train": list(train), "valid": list(valid), "test": list(test)}
    return Split(first, second, third, how)


def _identity(path: Path) -> tuple[Path, int, int]:
    """A key for the cache that changes when the file does."""
    if not path.is_file():
        raise DataError("The table does not exist.", where=str(path), fix="check the path")
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def _read(path: Path, size: int) -> dict[str, Any]:
    if size > MOST_BYTES:
        raise DataError(f"The table has {size} bytes, more than {MOST_BYTES}.", where=str(path))
    table = load_pickle(path.read_bytes(), where=str(path), allow="numpy", limits=LIMITS)
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise DataError("The table is not a dictionary by names of systems.", where=str(path))
    return table


@lru_cache(maxsize=2)
def _mapping(path: Path, size: int, changed: int) -> Mapping[str, Mapping[str, Any]]:
    table = _read(path, size)
    wrong = next((key for key, entry in table.items() if not isinstance(entry, dict)), None)
    if wrong is not None:
        raise DataError(
            f"The entry of {wrong!r} is not a dictionary.",
            where=str(path),
            fix="mapping is oc20_data_mapping.pkl; oc20_ref.pkl goes to reference_pickle",
        )
    for entry in table.values():
        for name in NOT_TAGS:  # most of the memory
            entry.pop(name, None)
    return table


@lru_cache(maxsize=2)
def _references(path: Path, size: int, changed: int) -> Mapping[str, float]:
    table = _read(path, size)
    energies: dict[str, float] = {}
    for key, value in table.items():
        number = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
        if not isinstance(number, int | float) or not np.isfinite(number):
            raise DataError(
                f"The reference energy of {key!r} is not a finite number.",
                where=str(path),
                fix="reference_pickle is oc20_ref.pkl; oc20_data_mapping.pkl goes to mapping",
            )
        energies[key] = float(number)
    return energies
