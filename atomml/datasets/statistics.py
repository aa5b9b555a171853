"""Numbers about a data set: compositions, distances, outliers, duplicates and the stress sign self-test."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from atomml.datasets.references import ReferenceEnergies, reference_sums
from atomml.datasets.store import FrameStore
from atomml.shapes import Float64, Int64, ndarray

__all__ = [
    "duplicate_groups",
    "formulas",
    "max_force_norms",
    "minimum_distances",
    "outliers",
    "residuals_per_atom",
    "stress_sign_test",
    "volumes",
]


def formulas(store: FrameStore) -> ndarray:
    """Composition of every frame as text, elements in order of atomic number: ``Li8Cl8``."""
    elements, counts = store.element_counts()
    unique, inverse = np.unique(counts, axis=0, return_inverse=True)
    names = [
        "".join(f"{chemical_symbols[z]}{n}" for z, n in zip(elements, row, strict=True) if n)
        for row in unique
    ]
    return np.array(names)[inverse.reshape(-1)]


def volumes(store: FrameStore) -> Float64[ndarray, " frames"]:
    """Cell volume, Å³; NaN unless the frame is periodic in three directions."""
    volume = np.abs(np.linalg.det(store.cell))
    return np.where(store.pbc.all(axis=1) & (volume > 0), volume, np.nan)


def residuals_per_atom(store: FrameStore, references: ReferenceEnergies) -> Float64[ndarray, " frames"]:
    """(E − Σ_i E0(z_i))/N, eV/atom; NaN without an energy."""
    return (store.energy - reference_sums(references, store)) / store.n_atoms


def max_force_norms(store: FrameStore) -> Float64[ndarray, " frames"]:
    """Largest |F_i| of every frame, eV/Å; NaN without forces."""
    return np.maximum.reduceat(np.linalg.norm(store.forces, axis=1), store.offsets[:-1])


def outliers(
    values: Float64[ndarray, " frames"], groups: ndarray, threshold: float = 8.0
) -> tuple[Int64[ndarray, " rows"], Float64[ndarray, " rows"]]:
    """Frames far from the median of their group, by the robust score z = 0.6745 (x − median)/MAD.

    Args:
        values: one number per frame; NaN is skipped.
        groups: frames are compared within a group (composition) if it has at least 8 frames.
        threshold: smallest |z| that is reported.

    Returns:
        rows and scores, most extreme first. A group whose MAD is zero has no outliers.
    """
    score = np.zeros(len(values))
    _, inverse, size = np.unique(groups, return_inverse=True, return_counts=True)
    for group in np.flatnonzero(size >= 8):
        rows = np.flatnonzero((inverse == group) & np.isfinite(values))
        if len(rows) < 8:
            continue
        deviation = values[rows] - np.median(values[rows])
        mad = float(np.median(np.abs(deviation)))
        if mad > 1e-9:
            score[rows] = 0.6745 * deviation / mad
    found = np.flatnonzero(np.abs(score) > threshold)
    order = found[np.argsort(-np.abs(score[found]), kind="stable")]
    return order.astype(np.int64), score[order]


def duplicate_groups(store: FrameStore, decimals: int) -> list[list[int]]:
    """Frames with the same elements, cell and positions when rounded to ``decimals`` of an Å.

    Positions are taken relative to the first atom, so a rigid shift does not hide a duplicate; a rotation
    or a permutation of atoms does. Two frames that straddle a rounding border are missed: a lower bound.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i in range(len(store)):
        part = store.atoms_of(i)
        relative = store.positions[part] - store.positions[part.start]
        key = hashlib.blake2b(np.ascontiguousarray(store.numbers[part]).tobytes(), digest_size=16)
        for array in (relative, store.cell[i] * store.pbc[i][:, None]):
            key.update((np.round(array, decimals) + 0.0).tobytes())
        groups[key.digest()].append(i)
    return [rows for rows in groups.values() if len(rows) > 1]


def minimum_distances(
    store: FrameStore, rows: Int64[ndarray, " rows"], cutoff: float = 6.0
) -> dict[str, dict[str, Any]]:
    """Shortest distance of every pair of elements: {"Li-Cl": {"distance": Å, "frame": row}}.

    Args:
        store: the data set.
        rows: frames to search.
        cutoff: pairs farther apart than this (Å) in every frame are not listed.
    """
    from atomml.graph.neighbors import neighbor_list

    best: dict[tuple[int, int], tuple[float, int]] = {}
    for row in rows:
        i = int(row)
        part = store.atoms_of(i)
        z, pos = store.numbers[part].astype(np.int64), np.array(store.positions[part])
        cell = np.array(store.cell[i])
        nbr, ctr, shift = neighbor_list(pos, cell, np.array(store.pbc[i]), _reach(pos, cell, cutoff))
        if not len(nbr):
            continue
        distance = np.linalg.norm(pos[nbr] - pos[ctr] + shift @ cell, axis=1)
        low, high = np.minimum(z[nbr], z[ctr]), np.maximum(z[nbr], z[ctr])
        pair = low * 128 + high
        shortest = np.full(128 * 128, np.inf)
        np.minimum.at(shortest, pair, distance)
        for code in np.unique(pair):
            key = (int(code) // 128, int(code) % 128)
            if shortest[code] < best.get(key, (np.inf, 0))[0]:
                best[key] = (float(shortest[code]), i)
    return {
        f"{chemical_symbols[a]}-{chemical_symbols[b]}": {"distance": d, "frame": i}
        for (a, b), (d, i) in sorted(best.items())
    }


def _reach(pos: ndarray, cell: ndarray, cutoff: float) -> float:
    """A cutoff that keeps tiny cells cheap: every pair has an image within the cell's longest vector."""
    longest = float(np.linalg.norm(cell, axis=1).max(initial=0.0))
    return min(cutoff, 1.01 * longest) if longest > 0 else cutoff


def stress_sign_test(store: FrameStore) -> dict[str, Any]:
    """Whether the stress has ASE's sign, from how it follows the volume.

    In ASE's sign a compressed cell has a negative trace, an expanded one a positive: over frames of one
    composition the correlation of volume per atom and trace is positive. With the pressure's sign (VASP) it
    is negative. Compositions need 5 frames and a volume spread of 0.5 %; the result is their weighted mean.

    Returns:
        verdict ("ase", "pressure", "unclear", "no stress", "too few volumes"), correlation, frames used and
        the compositions with their correlations.
    """
    has = store.has_label()["stress"]
    volume = volumes(store) / store.n_atoms
    trace = np.trace(store.stress, axis1=1, axis2=2)
    rows = np.flatnonzero(has & np.isfinite(volume))
    result: dict[str, Any] = {"verdict": "no stress", "correlation": None, "frames": 0, "compositions": {}}
    if not len(rows):
        return result
    names = formulas(store)
    total = 0.0
    for name in np.unique(names[rows]):
        part = rows[names[rows] == name]
        v, t = volume[part], trace[part]
        if len(part) < 5 or np.std(v) < 0.005 * np.mean(v) or np.std(t) == 0:
            continue
        correlation = float(np.corrcoef(v, t)[0, 1])
        result["compositions"][str(name)] = {"frames": len(part), "correlation": correlation}
        result["frames"] += len(part)
        total += correlation * len(part)
    if result["frames"] == 0:
        return result | {"verdict": "too few volumes"}
    mean = total / result["frames"]
    verdict = "ase" if mean > 0.3 else "pressure" if mean < -0.3 else "unclear"
    return result | {"verdict": verdict, "correlation": mean}
