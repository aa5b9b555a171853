"""From the data section of a configuration to training, validation and test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets import (
    FrameStore,
    GraphDataset,
    ReferenceEnergies,
    Split,
    from_table,
    isolated_atoms,
    label_summary,
    least_squares,
    load_frames,
    no_references,
    reference_sums,
    rows_where,
    split_by_group,
    split_random,
)
from atomml.datasets.splits import tag_values
from atomml.errors import ConfigError, DataError, TrainingError
from atomml.shapes import Int64, ndarray
from atomml.training.config import DataConfig, LossConfig, Paths, resolve_path

__all__ = ["Part", "TrainingData", "load_training_data", "reference_energies", "remaining_energy"]

READER_OPTIONS = (
    "energy_key",
    "forces_key",
    "stress_key",
    "energy_unit",
    "length_unit",
    "stress_unit",
    "stress_sign",
)


@dataclass(frozen=True)
class Part:
    """Some rows of a store."""

    store: FrameStore
    rows: Int64[ndarray, " rows"]
    _graphs: dict[tuple[float, bool], GraphDataset] = field(default_factory=dict, repr=False)

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
        """The frames as graphs with neighbours within ``cutoff`` Å; one object for the same arguments."""
        if (cutoff, cache) not in self._graphs:
            self._graphs[cutoff, cache] = GraphDataset(self.store, self.rows, cutoff, cache=cache)
        return self._graphs[cutoff, cache]


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
    split = _divide(config, sources["train"], base)
    parts: dict[str, Part | None] = {"train": Part(sources["train"], split.train)}
    for name, rows in (("valid", split.valid), ("test", split.test)):
        if name in sources:
            rows = np.arange(len(sources[name]))
        parts[name] = Part(sources.get(name, sources["train"]), rows) if len(rows) else None
    train = parts["train"]
    assert train is not None  # never empty; for the type checker
    _require_labels(train, loss)
    _require_elements(train, parts)
    fingerprint = {f"{name} files": store.fingerprint() for name, store in sources.items()}
    fingerprint["split"] = hashlib.sha256(b"|".join(rows.tobytes() for rows in split.parts())).hexdigest()
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
    options = {name: getattr(config, name) for name in READER_OPTIONS}
    return load_frames([resolve_path(p, base) for p in listed], **options)


def _divide(config: DataConfig, store: FrameStore, base: Path | None) -> Split:
    """Rows of the training store for each part; a part that is a file of its own gets none of them."""
    if config.split is not None:
        return Split.load(resolve_path(config.split, base), store)
    valid, test = (_size(x) for x in (config.valid, config.test))
    pool, held_out = np.arange(len(store)), np.empty(0, dtype=np.int64)
    where: dict[str, Any] = {"group": config.group} if config.group else {}
    if config.test_where is not None:
        held_out = rows_where(store, config.test_where)
        pool = np.setdiff1d(pool, held_out)
        where["test_where"] = config.test_where
        if len(held_out) == 0 or len(pool) == 0:
            raise ConfigError(
                f"data.test_where: {config.test_where!r} holds for {len(held_out)} of {len(store)} frames.",
                fix="choose a condition that divides the frames",
            )
    if valid == test == 0:
        split = Split(np.arange(len(pool)), held_out[:0], held_out[:0], {"method": "all"})
    elif config.group is None:
        split = split_random(len(pool), valid=valid, test=test, seed=config.split_seed)
    else:
        groups = tag_values(store, config.group)[pool]
        split = split_by_group(groups, valid=valid, test=test, seed=config.split_seed)
    test_rows = np.concatenate([pool[split.test], held_out])
    return Split(pool[split.train], pool[split.valid], test_rows, split.how | where)


def _size(source: object) -> int | float:
    return source if isinstance(source, int | float) else 0


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


def remaining_energy(references: ReferenceEnergies, train: Part) -> float:
    """Mean of (E − Σ E0)/N over the training frames, eV/atom: what the network has to learn first."""
    part = train.store.subset(train.rows)
    return float(np.nanmean((part.energy - reference_sums(references, part)) / part.n_atoms))


def reference_energies(config: DataConfig, train: Part, base: Path | None = None) -> ReferenceEnergies:
    """Reference energies as ``data.references`` asks for them.

    Raises:
        DataError: an isolated atom, an energy or an element of the table is missing.
    """
    wanted = config.references
    match wanted:
        case "least_squares":
            references = least_squares(train.store, train.rows)
        case "isolated":
            references = isolated_atoms(train.store)
        case "none":
            references = no_references(train.elements())
        case str():
            references = isolated_atoms(load_frames(resolve_path(wanted, base)))
        case _:
            references = from_table(wanted)
    references.require(train.elements(), where=f"data.references: {wanted}")
    return references
