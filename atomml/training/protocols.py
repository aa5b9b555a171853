"""Error measures as the benchmarks OC20, OC22 and PubChemQCR define them, from packed arrays.

Every measure is a sum and a count, so that parts of a data set (batches, shards, processes) can be added before
the division: total / number, never a mean of means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = [
    "ENERGY_THRESHOLD",
    "FORCE_THRESHOLD",
    "MEANINGS",
    "Compared",
    "Sums",
    "add_sums",
    "is2re_sums",
    "means",
    "pubchemqcr_sums",
    "s2ef_sums",
]

ENERGY_THRESHOLD = 0.02  # eV per system, not per atom
FORCE_THRESHOLD = 0.03  # eV/Å, largest component
COSINE_EPS = 1e-8  # smallest product of norms

Sums = dict[str, tuple[float, int]]

MEANINGS: dict[str, tuple[str, str]] = {
    "energy_mae": ("eV", "mean over systems of |ΔE|, energy of the whole system"),
    "energy_mse": ("eV²", "mean over systems of ΔE²"),
    "energy_within_threshold": ("", "EwT: share of systems with |ΔE| < 0.02 eV"),
    "forces_mae": ("eV/Å", "mean over components of free atoms of |ΔF|"),
    "forcesx_mae": ("eV/Å", "the same for x"),
    "forcesy_mae": ("eV/Å", "the same for y"),
    "forcesz_mae": ("eV/Å", "the same for z"),
    "forces_mse": ("eV²/Å²", "mean over components of free atoms of ΔF²"),
    "forces_cos": ("", "mean over free atoms of the cosine between predicted and true force"),
    "forces_magnitude": ("eV/Å", "mean over free atoms of ||F| − |F true||"),
    "energy_forces_within_threshold": (
        "",
        "EFwT: share of systems with |ΔE| < 0.02 eV and every component of ΔF of its free atoms below 0.03 eV/Å",
    ),
    "energy_per_atom_mae": ("eV/atom", "mean over snapshots of |ΔE|/N"),
    "forces_rmse_published": (
        "eV/Å",
        "force error of the PubChemQCR papers: mean over snapshots of sqrt(mean over atoms of |ΔF|²)",
    ),
    "forces_rmse": ("eV/Å", "ordinary RMSE: sqrt(mean over all components of ΔF²)"),
    "forces_mae_components": ("eV/Å", "mean over all components of |ΔF|"),
}


@dataclass(frozen=True)
class Compared:
    """Predictions beside labels; system s owns the next ``n_atoms[s]`` rows of the per-atom arrays.

    Attributes:
        n_atoms: of each system.
        energy, energy_label: eV per system.
        forces, forces_label: eV/Å; not looked at by `is2re_sums`.
        free: atoms whose forces are compared; all where None.
    """

    n_atoms: Int64[ndarray, " systems"]
    energy: Float64[ndarray, " systems"]
    energy_label: Float64[ndarray, " systems"]
    forces: Float64[ndarray, "atoms 3"]
    forces_label: Float64[ndarray, "atoms 3"]
    free: Bool[ndarray, " atoms"] | None = None

    def require_labels(self, *, forces: bool) -> None:
        """Check that every system has an energy, and every compared atom a force.

        Raises:
            DataError: names the first system without one.
        """
        missing = ~np.isfinite(self.energy_label)
        if forces:
            bare = ~np.isfinite(self.forces_label).all(axis=1) & self.mask()
            missing = missing | (np.add.reduceat(bare, self.starts()) > 0)
        if missing.any():
            what = "energy or forces" if forces else "energy"
            raise DataError(
                f"{int(missing.sum())} of {len(missing)} systems lack a label ({what}).",
                where=f"first: row {int(np.argmax(missing))}",
                fix="evaluate a labelled part, or leave these frames out",
            )

    def starts(self) -> Int64[ndarray, " systems"]:
        """First atom of each system."""
        return (np.cumsum(self.n_atoms) - self.n_atoms).astype(np.int64)

    def mask(self) -> Bool[ndarray, " atoms"]:
        """Atoms whose forces are compared."""
        return np.ones(len(self.forces), dtype=bool) if self.free is None else self.free


def is2re_sums(data: Compared) -> Sums:
    """OC20/OC22 IS2RE: errors of the energy of the whole system.

    Raises:
        DataError: a system without an energy label.
    """
    data.require_labels(forces=False)
    return _energy_sums(data)


def s2ef_sums(data: Compared) -> Sums:
    """OC20/OC22 S2EF: errors of energies and of the forces on free atoms.

    For a system without free atoms the energy alone decides ``energy_forces_within_threshold``.

    Raises:
        DataError: a system without an energy or a free atom without a force label.
    """
    data.require_labels(forces=True)
    mask = data.mask()
    error = np.abs(data.forces - data.forces_label)
    free, n_free = error[mask], int(mask.sum())
    norms = [np.linalg.norm(f[mask], axis=1) for f in (data.forces, data.forces_label)]
    dot = (data.forces[mask] * data.forces_label[mask]).sum(axis=1)
    largest = np.maximum.reduceat(np.where(mask[:, None], error, 0.0).max(axis=1), data.starts())
    right = (np.abs(data.energy - data.energy_label) < ENERGY_THRESHOLD) & (largest < FORCE_THRESHOLD)
    out = _energy_sums(data)
    out |= {
        "forces_mae": (float(free.sum()), free.size),
        "forces_mse": (float((free**2).sum()), free.size),
        "forces_cos": (float((dot / np.maximum(norms[0] * norms[1], COSINE_EPS)).sum()), n_free),
        "forces_magnitude": (float(np.abs(norms[0] - norms[1]).sum()), n_free),
        "energy_forces_within_threshold": (float(right.sum()), len(right)),
    }
    return out | {f"forces{axis}_mae": (float(free[:, k].sum()), n_free) for k, axis in enumerate("xyz")}


def pubchemqcr_sums(data: Compared) -> Sums:
    """PubChemQCR: energy per atom, and the force error in the published and in the ordinary definition.

    Published is the mean over snapshots of the RMS length of the error vector: about √3 times as large as the RMSE of
    components, and each snapshot counts the same, whatever its size. The papers average means of batches
    of equal size, which is this number up to the last, smaller batch.

    Raises:
        DataError: a snapshot without an energy or an atom without a force label.
    """
    data.require_labels(forces=True)
    per_atom = np.abs(data.energy - data.energy_label) / data.n_atoms
    error = data.forces - data.forces_label
    square = np.add.reduceat((error**2).sum(axis=1), data.starts()) / data.n_atoms
    return {
        "energy_per_atom_mae": (float(per_atom.sum()), len(per_atom)),
        "forces_rmse_published": (float(np.sqrt(square).sum()), len(square)),
        "forces_rmse": (float((error**2).sum()), error.size),
        "forces_mae_components": (float(np.abs(error).sum()), error.size),
    }


def add_sums(one: Mapping[str, tuple[float, int]], other: Mapping[str, tuple[float, int]]) -> Sums:
    """Sums and counts of two parts together; a measure that one lacks is taken from the other."""
    empty = (0.0, 0)
    return {
        name: tuple(a + b for a, b in zip(one.get(name, empty), other.get(name, empty), strict=True))  # type: ignore[misc]
        for name in dict.fromkeys([*one, *other])
    }


def means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Total / number of every measure (its root for an RMSE of components); absent where the number is 0."""
    out = {name: total / number for name, (total, number) in sums.items() if number}
    if "forces_rmse" in out:
        out["forces_rmse"] = float(np.sqrt(out["forces_rmse"]))
    return out


def _energy_sums(data: Compared) -> Sums:
    error = np.abs(data.energy - data.energy_label)
    n = len(error)
    return {
        "energy_mae": (float(error.sum()), n),
        "energy_mse": (float((error**2).sum()), n),
        "energy_within_threshold": (float((error < ENERGY_THRESHOLD).sum()), n),
    }
