"""Screening: crystals and known phases relaxed by one potential, and how far the crystals are above the hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.energies import Energies
from atomml.crystals.evaluate.hull import HullDistance, Phase, energies_above_hull
from atomml.crystals.evaluate.shares import share
from atomml.crystals.evaluate.stability import ROUNDING
from atomml.crystals.relax import Model, Relaxed, relax_crystals
from atomml.errors import SimulationError
from atomml.shapes import Int64, ndarray

__all__ = ["Screening", "agreement", "discoveries", "screen"]

LOST = Relaxed({"valid": False, "reason": "no structure", "converged": False}, None)


@dataclass(frozen=True)
class Screening:
    """What one potential says about crystals, in their order.

    Attributes:
        relaxed: row and structure of each.
        energies: after the relaxation, with the deviations of the potential.
        distances: to the hull of the phases.
        phases: the relaxed phases, those that failed included.
    """

    relaxed: tuple[Relaxed, ...]
    energies: Energies
    distances: tuple[HullDistance, ...]
    phases: tuple[Relaxed, ...]

    @property
    def structures(self) -> list[Atoms | None]:
        """Relaxed crystals; None: failed."""
        return [one.atoms for one in self.relaxed]


def screen(
    crystals: Sequence[Atoms | None],
    phases: Sequence[Atoms],
    model: Model,
    *,
    fmax: float = 0.02,
    steps: int = 500,
    device: str = "cpu",
) -> Screening:
    """Relax crystals and phases with the same potential; energies above the hull of the relaxed phases.

    Args:
        crystals: None: not there; the result has a row for it all the same.
        phases: what is known, see `energies_above_hull`.
        model: see `relax_crystals`.
        fmax: largest force at the end, eV/Å.
        steps: most steps for each.
        device: of chgnet and of model files.

    Raises:
        SimulationError: no phase can be relaxed.
        AtommlError: what `relax_crystals` raises.
    """
    present = [*phases, *(atoms for atoms in crystals if atoms is not None)]
    found = list(relax_crystals(present, model, fmax=fmax, steps=steps, device=device))
    known, rest = found[: len(phases)], iter(found[len(phases) :])
    if all(one.atoms is None for one in known):
        why = known[0].row["reason"] if known else "there are none"
        raise SimulationError(f"No phase of the hull can be relaxed: {why}.", fix="check model and phases")
    relaxed = tuple(LOST if atoms is None else next(rest) for atoms in crystals)
    energies = _energies(relaxed)
    formulas = [None if one.atoms is None else one.atoms.get_chemical_formula() for one in relaxed]
    hull = [
        Phase(one.atoms.get_chemical_formula(), one.row["energy_per_atom"])
        for one in known
        if one.atoms is not None
    ]
    return Screening(relaxed, energies, tuple(energies_above_hull(formulas, energies, hull)), tuple(known))


def _energies(relaxed: Sequence[Relaxed]) -> Energies:
    def column(name: str) -> list[float]:
        values = [one.row.get(name) for one in relaxed]
        return [float("nan") if value is None else float(value) for value in values]

    errors = tuple(None if one.atoms is not None else str(one.row["reason"]) for one in relaxed)
    return Energies(np.array(column("energy_per_atom")), np.array(column("energy_std_per_atom")), errors)


def agreement(first: Screening, second: Screening, limit: float) -> dict[str, Any]:
    """How often two potentials agree that E − E_hull ≤ ``limit`` (eV/atom), among crystals that both know.

    Returns:
        ``agree`` (a `share`); the counts ``both``, ``only_first``, ``only_second`` and ``neither``; ``unknown``, the
        crystals without a distance by one of them; in eV/atom ``rmse`` and ``median_error``, the median absolute
        difference of the distances; ``z_rms``, the root mean square of the difference over the first one's σ of the
        crystal's energy (None without σ).
    """
    pairs = zip(first.distances, second.distances, strict=True)
    above = np.array([[np.nan if d.value is None else d.value for d in pair] for pair in pairs]).reshape(
        -1, 2
    )
    known = np.isfinite(above).all(axis=1)
    one, two = (above[known] <= limit + ROUNDING).T
    difference = above[known, 0] - above[known, 1]
    z = difference / first.energies.std[known]
    z = z[np.isfinite(z)]
    return {
        "agree": share(int((one == two).sum()), int(known.sum())),
        "both": int((one & two).sum()),
        "only_first": int((one & ~two).sum()),
        "only_second": int((~one & two).sum()),
        "neither": int((~one & ~two).sum()),
        "unknown": int((~known).sum()),
        "rmse": float(np.sqrt(np.mean(difference**2))) if known.any() else None,
        "median_error": float(np.median(np.abs(difference))) if known.any() else None,
        "z_rms": float(np.sqrt(np.mean(z**2))) if len(z) else None,
    }


def discoveries(
    found: Screening, novel: Sequence[bool | None], group: Int64[ndarray, " crystals"], limit: float
) -> list[int]:
    """Converged, novel crystals with E − E_hull ≤ ``limit`` (eV/atom), the lowest of each group, in order of energy.

    Args:
        found: the crystals.
        novel: see `Novelty`; unknown is not novel.
        group: see `Uniqueness`; unknown is not reported.
        limit: 0: below the hull of the phases or on it.
    """
    above = [np.inf if d.value is None else d.value for d in found.distances]
    first: dict[int, int] = {}
    for k in sorted(range(len(above)), key=above.__getitem__):
        if above[k] <= limit + ROUNDING and novel[k] and group[k] >= 0 and found.relaxed[k].row["converged"]:
            first.setdefault(int(group[k]), k)
    return list(first.values())
