"""Properties of crystals that generation can be guided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses
from torch import nn

from atomml.crystals.batch import CrystalBatch
from atomml.crystals.evaluate.distributions import GRAM_PER_CM3
from atomml.datasets import FrameStore, tag_values
from atomml.errors import ConfigError
from atomml.shapes import Float, Float64, Tensor, ndarray

__all__ = ["PropertyEmbedding", "densities", "property_scales", "property_table"]


class PropertyEmbedding(nn.Module):
    """Σ over the properties of φ_p((x − mean)/deviation), or of a learned vector where x is not asked for (NaN).

    Args:
        scales: property → mean and deviation in the training data.
        hidden: channels of the sum.
    """

    def __init__(self, scales: Mapping[str, tuple[float, float]], hidden: int) -> None:
        super().__init__()
        self.names = tuple(scales)
        self.values = nn.ModuleList(
            nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in scales
        )
        self.unknown = nn.Parameter(torch.zeros(len(scales), hidden))
        mean, deviation = zip(*scales.values(), strict=True)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)

    def forward(
        self, properties: Float[Tensor, "crystals properties"] | None, count: int
    ) -> Float[Tensor, "crystals hidden"]:
        """The condition of each of ``count`` crystals; ``properties`` None: nothing is asked for."""
        if properties is None:
            return self.unknown.sum(0).expand(count, -1)
        asked = torch.isfinite(properties)
        scaled = ((properties - self.mean) / self.deviation).masked_fill(~asked, 0.0)
        each = torch.stack([f(scaled[:, k : k + 1]) for k, f in enumerate(self.values)], 1)
        return torch.where(asked[..., None], each, self.unknown).sum(1)


def densities(crystals: CrystalBatch) -> Float64[Tensor, " crystals"]:
    """Mass per volume in g/cm³."""
    mass = torch.from_numpy(np.asarray(atomic_masses))[crystals.numbers] * crystals.mask
    return GRAM_PER_CM3 * mass.sum(1) / torch.linalg.det(crystals.lattice.double()).abs()


def property_table(
    names: Sequence[str], store: FrameStore, crystals: CrystalBatch
) -> Float64[ndarray, "crystals properties"]:
    """Properties of the crystals of a store: ``density``, ``energy_per_atom`` (or its label), or numeric tags.

    Raises:
        ConfigError: the data have no such column, or it is no number.
    """
    return (
        np.stack([_column(name, store, crystals) for name in names], 1)
        if names
        else np.zeros((len(store), 0))
    )


def _column(name: str, store: FrameStore, crystals: CrystalBatch) -> Float64[ndarray, " crystals"]:
    if name == "density":
        return densities(crystals).numpy()
    if name in store.tags:
        values: Any = tag_values(store, name)
        if values.dtype.kind not in "fiu":
            raise ConfigError(
                f"Column {name!r} is text.", where="model.properties", fix="name a numeric column"
            )
        return values.astype(np.float64)
    if name == "energy_per_atom" and np.isfinite(store.energy).any():
        return store.energy / store.n_atoms
    raise ConfigError(
        f"The data have no column {name!r}.",
        where="model.properties",
        fix=f"one of density, {', '.join(store.tags)}",
    )


def property_scales(
    names: Sequence[str], table: Float64[ndarray, "crystals properties"]
) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each property over the crystals that have it.

    Raises:
        ConfigError: no crystal has it, or all have the same.
    """
    scales = {}
    for name, column in zip(names, table.T, strict=True):
        known = column[np.isfinite(column)]
        if len(known) == 0 or not known.std() > 0:
            raise ConfigError(
                f"There is nothing to learn about {name!r}: {len(known)} crystals have it, and they do not differ.",
                where="model.properties",
            )
        scales[name] = (float(known.mean()), float(known.std()))
    return scales
