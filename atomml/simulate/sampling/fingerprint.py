"""A cheap description of a structure, to tell near-duplicates: distances between each pair of elements."""

from __future__ import annotations

import numpy as np

from atomml.datasets.frame import Frame
from atomml.graph.neighbors import neighbor_list
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["radial_fingerprint", "relative_scale"]

BINS, WIDTH = 40, 1.0  # grid points; standard deviation of the smearing in grid spacings


def radial_fingerprint(
    frame: Frame, elements: Int64[ndarray, " elements"], cutoff: float
) -> Float64[ndarray, " features"]:
    """Smoothed histogram of interatomic distances for every pair of elements, per atom.

    D_ab(r_k) = (1/N) Σ_{i∈a, j∈b, i≠j} ½ (1 + cos(π r_ij / cutoff)) exp(−½ ((r_ij − r_k)/σ)²). It does not change
    with rotation, translation, order of atoms and repetition of the cell, and is smooth in the positions.

    Args:
        frame: the structure.
        elements: atomic numbers, ascending; must contain those of the frame.
        cutoff: Å.

    Returns:
        [P·40] for the P unordered pairs of elements.
    """
    n = len(elements)
    place = np.searchsorted(elements, frame.numbers)
    j, i, shift = neighbor_list(
        np.asarray(frame.positions), np.asarray(frame.cell), np.asarray(frame.pbc, dtype=bool), cutoff
    )
    vector = frame.positions[j] + shift @ frame.cell - frame.positions[i]
    distance = np.sqrt(np.einsum("ij,ij->i", vector, vector))
    low, high = np.minimum(place[i], place[j]), np.maximum(place[i], place[j])
    pair = low * n - low * (low - 1) // 2 + high - low
    grid = np.linspace(cutoff / BINS, cutoff, BINS)
    sigma = WIDTH * cutoff / BINS
    weight = 0.5 * (1.0 + np.cos(np.pi * distance / cutoff))
    smooth = weight[:, None] * np.exp(-0.5 * ((distance[:, None] - grid) / sigma) ** 2)
    histogram = np.zeros((n * (n + 1) // 2, BINS))
    for code in np.unique(pair):
        histogram[code] = smooth[pair == code].sum(axis=0)
    return histogram.reshape(-1) / len(frame.numbers)


def relative_scale(points: Float64[ndarray, "n features"]) -> float:
    """Mean length of the fingerprints, by which differences are divided; 1 if all are zero."""
    lengths = np.sqrt(np.einsum("ij,ij->i", points, points))
    mean = float(lengths.mean()) if len(lengths) else 0.0
    return mean if mean > 0 else 1.0
