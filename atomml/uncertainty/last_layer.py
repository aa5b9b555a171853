"""Posterior of the weights of a linear last layer, and the spread of several heads; all in float64.

For an energy E = Σ_i f_i·W the features of a structure are f = Σ_i f_i. Observations are rows φ of a linear
model: f/N for an energy per atom, −∂f/∂r for a force component. With the Gram matrix G = Σ w φφᵀ, where w is
the inverse variance of a row's noise, the posterior covariance under the prior N(0, 1/ς²) is

    C = (G + ς² I)⁻¹ = A Aᵀ,      var(φ·W) = |Aᵀφ|².

Without knowledge of the noise, weights relative to that of the energies are enough: C is then calibrated by
one factor α² (last-layer prediction rigidity: Bigi et al. 2024).
"""

from __future__ import annotations

import math

import torch

from atomml.errors import DataError
from atomml.shapes import Float, Float64, Int64, Tensor
from atomml.uncertainty.diagonal import normal_like

__all__ = ["GramAccumulator", "linear_var", "posterior_factor", "sample_heads", "spread_factor"]

SMALLEST_DECADE, LARGEST_DECADE = -20, -6


class GramAccumulator:
    """G = Σ w φφᵀ over rows that come in batches.

    Attributes:
        gram: [P, P] float64.
        rows: number of rows so far.
    """

    def __init__(self, n_features: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros((n_features, n_features), dtype=torch.float64, device=device)
        self.rows = 0

    @torch.no_grad()
    def add(
        self, rows: Float[Tensor, "rows features"], weights: float | Float[Tensor, " rows"] = 1.0
    ) -> None:
        """Add rows φ with weights w ≥ 0: force components, energies, or whatever is linear in the weights.

        Raises:
            DataError: a row that is not finite, or a weight that is negative or not finite.
        """
        factors = torch.as_tensor(weights, dtype=torch.float64, device=rows.device)
        if not bool((torch.isfinite(factors) & (factors >= 0.0)).all()):
            raise DataError("A weight of a row is negative or not finite.")
        bad = ~torch.isfinite(rows).all(dim=1)
        if bad.any():
            raise DataError(
                "The features of a row are not finite.",
                where=f"row {self.rows + int(bad.nonzero()[0, 0])}",
                fix="look at this structure",
            )
        scaled = rows.detach().double() * factors.sqrt().reshape(-1, 1)
        self.gram += (scaled.T @ scaled).to(self.gram.device)
        self.rows += len(rows)

    def add_energies(
        self,
        features: Float[Tensor, "graphs features"],
        n_atoms: Int64[Tensor, " graphs"],
        weights: float | Float[Tensor, " graphs"] = 1.0,
    ) -> None:
        """Add structures by their summed features f and numbers of atoms N: rows f/N of energies per atom.

        Raises:
            DataError: as `add`.
        """
        self.add(features.double() / n_atoms[:, None], weights)


def posterior_factor(
    gram: Float64[Tensor, "features features"], regularizer: float | None = None
) -> tuple[Float64[Tensor, "features features"], float]:
    """The upper triangle A = L⁻ᵀ with A Aᵀ = (G + ς² I)⁻¹ = (L Lᵀ)⁻¹, and the ς² used.

    Without a ``regularizer`` ς² is the smallest of 10⁻²⁰, 10⁻¹⁹, … times the mean of the diagonal of G for
    which G + ς² I is positive definite beyond rounding: every squared pivot of the Cholesky factor exceeds
    P ε times its diagonal element.

    Args:
        gram: G.
        regularizer: ς² ≥ 0, the prior precision in the unit of G.

    Raises:
        DataError: G is zero or not finite, or G + ς² I is not positive definite.
    """
    scale = float(gram.diagonal().mean())
    if not torch.isfinite(gram).all() or not scale > 0.0:
        raise DataError(
            "The features of the last layer are all zero or not finite.", fix="train the model before this"
        )
    if regularizer is not None:
        factor = _cholesky(gram, regularizer, 0.0)
        if factor is None:
            raise DataError(
                f"The Gram matrix is not positive definite with a regularizer of {regularizer:.3g}.",
                fix="use a larger one, or none to have it found",
            )
        return _inverse_transpose(factor), regularizer
    tolerance = len(gram) * torch.finfo(torch.float64).eps
    for decade in range(SMALLEST_DECADE, LARGEST_DECADE + 1):
        factor = _cholesky(gram, scale * 10.0**decade, tolerance)
        if factor is not None:
            return _inverse_transpose(factor), scale * 10.0**decade
    raise DataError("The Gram matrix has negative eigenvalues: it is not a sum of squares.")


def _cholesky(gram: Tensor, regularizer: float, tolerance: float) -> Tensor | None:
    """L with L Lᵀ = G + ς² I; None unless all pivots L_jj² exceed ``tolerance`` times the diagonal."""
    matrix = gram + regularizer * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    good = not failed and bool((factor.diagonal() ** 2 > tolerance * matrix.diagonal()).all())
    return factor if good else None


def _inverse_transpose(factor: Tensor) -> Tensor:
    """L⁻ᵀ of a lower triangle."""
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor.T, identity, upper=True)


def linear_var(
    features: Float[Tensor, "rows features"], factor: Float64[Tensor, "features directions"]
) -> Float64[Tensor, " rows"]:
    """Variance |Aᵀφ|² of φ·W for each row φ, in the squared unit of φ·W.

    ``factor`` comes from `posterior_factor` (then times α² of the calibration) or from `spread_factor`.
    """
    return (features.double() @ factor).square().sum(dim=1)


def sample_heads(
    weights: Float[Tensor, " features"],
    factor: Float64[Tensor, "features directions"],
    count: int,
    *,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float64[Tensor, "features {count}"]:
    """K weight vectors W_k = W + α √(K/(K−1)) A (z_k − z̄), z ~ N(0, 1): their mean is W.

    The factor √(K/(K−1)) makes up for the subtracted mean: the expectation of the variance over the members,
    (1/K) Σ_k (φ·W_k − φ·W)², is α² |Aᵀφ|².

    Raises:
        DataError: fewer than 2 members.
    """
    if count < 2:
        raise DataError(f"An ensemble needs at least 2 members, not {count}.")
    noise = normal_like(factor.new_empty((factor.shape[1], count)), generator)
    noise = (noise - noise.mean(dim=1, keepdim=True)) * math.sqrt(count / (count - 1))
    return weights.detach().double()[:, None] + alpha * factor @ noise


def spread_factor(weights: Float[Tensor, "features heads"]) -> Float64[Tensor, "features heads"]:
    """A = (W − W̄)/√K of K heads: |Aᵀφ|² is the variance (1/K) Σ_k (φ·W_k − φ·W̄)² of their outputs.

    The biases of the heads must be equal, or rows of ``weights`` that belong to a feature of 1.
    """
    wide = weights.double()
    return (wide - wide.mean(dim=1, keepdim=True)) / math.sqrt(weights.shape[1])
