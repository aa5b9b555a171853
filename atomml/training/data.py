"""From the data section of a configuration to training, validation and test sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from atomml.datasets import (
    FrameStore,
    ReferenceEnergies,
    from_table,
    isolated_atoms,
    least_squares,
    load_frames,
    no_references,
    reference_sums,
)
from atomml.datasets.mixture import Alignment
from atomml.errors import ConfigError, TrainingError
from atomml.training.config import AnyLossConfig, DataConfig, resolve_path
from atomml.training.parts import AnyPart, MixturePart, Part, TrainingData
from atomml.training.sources import load_source, require_known_elements

__all__ = [
    "MixturePart",
    "Part",
    "TrainingData",
    "load_training_data",
    "reference_energies",
    "references_of",
    "remaining_energy",
    "require_labels",
]


def load_training_data(
    config: DataConfig, loss: AnyLossConfig, base: Path | None = None, *, alignment: Alignment | None = None
) -> TrainingData:
    """Read and divide the data of a configuration.

    Args:
        config: the data section.
        loss: used to check that every term with a weight has labels.
        base: folder of the configuration file, for relative paths.
        alignment: of the energies of several sets, as a run to be resumed began with; fitted anew by default.

    Raises:
        DataError: a file that cannot be read; elements in validation or test that training does not have.
        ConfigError: a division that leaves a part empty; an unknown tag.
        TrainingError: a loss term with a positive weight and no labels.
    """
    if config.sets is not None:
        from atomml.training.mixture import load_mixture

        return load_mixture(config, loss, base, alignment)
    source = load_source(config, base, free_only=config.forces_on == "free")
    train = source.parts["train"]
    require_labels(train.labels(), len(train), loss)
    require_known_elements(set(train.elements()), source.parts)
    return TrainingData(
        train=train,
        valid=source.parts.get("valid"),
        test=source.parts.get("test"),
        split=source.split,
        fingerprint=source.fingerprint,
        summary=source.summary,
    )


def require_labels(counts: Mapping[str, int], frames: int, loss: AnyLossConfig) -> None:
    """Check that every term of the loss has labels.

    Raises:
        TrainingError: names the term and what the training set has.
    """
    for term, weight in (("energy", loss.energy), ("forces", loss.forces), ("stress", loss.stress)):
        if weight > 0 and counts[term] == 0:
            found = ", ".join(f"{name} {count}/{frames}" for name, count in counts.items())
            raise TrainingError(
                f"loss.{term} has weight {weight:g}, but no training frame has this label.",
                where=f"training set: {found}",
                fix=f"set loss.{term}: 0, or name the column with data.{term}_key",
            )


def remaining_energy(references: ReferenceEnergies, train: AnyPart) -> float:
    """Mean of (E − Σ E0)/N over the training frames, eV/atom: what the network has to learn first.

    Each of several sets counts by its share of the training.
    """
    total = weight = 0.0
    for share, part in train.shared_sets():
        if part.labels()["energy"]:
            store = part.store.subset(part.rows)
            total += share * float(
                np.nanmean((store.energy - reference_sums(references, store)) / store.n_atoms)
            )
            weight += share
    return total / weight


def reference_energies(config: DataConfig, train: AnyPart, base: Path | None = None) -> ReferenceEnergies:
    """Reference energies as ``data.references`` asks for them, for one set.

    Raises:
        DataError: an isolated atom, an energy or an element of the table is missing.
        ConfigError: there are several sets; `TrainingData.mixture` has their references.
    """
    if not isinstance(train, Part):
        raise ConfigError("Several sets have several tables of reference energies.", where="data.sets")
    references = references_of(config.references, train.store, train.rows, base)
    references.require(train.elements(), where=f"data.references: {config.references}")
    return references


def references_of(
    wanted: Mapping[str, float] | str, store: FrameStore, rows: np.ndarray, base: Path | None
) -> ReferenceEnergies:
    """A table by one of the methods of ``data.references``, from the training rows of a store.

    Raises:
        DataError: an isolated atom or an energy is missing.
    """
    match wanted:
        case "least_squares":
            return least_squares(store, rows)
        case "isolated":
            return isolated_atoms(store)
        case "none":
            return no_references(store.elements(rows))
        case str():
            return isolated_atoms(load_frames(resolve_path(wanted, base)))
        case _:
            return from_table(wanted)
