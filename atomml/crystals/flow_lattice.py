"""Bayesian flow of lattices: a Gaussian belief about every entry of a matrix of lattice vectors.

Flow of continuous data of Graves et al., Bayesian Flow Networks, arXiv:2308.07037. The belief N(μ, 1/ρ) starts from
μ = 0 and ρ = 1; after i of n samples y ~ N(x, 1/α_i) its precision is ρ_i = σ₁^{−2i/n}, so α_i = ρ_i − ρ_{i−1}. Only
the mean is random. The law of μ turns with x, so the flow keeps rotations of a lattice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from atomml.errors import ConfigError
from atomml.shapes import Float, Float64, Tensor

__all__ = ["GaussianFlow"]


@dataclass(frozen=True)
class GaussianFlow:
    """Flow of continuous values of variance about 1.

    Attributes:
        sigma1: σ₁, standard deviation of the belief at the end.

    Raises:
        ConfigError: σ₁ outside (0, 1).
    """

    sigma1: float = 10**-1.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma1 < 1:
            raise ConfigError(
                f"A flow of lattices cannot end at the deviation {self.sigma1}.", fix="0 < sigma1 < 1"
            )

    def precisions(self, steps: int) -> Float64[Tensor, " beliefs"]:
        """ρ_0..ρ_n, n + 1 numbers.

        Raises:
            ConfigError: fewer than one step.
        """
        if steps < 1:
            raise ConfigError(f"A flow of {steps} steps.", fix="ask for at least one step")
        return self.sigma1 ** (-2 * torch.arange(steps + 1, dtype=torch.float64) / steps)

    def after(
        self, x: Float[Tensor, "*shape"], t: Float[Tensor, "*#shape"], *, generator: torch.Generator
    ) -> Float[Tensor, "*shape"]:
        """Mean μ at time t in [0, 1]: N(γ x, γ(1 − γ)) with γ = 1 − σ₁^{2t}."""
        gamma = -torch.expm1(2 * math.log(self.sigma1) * t)
        return gamma * x + torch.sqrt(gamma * (1 - gamma)) * _normal(x, generator)

    def add(
        self,
        mean: Float[Tensor, "*shape"],
        x_hat: Float[Tensor, "*shape"],
        i: int,
        steps: int,
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "*shape"]:
        """Mean after sample number i = 1..steps around x̂: (ρ_{i−1} μ + α_i y)/ρ_i with y ~ N(x̂, 1/α_i)."""
        before, after = self.precisions(steps)[i - 1 : i + 1].tolist()
        alpha = after - before
        y = x_hat + alpha**-0.5 * _normal(x_hat, generator)
        return (before * mean + alpha * y) / after

    def loss_weights(self, steps: int) -> Float64[Tensor, " steps"]:
        """Weights n α_i/2 of (x − x̂)²; the mean over steps is the sum of the KL divergences, (σ₁^{−2} − 1)/2."""
        return steps * torch.diff(self.precisions(steps)) / 2


def _normal(like: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)
