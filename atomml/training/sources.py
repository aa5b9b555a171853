"""From files to the training, validation and test rows of one set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets import (
    FrameStore,
    Split,
    label_summary,
    load_frames,
    rows_where,
    split_by_group,
    split_random,
)
from atomml.datasets.splits import tag_values
from atomml.errors import ConfigError, DataError
from atomml.training.config import Paths, SourceConfig, resolve_path
from atomml.training.parts import Part

__all__ = ["Source", "load_source", "require_known_elements"]

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
class Source:
    """One set: parts by name (``train`` always, ``valid`` and ``test`` where not empty) and where they come from."""

    parts: dict[str, Part]
    split: Split
    fingerprint: dict[str, str]
    summary: dict[str, str]


def load_source(
    config: SourceConfig,
    base: Path | None,
    *,
    free_only: bool = False,
    name: str = "data",
    require_energy: bool = True,
) -> Source:
    """Read and divide one set.

    Args:
        config: its files and rules.
        base: folder of the configuration file, for relative paths.
        free_only: see `Part`.
        name: path of ``config`` in the configuration, for messages.
        require_energy: refuse files in which no frame has an energy.

    Raises:
        DataError: a file that cannot be read, an unknown tag.
        ConfigError: a division that leaves a part empty.
    """
    if config.train is None:
        raise ConfigError(f"{name}.train: there are no files.", fix="name the training files")
    stores = {"train": _load(config.train, config, base, require_energy)}
    for part, source in (("valid", config.valid), ("test", config.test)):
        if isinstance(source, str | list):
            stores[part] = _load(source, config, base, require_energy)
    split = _divide(config, stores["train"], base, name)
    parts = {"train": Part(stores["train"], split.train, free_only)}
    for part, rows in (("valid", split.valid), ("test", split.test)):
        if part in stores:
            rows = np.arange(len(stores[part]))
        if len(rows):
            parts[part] = Part(stores.get(part, stores["train"]), rows, free_only)
    fingerprint = {f"{part} files": store.fingerprint() for part, store in stores.items()}
    fingerprint["split"] = hashlib.sha256(b"|".join(rows.tobytes() for rows in split.parts())).hexdigest()
    summary = {part: f"{len(store)} frames: {label_summary(store)}" for part, store in stores.items()}
    return Source(parts, split, fingerprint, summary)


def require_known_elements(known: set[int], parts: Mapping[str, Part]) -> None:
    """Check that no part has an element that training has not.

    Raises:
        DataError: names the part, the elements and a frame.
    """
    for name, part in parts.items():
        new = sorted(set(part.elements()) - known)
        if new:
            frame = next(
                int(r)
                for r in part.rows
                if np.isin(part.store.numbers[part.store.atoms_of(int(r))], new).any()
            )
            raise DataError(
                f"The {name} set has {', '.join(chemical_symbols[z] for z in new)}; training has not.",
                where=f"frame {part.store.ids[frame]}",
                fix="divide the data otherwise, or remove these frames",
            )


def _load(paths: Paths, config: SourceConfig, base: Path | None, require_energy: bool) -> FrameStore:
    listed = [paths] if isinstance(paths, str) else paths
    options = {name: getattr(config, name) for name in READER_OPTIONS}
    return load_frames([resolve_path(p, base) for p in listed], require_energy=require_energy, **options)


def _divide(config: SourceConfig, store: FrameStore, base: Path | None, name: str) -> Split:
    """Rows of the training store for each part; a part that is a file of its own gets none of them."""
    if config.split is not None:
        return Split.load(resolve_path(config.split, base), store)
    valid, test = (_size(x) for x in (config.valid, config.test))
    pool, held_out = np.arange(len(store)), np.empty(0, dtype=np.int64)
    how: dict[str, Any] = {"group": config.group} if config.group else {}
    if config.where is not None:
        pool = rows_where(store, config.where)
        how["where"] = config.where
        if len(pool) == 0:
            raise ConfigError(
                f"{name}.where: {config.where!r} holds for none of {len(store)} frames.",
                fix="choose another condition; `atomml data report` shows the values of every tag",
            )
    if config.test_where is not None:
        all_frames = len(pool)
        held_out = np.intersect1d(pool, rows_where(store, config.test_where))
        pool = np.setdiff1d(pool, held_out)
        how["test_where"] = config.test_where
        if len(held_out) == 0 or len(pool) == 0:
            raise ConfigError(
                f"{name}.test_where: {config.test_where!r} holds for {len(held_out)} of {all_frames} frames.",
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
    return Split(pool[split.train], pool[split.valid], test_rows, split.how | how)


def _size(source: object) -> int | float:
    return source if isinstance(source, int | float) else 0
