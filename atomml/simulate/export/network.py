"""Energies and what is known about their deviations as one network that can be recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atomml.potentials.potential import Potential
from atomml.potentials.traceable import TraceablePotential
from atomml.shapes import Float, Float64, Int64, Tensor
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.posterior import LastLayer, Members

__all__ = ["EnergyDeviation", "ExportedNetwork", "deviation_of"]


@dataclass(frozen=True)
class EnergyDeviation:
    """How the deviation of an energy is made of the parts of `ExportedNetwork`.

    σ² = α² (γ² |Σ_i p_i|² + noise) + β² N; see `atomml.uncertainty.bayesian.BayesianPotential`.
    """

    alpha: float
    beta: float
    gamma: float
    mean_noise: bool
    """Whether the noise of a structure is the geometric mean of those of its atoms, not their sum."""


def deviation_of(model: Potential | BayesianPotential) -> EnergyDeviation | None:
    """The constants of a model with an uncertainty, None for one without."""
    if not isinstance(model, BayesianPotential):
        return None
    calibration, noise = model.calibration, model.config.noise
    alpha, beta = (1.0, 0.0) if calibration is None else calibration.energy_factors()
    gamma = 1.0 if calibration is None else calibration.epistemic_factor("energy")
    mean_noise = noise is not None and noise.energy == "mean"
    return EnergyDeviation(float(alpha), float(beta), float(gamma), mean_noise)


class ExportedNetwork(nn.Module):
    """Atomic energies, and vectors whose sums over atoms give the spread of the energy.

    The epistemic variance of Σ_i E_i is |Σ_i p_i|², and member m has the energy Σ_i (E_i + d_im):

        deep ensemble:   d_im = stretch (E_im − E_i),      p_i = d_i / √M;
        last layer:      p_i = s Aᵀ f_i,                   d_i = s √M Dᵀ f_i,

    with the columns of D its heads less their mean, or 16 draws, divided by √M.

    Args:
        model: left as it is.

    Raises:
        UnsupportedError: a model that cannot be exported, see `TraceablePotential`.
    """

    def __init__(self, model: Potential | BayesianPotential) -> None:
        super().__init__()
        posterior: Any = getattr(model, "posterior", None)
        potentials: Any = (
            posterior.members if isinstance(posterior, Members) else [getattr(model, "potential", model)]
        )
        noise = isinstance(model, BayesianPotential)
        self.members = nn.ModuleList(TraceablePotential(potential, noise=noise) for potential in potentials)
        self.stretch = getattr(posterior, "stretch", 1.0)
        self.spread: Tensor
        self.draws: Tensor
        spread, draws = _matrices(posterior, len(potentials[0].last_layer()))
        self.register_buffer("spread", spread)
        self.register_buffer("draws", draws)

    def forward(
        self,
        species: Int64[Tensor, " atoms"],
        vectors: Float[Tensor, "edges 3"],
        center: Int64[Tensor, " edges"],
        neighbor: Int64[Tensor, " edges"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies [N], p [N, R], d [N, M] in eV, and log σ² of predicted noise [N, members or 0]; all float64."""
        each = [member(species, vectors, center, neighbor) for member in self.members]
        noise = torch.cat([one[2] for one in each], 1)
        if len(each) == 1:
            energies, features, _ = each[0]
            return energies, features @ self.spread, features @ self.draws, noise
        stacked = torch.stack([one[0] for one in each], 1)
        mean = stacked.mean(1)
        off = self.stretch * (stacked - mean[:, None])
        return mean, off / math.sqrt(len(each)), off, noise


def _matrices(
    posterior: Any, n_features: int
) -> tuple[Float64[Tensor, "features rank"], Float64[Tensor, "features members"]]:
    """Matrices s A [P, R] and s √M D [P, M], without columns where there is no Gaussian over the last layer."""
    if not isinstance(posterior, LastLayer):
        return torch.zeros((n_features, 0)).double(), torch.zeros((n_features, 0)).double()
    scale, factor = posterior.potential.scale, posterior.factor.cpu()
    draws = factor if posterior.method == "heads" else posterior.draws().cpu()
    return scale * factor, scale * math.sqrt(draws.shape[1]) * draws
