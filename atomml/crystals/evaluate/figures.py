"""Figures of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from matplotlib.figure import Figure

from atomml.crystals.evaluate.distributions import Comparison
from atomml.crystals.evaluate.symmetry import SpaceGroup
from atomml.shapes import ndarray

__all__ = ["distribution_figure", "element_figure", "rmsd_figure", "space_group_figure"]

COLOURS = {"generated": "#1f77b4", "reference": "#ff7f0e"}
LABELS = {
    "density": "density (g/cm³)",
    "elements": "number of elements",
    "atoms": "number of atoms",
    "volume_per_atom": "volume per atom (Å³)",
    "energy": "energy (eV/atom)",
}
BINS = 40


def distribution_figure(found: Mapping[str, Comparison]) -> Figure:
    """One panel for each property: both sets as densities, and their Wasserstein distance."""
    figure = Figure(figsize=(3.4 * len(found), 3.0), layout="constrained")
    for axes, (name, c) in zip(np.ravel(figure.subplots(1, len(found))), found.items(), strict=True):
        both = np.concatenate([c.generated, c.reference])
        whole = name in ("elements", "atoms")
        bins = _bins(both, whole=whole)
        axes.xaxis.get_major_locator().set_params(integer=whole)
        for label, values in (("reference", c.reference), ("generated", c.generated)):
            if ((values >= bins[0]) & (values <= bins[-1])).any():
                axes.hist(values, bins=bins, density=True, alpha=0.55, color=COLOURS[label], label=label)
        axes.set_xlabel(LABELS[name])
        axes.set_title(f"W₁ = {c.distance:.3g}", fontsize=9)
        axes.set_yticks([])
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _bins(values: ndarray, *, whole: bool) -> ndarray:
    if not len(values):
        return np.array([0.0, 1.0])
    if whole:
        return np.arange(values.min() - 0.5, values.max() + 1.0)
    low, high = np.quantile(values, [0.0, 0.995])  # a few huge cells would flatten the rest
    return np.linspace(low, max(high, low + 1e-6), BINS)


def element_figure(generated: Iterable[Atoms], reference: Iterable[Atoms]) -> Figure:
    """How many of the crystals hold each element."""
    shares = {}
    for label, crystals in (("reference", list(reference)), ("generated", list(generated))):
        counts = Counter(z for atoms in crystals for z in set(atoms.numbers.tolist()))
        shares[label] = {z: count / len(crystals) for z, count in counts.items()}
    elements = sorted({z for part in shares.values() for z in part})
    figure = Figure(figsize=(max(4.0, 0.16 * len(elements) + 1.5), 3.0), layout="constrained")
    axes = figure.subplots()
    for k, (label, part) in enumerate(shares.items()):
        x = np.arange(len(elements)) + 0.4 * (k - 0.5)
        axes.bar(x, [part.get(z, 0.0) for z in elements], 0.4, color=COLOURS[label], label=label)
    axes.set_xticks(range(len(elements)), [chemical_symbols[z] for z in elements], fontsize=6)
    axes.set_ylabel("share of crystals")
    axes.legend(frameon=False, fontsize=8)
    return figure


def space_group_figure(groups: Mapping[str, Sequence[Any]]) -> Figure:
    """Share of crystals by the number of the space group; one line for each set."""
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for label, found in groups.items():
        numbers = [g.number for g in found if isinstance(g, SpaceGroup)]
        counts = np.bincount(numbers, minlength=231) / max(len(numbers), 1)
        known = np.flatnonzero(counts)
        axes.vlines(known, 0, counts[known], color=COLOURS[label], alpha=0.7, label=label, linewidth=1.5)
    axes.set_xlim(0, 231)
    axes.set_ylim(0, None)
    axes.set_xlabel("space group")
    axes.set_ylabel("share of crystals")
    axes.legend(frameon=False, fontsize=8)
    return figure


def rmsd_figure(rmsd: Sequence[float], unmatched: int, stol: float) -> Figure:
    """Distances of the matched predictions."""
    figure = Figure(figsize=(4.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.hist(rmsd, bins=BINS, range=(0.0, stol), color=COLOURS["generated"])
    axes.set_xlabel("RMS distance / (V/N)^(1/3)")
    axes.set_ylabel("predictions")
    axes.set_title(f"{len(rmsd)} matched, {unmatched} not", fontsize=9)
    return figure
