"""SWAG: a Gaussian around the weights that a training at constant learning rate wanders through."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from atomml.errors import ConfigError, TrainingError
from atomml.shapes import Tensor
from atomml.uncertainty.diagonal import normal_like

__all__ = ["SwagMoments"]


class SwagMoments:
    """Running moments of snapshots θ_i of the weights, in float64, by parameter name.

    After n snapshots: the mean θ̄_n, the diagonal Σ = (1/n) Σ_i (θ_i − θ̄_n)² and the matrix D of the last K
    deviations θ_i − θ̄_i from the running mean that includes θ_i. The posterior is

        N(θ̄_n, ½ (diag Σ + D Dᵀ/(K − 1)))                      (K: columns of D).

    As in the source, deviations are from the running mean. That of the i-th snapshot has (1 − 1/i) times the
    variance of the snapshots (the first is zero), so that D gives 86 % of it when all of 20 are kept, and all
    of it when K of many are.

    Attributes:
        rank: greatest K, at least 2.
        count: snapshots so far.
        mean: θ̄_n.
        square: n Σ, the sum of squared deviations.
        deviations: [k, *shape], oldest first.

    Raises:
        ConfigError: a rank below 2.

    Source: Maddox et al., "A simple baseline for Bayesian uncertainty in deep learning" (2019).
    """

    def __init__(self, rank: int) -> None:
        if rank < 2:
            raise ConfigError(f"SWAG needs a rank of at least 2, not {rank}.", where="rank")
        self.rank, self.count = rank, 0
        self.mean: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.deviations: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take a snapshot; the tensors are copied. Never give averaged (EMA) weights: their spread is too small.

        Raises:
            TrainingError: a weight that is not finite, or other names or shapes than before.
        """
        new = {name: value.detach().double() for name, value in weights.items()}
        if self.count and {n: v.shape for n, v in new.items()} != {n: v.shape for n, v in self.mean.items()}:
            raise TrainingError("The snapshot has other parameters than the ones before.", where="SWAG")
        for name, value in new.items():
            if not torch.isfinite(value).all():
                raise TrainingError(
                    "A snapshot of the weights is not finite.",
                    where=f"SWAG, snapshot {self.count + 1}, parameter {name}",
                    fix="lower the learning rate while snapshots are collected",
                )
        self.count += 1
        for name, value in new.items():
            before = self.mean.get(name, torch.zeros_like(value))
            mean = before + (value - before) / self.count
            self.mean[name] = mean
            square = (value - before) * (value - mean)
            deviation = (value - mean)[None]
            if self.count > 1:
                square = self.square[name] + square
                deviation = torch.cat([self.deviations[name], deviation])[-self.rank :]
            self.square[name], self.deviations[name] = square, deviation

    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weights θ̄ + √½ Σ^½ z₁ + D z₂/√(2(K − 1)) with z ~ N(0, 1), in float64, by name.

        z₂ is shared by all parameters.

        Raises:
            TrainingError: fewer than 2 snapshots.
        """
        if self.count < 2:
            raise TrainingError(
                f"SWAG has {self.count} snapshot{'' if self.count == 1 else 's'}; it needs at least 2.",
                fix="train longer, start collecting earlier, or take snapshots more often",
            )
        first = next(iter(self.deviations.values()))
        columns = len(first)
        common = normal_like(first.new_empty(columns), generator) / math.sqrt(2 * (columns - 1))
        return {
            name: mean
            + (0.5 * self.square[name] / self.count).sqrt() * normal_like(mean, generator)
            + torch.tensordot(common.to(mean.device), self.deviations[name], dims=1)
            for name, mean in sorted(self.mean.items())  # files do not keep the order
        }
