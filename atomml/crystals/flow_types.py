"""Bayesian flow of atom types: probabilities of K classes.

Discrete flow of Graves et al., Bayesian Flow Networks, arXiv:2308.07037: all samples up to time t are worth one
vector y ~ N(β(t) (K e − 1), β(t) K) around the one-hot vector e of the true class, with β(t) = β₁ t². The belief is
θ = softmax(y), which starts from 1/K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from atomml.errors import ConfigError, DataError
from atomml.shapes import Bool, Float, Tensor

__all__ = ["DiscreteFlow"]


@dataclass(frozen=True)
class DiscreteFlow:
    """Flow of K classes; K is the last axis of the probabilities it is given.

    Raises:
        ConfigError: β₁ that is not positive and finite.
    """

    beta1: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.beta1 < math.inf):
            raise ConfigError(
                f"A flow of types cannot end at the accuracy {self.beta1}.", fix="choose beta1 > 0"
            )

    def after(
        self,
        p: Float[Tensor, "*atoms types"],
        t: Float[Tensor, "*#atoms"],
        *,
        generator: torch.Generator,
        allowed: Bool[Tensor, "*atoms types"] | None = None,
    ) -> Float[Tensor, "*atoms types"]:
        """Belief θ at time t in [0, 1] for classes p, one-hot or probabilities: softmax of N(β(Kp − 1), βK).

        ``allowed`` restricts the prior to some classes: the others have probability exactly 0 at every time, and at
        t = 0 the allowed ones are equally probable. That is the posterior of the restricted prior, since the
        likelihood of y is proportional to exp(y_k).

        Raises:
            DataError: an atom with no allowed class.
        """
        k = p.shape[-1]
        beta = self.beta1 * t[..., None] ** 2
        noise = torch.randn(p.shape, generator=generator, device=generator.device, dtype=p.dtype).to(p.device)
        y = beta * (k * p - 1) + torch.sqrt(beta * k) * noise
        if allowed is not None:
            if not bool(allowed.any(-1).all()):
                raise DataError(
                    "An atom may have none of the types.", fix="allow at least one type for every atom"
                )
            y = y.masked_fill(~allowed, -math.inf)
        return torch.softmax(y, dim=-1)

    def loss(
        self,
        p_true: Float[Tensor, "*atoms types"],
        p_hat: Float[Tensor, "*atoms types"],
        t: Float[Tensor, "*#atoms"],
    ) -> Float[Tensor, "*atoms"]:
        """K β₁ t ‖e − p‖² per atom, in nats: its mean over t ~ U(0, 1) is the loss in continuous time."""
        return p_true.shape[-1] * self.beta1 * t * ((p_true - p_hat) ** 2).sum(-1)
