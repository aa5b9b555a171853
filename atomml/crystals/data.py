"""From files to the crystals of a training, validation and test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.config import CrystalBatchConfig, CrystalDataConfig
from atomml.crystals.properties import property_table
from atomml.datasets import Split
from atomml.errors import DataError
from atomml.shapes import Float, Int64, Tensor, ndarray
from atomml.training.parts import Part
from atomml.training.sources import load_source, require_known_elements

__all__ = ["CrystalData", "CrystalSet", "Crystals", "load_crystal_data", "similar_sizes"]

WINDOW = 8
"""Batches that are sorted by size together: of more, an epoch is less random; of fewer, more is padding."""


class Crystals(NamedTuple):
    """A batch: crystals, their properties (NaN where unknown) and their rows in the set."""

    crystals: CrystalBatch
    properties: Float[Tensor, "crystals properties"]
    rows: Int64[ndarray, " crystals"]


@dataclass(frozen=True)
class CrystalSet:
    """Crystals of one part, in memory.

    Attributes:
        crystals: all of them.
        properties: of each, NaN where unknown.
        names: of the frames.
    """

    crystals: CrystalBatch
    properties: Float[Tensor, "crystals properties"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.crystals)

    def batch(self, rows: Sequence[int] | Int64[ndarray, " rows"], device: torch.device) -> Crystals:
        """Some of them, on a device."""
        index = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        return Crystals(
            self.crystals.rows(index).to(device), self.properties[index].to(device), np.asarray(rows)
        )


@dataclass(frozen=True)
class CrystalData:
    """Parts by name (``train`` always), how they were divided, what they are.

    Attributes:
        fingerprint: of files and division.
        notes: what was found and left out, for people.
    """

    parts: dict[str, CrystalSet]
    split: Split
    fingerprint: dict[str, str]
    notes: tuple[str, ...]


def load_crystal_data(config: CrystalDataConfig, properties: Sequence[str], base: Path | None) -> CrystalData:
    """Read and divide crystals; ``properties`` as in `property_table`.

    Raises:
        DataError: a file that cannot be read, a structure that is no crystal, elements that only the validation or
            the test set has, nothing left.
        ConfigError: a division that leaves a part empty, an unknown property.
    """
    source = load_source(config, base, require_energy=False)
    require_known_elements(set(source.parts["train"].elements()), source.parts)
    notes = [f"{name} files: {text}" for name, text in source.summary.items()]
    parts = {}
    for name, part in source.parts.items():
        parts[name], left_out = _set_of(part, config.max_atoms, properties)
        if left_out:
            notes.append(f"{name}: {left_out} crystals with more than {config.max_atoms} atoms are left out")
    if not len(parts["train"]):
        raise DataError(
            "No crystals are left to train on.",
            where="data.max_atoms",
            fix=f"{config.max_atoms} is too few atoms",
        )
    return CrystalData(parts, source.split, source.fingerprint, tuple(notes))


def _set_of(part: Part, max_atoms: int, properties: Sequence[str]) -> tuple[CrystalSet, int]:
    rows = part.rows[part.store.n_atoms[part.rows] <= max_atoms]
    store = part.store.subset(rows)
    crystals = CrystalBatch.from_atoms([store[k] for k in range(len(store))])
    table = torch.from_numpy(property_table(properties, store, crystals)).float()
    return CrystalSet(
        crystals.to(dtype=torch.float32), table, tuple(str(store.ids[k]) for k in range(len(store)))
    ), len(part.rows) - len(rows)


def similar_sizes(
    n_atoms: Int64[ndarray, " crystals"], config: CrystalBatchConfig, rng: np.random.Generator | None
) -> list[list[int]]:
    """Rows of each batch, crystals of similar size together, so that little is padding.

    The rows are shuffled, sorted by size within windows of `WINDOW` batches, and cut; the batches come in random
    order. Without ``rng`` all are sorted.
    """
    order = np.argsort(n_atoms, kind="stable")
    if rng is not None:
        order = rng.permutation(len(n_atoms))
        window = WINDOW * config.batch_size
        pieces = [order[k : k + window] for k in range(0, len(order), window)]
        order = np.concatenate([piece[np.argsort(n_atoms[piece], kind="stable")] for piece in pieces])
    batches = list(_cut(order, n_atoms, config))
    return batches if rng is None else [batches[k] for k in rng.permutation(len(batches))]


def _cut(order: Any, n_atoms: Any, config: CrystalBatchConfig) -> Iterator[list[int]]:
    batch: list[int] = []
    widest = 0
    for row in order.tolist():
        wider = max(widest, int(n_atoms[row]))
        pairs = (len(batch) + 1) * wider**2
        full = len(batch) == config.batch_size or (config.max_pairs is not None and pairs > config.max_pairs)
        if batch and full:
            yield batch
            batch, wider = [], int(n_atoms[row])
        batch.append(row)
        widest = wider
    if batch:
        yield batch
