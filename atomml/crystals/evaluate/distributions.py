"""Distributions of properties over generated and reference crystals, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from scipy.stats import wasserstein_distance

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = ["Comparison", "compare_distributions"]

DRAWN = 1000  # crystals that the literature compares
GRAM_PER_CM3 = 1e24 * units._amu * 1e3  # of one atomic mass unit per Å³


@dataclass(frozen=True)
class Comparison:
    """One property of two sets.

    Attributes:
        distance: first Wasserstein distance, ∫ |F_generated(x) − F_reference(x)| dx, in the unit of the property; NaN
            if a set is empty.
        generated: values of the crystals that were compared.
        reference: values of all reference crystals.
        left_out: values that are not finite (of the generated set, of the reference).
    """

    distance: float
    generated: Float64[ndarray, " generated"]
    reference: Float64[ndarray, " reference"]
    left_out: tuple[int, int]


def compare_distributions(
    generated: Sequence[Atoms],
    reference: Sequence[Atoms],
    *,
    energies: tuple[Sequence[float], Sequence[float]] | None = None,
    most: int | None = DRAWN,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Wasserstein distances of ``density`` (g/cm³), ``elements``, ``atoms``, ``volume_per_atom`` (Å³) and ``energy``.

    Density and elements are the d_ρ and d_elem of the literature (Xie et al., CDVAE, ICLR 2022), where 1,000 random
    valid crystals are compared with the whole test set.

    Args:
        generated: valid crystals.
        reference: usually the test set.
        energies: for each generated and each reference crystal, in one unit.
        most: draw as many generated crystals; all if there are fewer, or if None.
        seed: of the draw.

    Raises:
        DataError: not one energy for each crystal.
    """
    if energies is not None and tuple(map(len, energies)) != (len(generated), len(reference)):
        raise DataError(
            "Each crystal needs an energy.",
            where=f"{len(energies[0])} and {len(energies[1])} energies, {len(generated)} generated and "
            f"{len(reference)} reference crystals",
        )
    rows = list(range(len(generated)))
    if most is not None and most < len(rows):
        rows = sorted(np.random.default_rng(seed).choice(rows, most, replace=False).tolist())
    values = _properties([generated[k] for k in rows]), _properties(reference)
    if energies is not None:
        for part, of_set in zip(values, (np.asarray(energies[0])[rows], energies[1]), strict=True):
            part["energy"] = np.asarray(of_set, dtype=np.float64)
    return {name: _compared(values[0][name], values[1][name]) for name in values[0]}


def _properties(structures: Sequence[Atoms]) -> dict[str, Float64[ndarray, " crystals"]]:
    def of_each(values: Iterable[float]) -> Float64[ndarray, " crystals"]:
        return np.array(list(values), dtype=np.float64)

    volumes, atoms = of_each(a.cell.volume for a in structures), of_each(len(a) for a in structures)
    masses = of_each(a.get_masses().sum() for a in structures)
    return {
        "density": GRAM_PER_CM3 * masses / volumes,
        "elements": of_each(len(set(a.numbers.tolist())) for a in structures),
        "atoms": atoms,
        "volume_per_atom": volumes / atoms,
    }


def _compared(generated: Float64[ndarray, " first"], reference: Float64[ndarray, " second"]) -> Comparison:
    finite = generated[np.isfinite(generated)], reference[np.isfinite(reference)]
    distance = float(wasserstein_distance(*finite)) if len(finite[0]) and len(finite[1]) else float("nan")
    left_out = len(generated) - len(finite[0]), len(reference) - len(finite[1])
    return Comparison(distance, *finite, left_out)
