"""Noise of the labels that a disagreement is compared with, and disagreements in units of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from atomml.config import Config
from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.acquisition.predictions import WHERE, MemberPredictions

__all__ = ["NoiseFloor", "Whitened", "energy_disagreement", "force_disagreement"]


class NoiseFloor(Config):
    """Errors of the labels and of the model's form, the same for every structure; 0: none."""

    energy_std_per_atom: float = Field(default=0.0, ge=0)
    """Standard deviation of the energy per atom, eV/atom: that of the total energy is N times as large. A good value
    is the calibrated residual on held-out structures."""
    force_std: float = Field(default=0.0, ge=0)
    """Standard deviation of a component of a force, eV/Å."""


class Whitened(NamedTuple):
    """Disagreement of the members in units of the noise.

    Attributes:
        deviations: a_m = S̄^(−1/2)(μ_m − μ̄)/√M for every quantity, S̄ the mean of the noise S_m over the members:
            Σ_m a_m a_mᵀ = S̄^(−1/2) C S̄^(−1/2) with the covariance C (1/M) of the members.
        noise_term: ½ [log det S̄ − mean_m log det S_m] ≥ 0, disagreement about the noise itself.
    """

    deviations: Float64[ndarray, "sites components members"]
    noise_term: Float64[ndarray, " sites"]


def energy_disagreement(predictions: MemberPredictions, floor: NoiseFloor | None = None) -> Whitened:
    """Of the total energies: sites are structures, with one component.

    Args:
        predictions: of the members.
        floor: added to the noise that the members predict, if they do.

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: the noise of an energy is zero.
    """
    sigma = 0.0 if floor is None else floor.energy_std_per_atom
    _require("energies", predictions.energy_var is not None, "energy_std_per_atom", sigma)
    variance = np.atleast_2d(0.0 if predictions.energy_var is None else predictions.energy_var)
    covariance = variance + (predictions.n_atoms * sigma) ** 2
    return _whiten(predictions.energy[..., None], covariance[..., None, None], "energy of structure")


def force_disagreement(predictions: MemberPredictions, floor: NoiseFloor | None = None) -> Whitened:
    """Of the forces: sites are atoms, with three components; see `energy_disagreement`."""
    sigma = 0.0 if floor is None else floor.force_std
    _require("forces", predictions.forces_cov is not None, "force_std", sigma)
    atoms = predictions.forces.shape[1]
    covariance = np.zeros((1, atoms, 3, 3)) if predictions.forces_cov is None else predictions.forces_cov
    covariance = covariance.reshape(-1, atoms, 3, 3) + sigma**2 * np.eye(3)
    return _whiten(predictions.forces, covariance, "force of atom")


def _require(what: str, has_heads: bool, key: str, sigma: float) -> None:
    if not has_heads and sigma == 0:
        raise ConfigError(
            f"The information that {what} hold depends on the noise of their labels, and nothing says how large that "
            "is.",
            where=WHERE,
            fix=f"give {key} of the noise, or predict with members that have noise heads",
        )


def _whiten(
    means: Float64[ndarray, "members sites components"],
    covariance: Float64[ndarray, "any_members sites components components"],
    name: str,
) -> Whitened:
    """See `Whitened`; one covariance for all members, or one for each."""
    try:
        factors = np.linalg.cholesky(covariance)
        factor = np.linalg.cholesky(covariance.mean(axis=0))
    except np.linalg.LinAlgError as error:
        site = np.argwhere(np.linalg.eigvalsh(covariance)[..., 0] <= 0)[0, 1]
        raise DataError(
            f"The noise of the {name} {site} is not positive definite.",
            where=WHERE,
            fix="give a floor of the noise",
        ) from error
    centred = np.moveaxis(means - means.mean(axis=0), 0, -1) / np.sqrt(len(means))
    return Whitened(
        np.linalg.solve(factor, centred),
        np.maximum(_half_log_det(factor) - _half_log_det(factors).mean(axis=0), 0.0),
    )


def _half_log_det(factor: ndarray) -> ndarray:
    """½ log det(L Lᵀ) = Σ log L_aa."""
    return np.asarray(np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1))
