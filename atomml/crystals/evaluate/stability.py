"""What is stable, unique and novel at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from atomml.crystals.evaluate.energies import Energies, energies_of, given_energies
from atomml.crystals.evaluate.hull import HullDistance, energies_above_hull, read_phases
from atomml.crystals.evaluate.inputs import Generated
from atomml.crystals.evaluate.shares import Section, reasons, share
from atomml.shapes import Bool, Int64, ndarray

__all__ = [
    "METASTABLE",
    "STABLE",
    "Labelled",
    "labelled",
    "stability_metrics",
    "stability_section",
    "stable_unique_novel",
]

STABLE, METASTABLE = 0.0, 0.1  # eV/atom above the hull
ROUNDING = 1e-6  # eV/atom: a phase of the hull itself must not be unstable by rounding


def stability_metrics(
    energies: Energies,
    distances: Sequence[HullDistance],
    group: Int64[ndarray, " crystals"],
    novel: Sequence[bool | None] | None,
) -> dict[str, Any]:
    """Shares of stable (E − E_hull ≤ 0) and metastable (≤ 0.1 eV/atom) crystals among all, and of S.U.N. ones.

    What is unknown counts as not stable and is counted apart, with the elements that have no reference. Where the
    potential has a deviation σ, the shares are also given at E − σ and E + σ (σ of the crystal alone, not of the
    hull).

    Args:
        energies: of the crystals.
        distances: see `energies_above_hull`.
        group: see `Uniqueness`.
        novel: see `Novelty`; None: there was no reference, and no S.U.N.
    """
    n = len(distances)
    above = np.array([np.nan if d.value is None else d.value for d in distances])
    known, sigma = np.isfinite(above), np.isfinite(energies.std)
    missing = Counter(element for d in distances for element in d.missing)
    found: dict[str, Any] = {
        "energy_known": share(int(np.isfinite(energies.per_atom).sum()), n),
        "hull_known": share(int(known.sum()), n),
        "without_reference": {
            "count": sum(bool(d.missing) for d in distances),
            "elements": dict(missing.most_common()),
        },
        "errors": reasons(d.error for d in distances),
        "mean_above_hull": float(above[known].mean()) if known.any() else None,
        "median_above_hull": float(np.median(above[known])) if known.any() else None,
        "mean_std": float(energies.std[sigma].mean()) if sigma.any() else None,
    }
    for name, limit in (("stable", STABLE), ("metastable", METASTABLE)):
        below = above <= limit + ROUNDING
        found[name] = share(int(below.sum()), n)
        for side, sign in (("minus_std", -1), ("plus_std", 1)):
            if sigma.any():
                shifted = above + sign * energies.std
                found[f"{name}_{side}"] = share(int((shifted <= limit + ROUNDING).sum()), n)
        if novel is not None:
            found[f"{name}_unique_novel"] = share(int(stable_unique_novel(below, group, novel).sum()), n)
    return found


def stable_unique_novel(
    stable: Bool[ndarray, " crystals"], group: Int64[ndarray, " crystals"], novel: Sequence[bool | None]
) -> Bool[ndarray, " crystals"]:
    """The first stable and novel member of each group of equal crystals; unknown is neither novel nor unique."""
    good = np.flatnonzero(stable & np.array([flag is True for flag in novel], dtype=np.bool_) & (group >= 0))
    first = np.unique(group[good], return_index=True)[1]
    chosen = np.zeros(len(stable), dtype=np.bool_)
    chosen[good[first]] = True
    return chosen


class Labelled(NamedTuple):
    """Energies of the crystals, their distances to the hull (None without one), and what the hull is made of."""

    energies: Energies
    distances: list[HullDistance] | None
    hull: dict[str, Any]


def labelled(
    given: Generated, potential: str | Path | Calculator | Any, hull: Path | None, *, device: str = "cpu"
) -> Labelled:
    """Energies, and distances to a hull.

    Args:
        given: crystals.
        potential: see `energies_of`; or "given", for energies that the crystals and the reference bring along.
        hull: see `read_phases`.
        device: of the potential.
    """
    label: Callable[[Sequence[Atoms | None]], Energies] = (
        given_energies if potential == "given" else partial(energies_of, potential=potential, device=device)
    )
    own = potential == "given"
    energies = given_energies(given.structures, given.records) if own else label(given.structures)
    if hull is None:
        return Labelled(energies, None, {})
    crystals = [atoms for atoms in given.structures if atoms is not None]
    systems = {frozenset(atoms.numbers.tolist()) for atoms in crystals}
    phases, lost = read_phases(hull, label, systems)
    formulas = [None if atoms is None else atoms.get_chemical_formula() for atoms in given.structures]
    about = {"source": str(hull), "phases": len(phases), "lost": reasons(lost)}
    return Labelled(energies, energies_above_hull(formulas, energies, phases), about)


def stability_section(
    energies: Energies,
    distances: Sequence[HullDistance] | None,
    group: Int64[ndarray, " crystals"],
    novel: Sequence[bool | None] | None,
) -> Section:
    """`stability_metrics` and the columns of each crystal; without a hull only energies."""
    columns: dict[str, list[Any]] = {
        "energy_per_atom": energies.per_atom.tolist(),
        "energy_std_per_atom": energies.std.tolist(),
        "energy_error": list(energies.errors),
    }
    if distances is None:
        known = np.isfinite(energies.per_atom)
        metrics = {"energy_known": share(int(known.sum()), len(known)), "errors": reasons(energies.errors)}
        return Section(metrics, columns)
    columns["above_hull"] = [d.value for d in distances]
    columns["without_reference"] = [" ".join(d.missing) for d in distances]
    above = np.array([np.nan if d.value is None else d.value for d in distances])
    if novel is not None:
        for name, limit in (("sun", STABLE), ("metastable_sun", METASTABLE)):
            columns[name] = stable_unique_novel(above <= limit + ROUNDING, group, novel).tolist()
    return Section(stability_metrics(energies, distances, group, novel), columns)
