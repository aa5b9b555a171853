"""Configuration shared by the conservative networks: energy heads and predicted deviations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from atomml.config import Config

__all__ = ["HeadsConfig", "NoiseConfig"]


class NoiseConfig(Config):
    """Deviations of the labels that the network itself predicts (aleatoric, or misfit)."""

    forces: Literal["expm", "outer", "isotropic", "cholesky"] = "expm"
    """Covariance Σ of the force on an atom: ``expm`` Σ = σ² exp(S) with S from scalars and l = 2 features (needs
    lmax ≥ 2); ``outer`` Σ = s² 1 + Σ_k v_k v_kᵀ with vectors v from l = 1 features; ``isotropic`` Σ = s² 1;
    ``cholesky`` the published lab-frame matrix, which does not turn with the structure: for reproduction only."""
    energy: Literal["sum", "mean"] = "sum"
    """Variance of the energy: ``sum`` of the atomic variances (independent atoms, σ ~ √N), or ``mean``, the
    exponential of the mean of their logarithms, which does not grow with the structure."""
    hidden: PositiveInt = 32
    """Width of the hidden layer of the heads."""
    vectors: PositiveInt = 4
    """Number of vectors of the ``outer`` head."""


class HeadsConfig(Config):
    """What every conservative network can have besides its body."""

    heads: int = Field(default=1, ge=1, le=256)
    """Number of energy heads; more than one makes a shallow ensemble: last layers that differ, around one mean."""
    noise: NoiseConfig | None = None
    """Predicted deviations of energy, forces and stress; needed for ``loss.kind: nll`` with one head."""
