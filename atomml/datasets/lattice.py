"""Lattices of crystals: from lengths and angles, in one standard orientation, and reduced after Niggli."""

from __future__ import annotations

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray

__all__ = [
    "canonical_cell",
    "canonical_lattice",
    "lattice_parameters",
    "niggli_reduce",
    "shortest_distance",
    "transform_basis",
    "wrap_fractional",
]

THINNEST = 0.01  # Å between opposite faces; a cell thinner than this is flat


def canonical_lattice(
    lengths: Float64[ndarray, "*batch 3"], angles: Float64[ndarray, "*batch 3"]
) -> Float64[ndarray, "*batch 3 3"]:
    """Lattice vectors (rows, Å) with c along z, a in the xz plane, right-handed; as pymatgen and CDVAE.

    With cos γ* = (cos α cos β − cos γ) / (sin α sin β):
    a = a (sin β, 0, cos β); b = b (−sin α cos γ*, sin α sin γ*, cos α); c = c (0, 0, 1).

    Args:
        lengths: a, b, c in Å.
        angles: α, β, γ in degrees: between b and c, a and c, a and b.

    Raises:
        DataError: these six numbers are no cell (not positive, not finite, angles that do not close, flat).
    """
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    with np.errstate(divide="ignore", invalid="ignore"):
        cos_star = (cos[..., 0] * cos[..., 1] - cos[..., 2]) / (sin[..., 0] * sin[..., 1])
        star = np.arccos(np.clip(cos_star, -1.0, 1.0))
    a, b, c = lengths[..., 0], lengths[..., 1], lengths[..., 2]
    cell = np.zeros((*lengths.shape, 3))
    cell[..., 0, 0] = a * sin[..., 1]
    cell[..., 0, 2] = a * cos[..., 1]
    cell[..., 1, 0] = -b * sin[..., 0] * np.cos(star)
    cell[..., 1, 1] = b * sin[..., 0] * np.sin(star)
    cell[..., 1, 2] = b * cos[..., 0]
    cell[..., 2, 2] = c
    _check_lattice(lengths, angles, cell)
    return cell


def _check_lattice(lengths: ndarray, angles: ndarray, cell: ndarray) -> None:
    volume = cell[..., 0, 0] * cell[..., 1, 1] * cell[..., 2, 2]
    inside = (lengths > 0).all(axis=-1) & ((angles > 0) & (angles < 180)).all(axis=-1)
    a, b, c = lengths[..., 0], lengths[..., 1], lengths[..., 2]
    faces = np.maximum(np.maximum(a * b, b * c), a * c)
    with np.errstate(invalid="ignore"):
        good = inside & np.isfinite(cell).all(axis=(-2, -1)) & (volume > THINNEST * faces)
    if not good.all():
        bad = tuple(int(k) for k in np.argwhere(~np.atleast_1d(good))[0])
        numbers = [*np.atleast_2d(lengths)[bad], *np.atleast_2d(angles)[bad]]
        raise DataError(
            "No cell has the lengths and angles " + ", ".join(f"{x:g}" for x in numbers) + ".",
            where=None if good.ndim == 0 else f"cell {bad if len(bad) > 1 else bad[0]} (counting from 0)",
            fix="lengths are positive and in Å, angles in degrees; check that they belong together",
        )


def lattice_parameters(
    cell: Float64[ndarray, "*batch 3 3"],
) -> tuple[Float64[ndarray, "*batch 3"], Float64[ndarray, "*batch 3"]]:
    """Lengths a, b, c (Å) and angles α, β, γ (degrees) of cells with the lattice vectors in rows."""
    lengths = np.linalg.norm(cell, axis=-1)
    first, second = cell[..., [1, 2, 0], :], cell[..., [2, 0, 1], :]
    dot = (first * second).sum(axis=-1) / (lengths[..., [1, 2, 0]] * lengths[..., [2, 0, 1]])
    return lengths, np.degrees(np.arccos(np.clip(dot, -1.0, 1.0)))


def wrap_fractional(fractional: Float64[ndarray, "*atoms 3"]) -> Float64[ndarray, "*atoms 3"]:
    """The same places with every coordinate in [0, 1)."""
    wrapped = fractional - np.floor(fractional)
    wrapped[wrapped >= 1.0] = 0.0  # −1e-17 rounds to 1
    return wrapped


def transform_basis(
    cell: Float64[ndarray, "3 3"], fractional: Float64[ndarray, "atoms 3"], matrix: Int64[ndarray, "3 3"]
) -> tuple[Float64[ndarray, "3 3"], Float64[ndarray, "atoms 3"]]:
    """The crystal with the lattice vectors ``matrix @ cell``; nothing moves, the coordinates are wrapped.

    Args:
        cell: lattice vectors in rows.
        fractional: coordinates in ``cell``.
        matrix: whole numbers with determinant ±1.
    """
    inverse = np.rint(np.linalg.inv(matrix))
    return matrix @ cell, wrap_fractional(fractional @ inverse)


def niggli_reduce(
    cell: Float64[ndarray, "3 3"],
    fractional: Float64[ndarray, "atoms 3"],
    *,
    tolerance: float = 1e-5,
    by: str = "spglib",
) -> tuple[Float64[ndarray, "3 3"], Float64[ndarray, "atoms 3"]]:
    """The same crystal, not rotated, with the Niggli-reduced cell (right-handed) and wrapped coordinates.

    A cell that is reduced already is returned as it is. Where two Niggli cells differ by less than the
    rounding of the input (angles of exactly 90° that are not exactly 90°), the choice follows the rounding.

    Args:
        cell: lattice vectors in rows, Å.
        fractional: coordinates in ``cell``.
        tolerance: of comparisons between products of lattice vectors; see ``spglib.niggli_reduce``. Ten and then
            a hundred times as much is tried where the reduction does not end.
        by: "spglib", or "pymatgen" as CDVAE's preprocessing does: several times slower, and it accepts a cell
            whose angles are within one degree of the Niggli cell.

    Raises:
        DataError: the reduction does not converge (a flat or extremely skewed cell).
    """
    reduced = _niggli_pymatgen(cell, tolerance) if by == "pymatgen" else _niggli_spglib(cell, tolerance)
    if reduced is None:
        raise DataError("The Niggli reduction of this cell fails.", fix="read it with niggli=False")
    exact = reduced @ np.linalg.inv(cell)
    matrix = np.rint(exact).astype(np.int64)
    if abs(exact - matrix).max() > 1e-3 or round(float(np.linalg.det(matrix))) not in (1, -1):
        raise DataError("The Niggli reduction of this cell fails.", fix="read it with niggli=False")
    if np.linalg.det(matrix @ cell) < 0:
        matrix = -matrix  # the inversion keeps lengths and angles
    if (matrix == np.eye(3)).all():
        return cell, wrap_fractional(fractional)
    return transform_basis(cell, fractional, matrix)


def _niggli_spglib(cell: ndarray, tolerance: float) -> ndarray | None:
    import spglib

    for factor in (1.0, 10.0, 100.0):  # between two cells that are equal within rounding it runs in circles
        try:
            reduced = spglib.niggli_reduce(cell, eps=tolerance * factor)
        except Exception:  # newer releases can raise instead of returning None
            reduced = None
        if reduced is not None:
            return np.array(reduced)
    return None


def _niggli_pymatgen(cell: ndarray, tolerance: float) -> ndarray | None:
    from pymatgen.core import Lattice

    try:
        return np.array(Lattice(cell).get_niggli_reduced_lattice(tolerance).matrix)
    except (ValueError, ZeroDivisionError):
        return None


def canonical_cell(
    cell: Float64[ndarray, "3 3"], fractional: Float64[ndarray, "atoms 3"]
) -> tuple[Float64[ndarray, "3 3"], Float64[ndarray, "atoms 3"]]:
    """The crystal rotated into the orientation of `canonical_lattice`, coordinates wrapped.

    Lengths and angles do not know the handedness of a cell: a left-handed cell is inverted first, so that the
    crystal is rotated and never mirrored.

    Raises:
        DataError: the cell is flat.
    """
    if np.linalg.det(cell) < 0:
        fractional = -fractional
    return canonical_lattice(*lattice_parameters(cell)), wrap_fractional(fractional)


def shortest_distance(
    cell: Float64[ndarray, "3 3"], fractional: Float64[ndarray, "atoms 3"], cutoff: float
) -> float:
    """Shortest distance (Å) between two atoms, or an atom and its image; infinite beyond ``cutoff``.

    Raises:
        DataError: the cell is so skewed that it has to be reduced, and that fails.
    """
    reach = _images(cell, cutoff)
    if reach.max() > 1:
        cell, fractional = niggli_reduce(cell, fractional)
        reach = _images(cell, min(cutoff, float(np.linalg.norm(cell, axis=1).min())))
    grid = np.meshgrid(*(np.arange(-m, m + 1) for m in reach), indexing="ij")
    shifts = np.stack(grid, axis=-1).reshape(-1, 3) @ cell
    images = (shifts != 0).any(axis=1)
    best = float((shifts[images] ** 2).sum(axis=1).min(initial=np.inf))
    for i in range(1, len(fractional)):
        apart = fractional[:i] - fractional[i]
        nearest = (apart - np.rint(apart)) @ cell
        best = min(best, float(((nearest[:, None] + shifts) ** 2).sum(axis=2).min()))
    distance = float(np.sqrt(best))
    return distance if distance <= cutoff else float("inf")


def _images(cell: ndarray, cutoff: float) -> ndarray:
    """How many cells around the nearest image hold atoms within ``cutoff``, along each vector."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return np.floor(cutoff / heights + 0.5).astype(np.int64)
