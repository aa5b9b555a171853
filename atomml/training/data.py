"""From the data section of a configuration to training, validation and test sets."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from atomml.datasets import FrameStore, label_summary, load_frames
from atomml.datasets.graphs import GraphDataset
from atomml.datasets.references import ReferenceEnergies, from_table, isolated_atoms, least_squares
from atomml.datasets.splits import Split, split_by_group, split_random
from atomml.errors import ConfigError, DataError, TrainingError
from atomml.shapes import Bool, ndarray
from atomml.training.config import DataConfig, LossConfig, Paths, resolve_path

__all__ = ["Part", "TrainingData", "load_training_data", "reference_energies", "select_frames"]


@dataclass(frozen=True)
class Part:
    """Some rows of a store."""

    store: FrameStore
    rows: ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> dict[str, int]:
        """How many of the frames have an energy, forces, a stress."""
        return {name: int(mask[self.rows].sum()) for name, mask in self.store.has_label().items()}

    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        elements, counts = self.store.element_counts()
        return [z for z, n in zip(elements, counts[self.rows].sum(axis=0), strict=True) if n > 0]

    def graphs(self, cutoff: float, cache: bool) -> GraphDataset:
        """The frames as graphs with neighbours within ``cutoff`` Å."""
        return GraphDataset(self.store, self.rows, cutoff, cache=cache)


@dataclass(frozen=True)
class TrainingData:
    """The three parts and how they were made.

    Attributes:
        train, valid, test: frames; None where there is no such part.
        split: rows and the rule, written to ``split.json``.
        fingerprint: hashes of the stores and the split.
        summary: one line per store, with the label counts.
    """

    train: Part
    valid: Part | None
    test: Part | None
    split: Split
    fingerprint: dict[str, str]
    summary: dict[str, str]

    def parts(self) -> dict[str, Part]:
        """The parts that exist, by name."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


def load_training_data(config: DataConfig, loss: LossConfig, base: Path | None = None) -> TrainingData:
    """Read and divide the data of a configuration.

    Args:
        config: the data section.
        loss: used to check that every term with a weight has labels.
        base: folder of the configuration file, for relative paths.

    Raises:
        DataError: a file that cannot be read; elements in validation or test that training does not have.
        ConfigError: a division that leaves a part empty; an unknown tag.
        TrainingError: a loss term with a positive weight and no labels.
    """
    sources = {"train": _load(config.train, config, base)}
    for name, source in (("valid", config.valid), ("test", config.test)):
        if isinstance(source, str | list):
            sources[name] = _load(source, config, base)
    split = _divide(config, sources["train"])
    parts: dict[str, Part | None] = {"train": Part(sources["train"], split.train)}
    for name, rows in (("valid", split.valid), ("test", split.test)):
        if name in sources:
            rows = np.arange(len(sources[name]))
        parts[name] = Part(sources.get(name, sources["train"]), rows) if len(rows) else None
    train = parts["train"]
    assert train is not None  # never empty; for the type checker
    _require_labels(train, loss)
    _require_elements(train, parts)
    fingerprint = {name: store.fingerprint() for name, store in sources.items()}
    return TrainingData(
        train=train,
        valid=parts["valid"],
        test=parts["test"],
        split=split,
        fingerprint=fingerprint,
        summary={name: f"{len(store)} frames: {label_summary(store)}" for name, store in sources.items()},
    )


def _load(paths: Paths, config: DataConfig, base: Path | None) -> FrameStore:
    listed = [paths] if isinstance(paths, str) else paths
    keys = {"energy_key": config.energy_key, "forces_key": config.forces_key, "stress_key": config.stress_key}
    return load_frames(
        [resolve_path(p, base) for p in listed], **{k: v for k, v in keys.items() if v is not None}
    )


def _divide(config: DataConfig, store: FrameStore) -> Split:
    """Rows of the training store for each part; a part that is a file of its own gets none of them."""
    n = len(store)
    pool = np.arange(n)
    where: dict[str, Any] = {}
    test = np.empty(0, dtype=np.int64)
    if config.test_where is not None:
        chosen = select_frames(store, config.test_where)
        test, pool = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        where = {"test_where": config.test_where}
        if len(test) == 0 or len(pool) == 0:
            raise ConfigError(
                f"data.test_where: {config.test_where!r} holds for {len(test)} of {n} frames.",
                fix="choose a condition that divides the frames",
            )
    valid_size, test_size = (_size(x) for x in (config.valid, config.test))
    if valid_size == test_size == 0:
        split = Split(pool, pool[:0], pool[:0], how={"method": "all"})
    elif config.group is None:
        split = split_random(len(pool), valid=valid_size, test=test_size, seed=config.split_seed)
    else:
        groups = _tag(store, config.group)[pool]
        split = split_by_group(groups, valid=valid_size, test=test_size, seed=config.split_seed)
    picked = [pool[np.asarray(rows, dtype=np.int64)] for rows in (split.train, split.valid, split.test)]
    if len(picked[0]) == 0:
        raise ConfigError("The division leaves no training frames.", where="data.valid, data.test")
    if valid_size and len(picked[1]) == 0:
        raise ConfigError(
            f"The division leaves no validation frames ({n} in all).",
            where="data.valid",
            fix="ask for more frames, or set data.valid: null",
        )
    return Split(picked[0], picked[1], np.concatenate([picked[2], test]), how=split.how | where)


def _size(source: object) -> int | float:
    return source if isinstance(source, int | float) else 0


def _tag(store: FrameStore, name: str) -> ndarray:
    if name not in store.tags:
        raise ConfigError(
            f"The training frames have no tag {name!r}.",
            where="data.group or data.test_where",
            fix=f"known tags: {', '.join(store.tags) or 'none'}",
        )
    return store.tags[name]


OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def select_frames(store: FrameStore, condition: str) -> Bool[ndarray, " frames"]:
    """Frames that meet ``tag op value [and tag op value ...]``.

    Raises:
        ConfigError: an unknown tag, or a condition of another form.
    """
    chosen = np.ones(len(store), dtype=bool)
    for term in re.split(r"\s+and\s+", condition.strip()):
        match = re.fullmatch(r"(\w+)\s*(==|!=|<=|>=|<|>)\s*(.+)", term)
        if match is None:
            raise ConfigError(
                f"{term!r} is not a condition.", where="data.test_where", fix="write for example: T >= 1000"
            )
        column, text = _tag(store, match[1]), match[3].strip().strip("'\"")
        try:
            value: Any = text if column.dtype.kind == "U" else float(text)
        except ValueError as error:
            raise ConfigError(
                f"The tag {match[1]!r} is a number, {text!r} is not.", where="data.test_where"
            ) from error
        chosen &= OPERATORS[match[2]](column, value)
    return chosen


def _require_labels(train: Part, loss: LossConfig) -> None:
    counts = train.labels()
    for term, weight in (("energy", loss.energy), ("forces", loss.forces), ("stress", loss.stress)):
        if weight > 0 and counts[term] == 0:
            found = ", ".join(f"{name} {count}/{len(train)}" for name, count in counts.items())
            raise TrainingError(
                f"loss.{term} has weight {weight:g}, but no training frame has this label.",
                where=f"training set: {found}",
                fix=f"set loss.{term}: 0, or name the column with data.{term}_key",
            )


def _require_elements(train: Part, parts: Mapping[str, Part | None]) -> None:
    known = set(train.elements())
    for name, part in parts.items():
        new = sorted(set(part.elements()) - known) if part is not None else []
        if part is not None and new:
            frame = next(int(r) for r in part.rows if np.isin(part.store[int(r)].numbers, new).any())
            raise DataError(
                f"The {name} set has {', '.join(chemical_symbols[z] for z in new)}; training has not.",
                where=f"frame {part.store.ids[frame]}",
                fix="divide the data otherwise, or remove these frames",
            )


def reference_energies(config: DataConfig, train: Part, base: Path | None = None) -> ReferenceEnergies:
    """Reference energies as ``data.references`` asks for them.

    Raises:
        DataError: an isolated atom or a label is missing.
        ConfigError: an element that the table does not have, an unknown symbol.
    """
    wanted = config.references
    if wanted == "least_squares":
        return least_squares(train.store, train.rows)
    if wanted == "isolated":
        references = isolated_atoms(train.store)
    elif wanted == "none":
        references = from_table(dict.fromkeys(train.elements(), 0.0))
    elif isinstance(wanted, str):
        references = isolated_atoms(load_frames(resolve_path(wanted, base)))
    else:
        unknown = [symbol for symbol in wanted if symbol not in atomic_numbers]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not a chemical symbol.", where="data.references")
        references = from_table({atomic_numbers[s]: e for s, e in wanted.items()})
    missing = [chemical_symbols[z] for z in train.elements() if z not in references.energies]
    if missing:
        raise ConfigError(
            f"No reference energy for {', '.join(missing)}.",
            where=f"data.references: {wanted!r}",
            fix="add these elements, or use references: least_squares",
        )
    return references
