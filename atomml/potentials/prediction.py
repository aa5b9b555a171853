"""`Prediction`: what a potential says about one structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prediction"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Energy, forces and stress of one structure of N atoms, with deviations where the potential has them.

    Attributes:
        energy: total energy in eV.
        energies: per-atom energies [N] in eV, reference energies included; they sum to ``energy``.
        forces: [N, 3] in eV/Å, or None when not asked for.
        stress: [6] in eV/Å³, ASE sign and Voigt order xx yy zz yz xz xy; None without a three-dimensional cell.
        energy_std, energies_std, forces_std, stress_std: one standard deviation, shape and unit of the quantity.
        forces_cov: [N, 3, 3] covariance of each atom's force in (eV/Å)².
        energy_std_epistemic, energy_std_aleatoric: parts of ``energy_std``: what more data would remove (members
            disagree), and what the network expects of any label; their squares add up. Likewise for
            ``energies_std``, ``stress_std`` and, as covariances, ``forces_cov``.
        energy_members, forces_members, stress_members: [M], [M, N, 3] and [M, 6] of each member, when asked for.
        calibration: id of the calibration in the deviations; None: they are as the method gives them.
    """

    energy: float
    energies: Array
    forces: Array | None = None
    stress: Array | None = None
    energy_std: float | None = None
    energies_std: Array | None = None
    forces_std: Array | None = None
    stress_std: Array | None = None
    forces_cov: Array | None = None
    energy_std_epistemic: float | None = None
    energy_std_aleatoric: float | None = None
    energies_std_epistemic: Array | None = None
    energies_std_aleatoric: Array | None = None
    stress_std_epistemic: Array | None = None
    stress_std_aleatoric: Array | None = None
    forces_cov_epistemic: Array | None = None
    forces_cov_aleatoric: Array | None = None
    energy_members: Array | None = None
    forces_members: Array | None = None
    stress_members: Array | None = None
    calibration: str | None = None
