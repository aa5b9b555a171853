"""Predictions of several members as one: the mean, and the two parts of the variance.

Members s = 1..S with means μ_s and covariances Σ_s are taken as an even mixture of Gaussians:

    μ = (1/S) Σ_s μ_s,   aleatoric = (1/S) Σ_s Σ_s,   epistemic = (1/S) Σ_s (μ_s − μ)(μ_s − μ)ᵀ.

The sum of the two is the covariance of the mixture (law of total variance); hence 1/S, not 1/(S − 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from atomml.errors import DataError
from atomml.shapes import Bool, Float, Tensor

__all__ = ["Mixture", "RunningMixture"]


@dataclass(frozen=True)
class Mixture:
    """Mean and second central moments of a mixture, in float64.

    For scalars every field has the shape of a member's output and the moments are variances; for vectors
    [*, d] they are covariances [*, d, d].

    Attributes:
        mean: μ, in the unit of the quantity.
        aleatoric: mean of the members' own (co)variances, in the squared unit; 0 for members without any.
        epistemic: (co)variance of the members' means, in the squared unit.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @property
    def total(self) -> Tensor:
        """Aleatoric + epistemic (co)variance."""
        return self.aleatoric + self.epistemic


class RunningMixture:
    """The moments of members that come one after the other; memory does not grow with their number.

    The sums are of deviations from the running mean (Welford 1962), so that a spread of 1e-6 eV between
    energies of 1e5 eV is kept. Everything stays differentiable.

    Args:
        vectors: whether outputs are vectors [*, d] with covariances [*, d, d]; otherwise each number is a
            quantity of its own.
        undefined: entries of an output that exist for no member (the stress of a molecule), broadcast to it:
            whatever members give there, NaN comes out.
    """

    def __init__(self, *, vectors: bool = False, undefined: Bool[Tensor, "*entries"] | None = None) -> None:
        self.vectors, self.undefined = vectors, undefined
        self.count = 0
        self._mean = self._noise = self._scatter = torch.zeros(())
        self._noisy = False

    def add(self, mean: Float[Tensor, "*shape"], noise: Float[Tensor, "*moments"] | None = None) -> None:
        """Take in a member's output and its own (co)variance.

        Raises:
            DataError: an output or noise that is not finite, with the number of the member (from 0); noise
                that only some members have.
        """
        if self.count == 0:
            self._noisy = noise is not None
        elif self._noisy is (noise is None):
            raise DataError("Some members have a variance of their own, others do not.", where=self._where)
        mean = self._finite(mean.double(), self.undefined)
        shift = mean - self._mean
        square = _outer(shift) if self.vectors else shift**2
        if noise is None:
            noise = torch.zeros_like(square)
        elif self.undefined is not None and self.vectors:
            noise = self._finite(noise.double(), self.undefined[..., None] | self.undefined[..., None, :])
        else:
            noise = self._finite(noise.double(), self.undefined)
        before, self.count = self.count, self.count + 1
        self._mean = self._mean + shift / self.count
        self._scatter = self._scatter + square * (before / self.count)
        self._noise = self._noise + (noise - self._noise) / self.count

    def result(self) -> Mixture:
        """The mixture of the members so far.

        Raises:
            DataError: there were none.
        """
        if self.count == 0:
            raise DataError("There are no members to mix.")
        return Mixture(self._mean, self._noise, self._scatter / self.count)

    @property
    def _where(self) -> str:
        return f"member {self.count}"

    def _finite(self, values: Tensor, undefined: Tensor | None) -> Tensor:
        """``values`` with NaN where they are undefined, after a check of the others."""
        if undefined is not None:
            values = values.masked_fill(undefined, torch.nan)
        good = torch.isfinite(values) if undefined is None else torch.isfinite(values) | undefined
        if not good.all():
            raise DataError(
                "A member of the ensemble predicts a number that is not finite.",
                where=self._where,
                fix="look at the training of this member; leave it out of the ensemble",
            )
        return values


def _outer(x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d d"]:
    return x[..., :, None] * x[..., None, :]
