"""Co-training: several sets with their own reference energies, loss factors and shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from atomml.datasets import ReferenceEnergies
from atomml.datasets.mixture import Alignment, align_energies, align_labels
from atomml.errors import ConfigError, TrainingError
from atomml.graph.mixture_sampler import epoch_quotas, sampling_shares
from atomml.shapes import Float64, ndarray
from atomml.training.config import AnyLossConfig, DataConfig, SetConfig
from atomml.training.data import references_of, remaining_energy, require_labels
from atomml.training.loss import TERMS
from atomml.training.parts import Mixture, MixturePart, Part, TrainingData
from atomml.training.sources import Source, load_source, require_known_elements

__all__ = ["load_mixture", "loss_factors", "mixture_json", "mixture_table"]


def load_mixture(
    config: DataConfig, loss: AnyLossConfig, base: Path | None, alignment: Alignment | None = None
) -> TrainingData:
    """Read and divide several sets and bring their energies onto one table.

    Args:
        config: the data section, with ``sets``.
        loss: weights of the terms.
        base: folder of the configuration file.
        alignment: the one to use; by default it is made from the training frames.

    Raises:
        DataError: a file that cannot be read; elements that training has not or that have no reference energy.
        ConfigError: a division that leaves a part empty; shares that cannot be met.
        TrainingError: a loss term, or a set, without labels.
    """
    sets = dict(config.sets or {})
    free_only = config.forces_on == "free"
    sources = {
        name: load_source(one, base, free_only=free_only, name=f"data.sets.{name}")
        for name, one in sets.items()
    }
    known = {z for source in sources.values() for z in source.parts["train"].elements()}
    for name, source in sources.items():
        require_known_elements(known, {f"{name} {part}": frames for part, frames in source.parts.items()})
    if alignment is None:
        alignment = _aligned(config, sources, base)
    factors = {name: loss_factors(one) for name, one in sets.items()}
    parts = {
        name: _with_labels(source, alignment.shifts[name], factors[name]) for name, source in sources.items()
    }
    _require_useful(parts, loss)
    counts = [len(part["train"]) for part in parts.values()]
    shares = sampling_shares(
        counts,
        temperature=config.sampling_temperature or 1.0,
        fixed=[one.share for one in sets.values()],
    )
    quotas = epoch_quotas(shares, config.epoch_size or sum(counts))
    by_name = dict(zip(sets, shares, strict=True))

    def joined(part: str) -> MixturePart | None:
        found = {name: mine[part] for name, mine in parts.items() if part in mine}
        return MixturePart(found, by_name) if found else None

    train = joined("train")
    assert train is not None  # every set has training frames; for the type checker
    return TrainingData(
        train=train,
        valid=joined("valid"),
        test=joined("test"),
        split=None,
        fingerprint={"sets": ", ".join(sets)}
        | {f"{name}: {k}": v for name, source in sources.items() for k, v in source.fingerprint.items()},
        summary={f"{name} {k}": v for name, source in sources.items() for k, v in source.summary.items()},
        mixture=Mixture(
            names=tuple(sets),
            shares=tuple(shares),
            quotas=tuple(quotas),
            factors=np.array(list(factors.values())),
            alignment=alignment,
            splits={name: source.split for name, source in sources.items()},
        ),
    )


def loss_factors(config: SetConfig) -> Float64[ndarray, " 3"]:
    """Factors of the energy, force and stress terms of a set."""
    each = [config.energy_weight, config.forces_weight, config.stress_weight]
    return config.weight * np.array(each, dtype=np.float64)


def _aligned(config: DataConfig, sources: dict[str, Source], base: Path | None) -> Alignment:
    sets = dict(config.sets or {})
    first = config.reference_set or next(iter(sets))
    references: dict[str, ReferenceEnergies] = {}
    for name, one in sets.items():
        train = sources[name].parts["train"]
        wanted = (
            one.references if one.references is not None else "least_squares" if name == first else "none"
        )
        references[name] = references_of(wanted, train.store, train.rows, base)
        where = f"data.sets.{name}.references: {wanted}"
        if name == first:
            references[name].require(train.elements(), where=where)
        elif references[name].method != "none":
            for part in sources[name].parts.values():
                references[name].require(part.elements(), where=where)
    frames = {name: source.parts["train"] for name, source in sources.items()}
    return align_energies({name: (p.store, p.rows) for name, p in frames.items()}, references, first)


def _with_labels(source: Source, shift: dict[int, float], factors: Float64[ndarray, " 3"]) -> dict[str, Part]:
    """The parts of a set with shifted energies, and without the labels whose factor is 0."""
    ignored = tuple(term for term, factor in zip(TERMS, factors, strict=True) if factor == 0)
    stores = {id(part.store): align_labels(part.store, shift, ignored) for part in source.parts.values()}
    return {name: replace(part, store=stores[id(part.store)]) for name, part in source.parts.items()}


def _require_useful(parts: dict[str, dict[str, Part]], loss: AnyLossConfig) -> None:
    labels = {name: mine["train"].labels() for name, mine in parts.items()}
    wanted = [term for term in TERMS if getattr(loss, term) > 0]
    for name, counts in labels.items():
        if not any(counts[term] for term in wanted):
            raise TrainingError(
                f"The set {name!r} has none of the labels {', '.join(wanted)} that the loss uses.",
                where=f"data.sets.{name}",
                fix="leave it out, give its terms a weight, or name the columns of its labels",
            )
    total = {term: sum(counts[term] for counts in labels.values()) for term in TERMS}
    require_labels(total, sum(len(mine["train"]) for mine in parts.values()), loss)


def mixture_table(data: TrainingData) -> Table:
    """The sets: frames, share, references, mean shift, mean energy above the references."""
    table = Table(title="Sets")
    for column in (
        "set",
        "train",
        "share",
        "per epoch",
        "references",
        "shift (eV/atom)",
        "E − ΣE0 (eV/atom)",
    ):
        table.add_column(column, justify="left" if column in ("set", "references") else "right")
    for name, row in mixture_json(data).items():
        numbers = (f"{row[key]:+.4f}" if row[key] is not None else "-" for key in ("shift", "energy"))
        table.add_row(
            name,
            str(row["frames"]["train"]),
            f"{row['share']:.3f}",
            str(row["per epoch"]),
            row["references"],
            *numbers,
        )
    return table


def mixture_json(data: TrainingData) -> dict[str, dict[str, Any]]:
    """Facts of each set: frames, share, frames per epoch, references, mean shift and mean remaining energy.

    Energies in eV/atom, over the training frames; None where a set has no energies.
    """
    mixture = data.mixture
    if mixture is None:
        raise ConfigError("This training is on one set.", where="data")
    out: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(mixture.names):
        part = data.train.sets()[name]
        energies = part.labels()["energy"] > 0
        out[name] = {
            "frames": {key: len(p.sets()[name]) for key, p in data.parts().items() if name in p.sets()},
            "labels": part.labels(),
            "share": mixture.shares[k],
            "per epoch": mixture.quotas[k],
            "loss factors": dict(zip(TERMS, mixture.factors[k].tolist(), strict=True)),
            "references": mixture.alignment.own[name].method,
            "shift": _mean_shift(part, mixture.alignment.shifts[name]) if energies else None,
            "energy": remaining_energy(mixture.alignment.model, part) if energies else None,
        }
    return out


def _mean_shift(part: Part, shift: dict[int, float]) -> float:
    if not shift:
        return 0.0
    elements, counts = part.store.element_counts(part.rows)
    return float((counts @ np.array([shift[z] for z in elements]) / counts.sum(axis=1)).mean())
