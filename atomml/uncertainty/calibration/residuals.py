"""`Residuals`: errors beside predicted deviations of a set of structures, with or without some labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["Labelled", "Residuals"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Errors (label − prediction; NaN where there is no label) and deviations of B structures of N atoms in all.

    A quantity without labels or without deviations is None.

    Attributes:
        n_atoms: atoms of each structure.
        numbers: atomic numbers of all atoms.
        energy_error, energy_std: total energies in eV.
        forces_error, forces_cov: eV/Å and (eV/Å)².
        stress_error, stress_std: Mandel vectors (shear components times √2) in eV/Å³.

    Raises:
        DataError: arrays that do not belong together.
    """

    n_atoms: Int64[ndarray, " graphs"]
    numbers: Int64[ndarray, " atoms"]
    energy_error: Float64[ndarray, " graphs"] | None = None
    energy_std: Float64[ndarray, " graphs"] | None = None
    forces_error: Float64[ndarray, "atoms 3"] | None = None
    forces_cov: Float64[ndarray, "atoms 3 3"] | None = None
    stress_error: Float64[ndarray, "graphs 6"] | None = None
    stress_std: Float64[ndarray, "graphs 6"] | None = None

    def __post_init__(self) -> None:
        b, n = len(self.n_atoms), len(self.numbers)
        if self.n_atoms.sum() != n or (b and self.n_atoms.min() < 1):
            raise DataError(
                f"n_atoms says {int(self.n_atoms.sum())} atoms in {b} structures; numbers has {n}."
            )
        shapes = {
            "energy_error": (b,),
            "energy_std": (b,),
            "forces_error": (n, 3),
            "forces_cov": (n, 3, 3),
            "stress_error": (b, 6),
            "stress_std": (b, 6),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is not None and values.shape != shape:
                raise DataError(f"{name} has the shape {values.shape}, not {shape}.")

    def labelled(self, quantity: str) -> Labelled | None:
        """What has labels of ``energy``, ``forces`` or ``stress``; None without labels or without deviations.

        Energies are divided by √n_atoms, see `Calibration`; the components of a stress are six scalars.
        """
        forces = quantity == "forces"
        error = getattr(self, f"{quantity}_error")
        spread = self.forces_cov if forces else getattr(self, f"{quantity}_std")
        if error is None or spread is None:
            return None
        known = ~np.isnan(error).reshape(len(error), -1).any(axis=1)
        if not known.any():
            return None
        frame, groups = np.arange(len(self.n_atoms)), self.n_atoms
        if forces:
            frame, groups = np.repeat(frame, self.n_atoms), self.numbers
        error, spread, groups = error[known], spread[known], groups[known]
        if quantity == "energy":
            root = np.sqrt(groups)
            error, spread = error / root, spread / root
        elif quantity == "stress":
            error, spread, groups = error.ravel(), spread.ravel(), np.repeat(groups, 6)
        return Labelled(error, spread, groups, len(np.unique(frame[known])), int(np.sum(~known)))


class Labelled(NamedTuple):
    """One quantity where it has labels.

    Attributes:
        error, spread: errors and their deviations or covariances.
        groups: atomic numbers beside forces, else atoms of the structure.
        frames: structures with at least one label.
        missing: atoms or structures left out for want of a label.
    """

    error: ndarray
    spread: ndarray
    groups: ndarray
    frames: int
    missing: int
