"""Posteriors with independent weights: diagonal Laplace approximation, its evidence, and samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from atomml.errors import DataError
from atomml.shapes import Float, Float64, Tensor

__all__ = [
    "Evidence",
    "fit_evidence",
    "laplace_std",
    "log_evidence",
    "normal_like",
    "sample_diagonal",
    "squared_gradients",
]


def normal_like(like: Float[Tensor, "*shape"], generator: torch.Generator | None) -> Float[Tensor, "*shape"]:
    """Standard normal numbers of the shape, dtype and device of ``like``, drawn on the generator's device."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def sample_diagonal(
    mean: Mapping[str, Tensor], std: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Weights θ = m + s ∘ z with z ~ N(0, 1), by name; the dtype is that of ``mean``.

    A weight without an entry in ``std`` (a frozen one) is copied. Also draws from an `IVON` posterior.
    """
    return {
        name: value + std[name].to(value) * normal_like(value, generator) if name in std else value.clone()
        for name, value in sorted(mean.items())  # files do not keep the order
    }


def squared_gradients(
    outputs: Iterable[Float[Tensor, " outputs"]], weights: Mapping[str, Tensor]
) -> dict[str, Float64[Tensor, "*shape"]]:
    """S_j = Σ_n (∂μ_n/∂θ_j)², in float64, by name: the diagonal of the generalised Gauss–Newton matrix.

    Args:
        outputs: tensors of outputs μ_n, one per structure (energies per atom in eV), with their graph. A
            generator keeps one graph at a time in memory. Every output costs one backward pass through its
            tensor, so tensors of one structure are the cheapest. For known noise σ_n give μ_n/σ_n, with σ_n
            detached, and use a ``noise_std`` of 1 afterwards.
        weights: the parameters θ; one that does not act on an output adds nothing.

    Raises:
        DataError: outputs without a graph, or a gradient that is not finite.
    """
    tensors = list(weights.values())
    squares = [torch.zeros_like(t, dtype=torch.float64) for t in tensors]
    number = 0
    for batch in outputs:
        if not batch.requires_grad:
            raise DataError(
                "The outputs do not depend on weights.", fix="evaluate them with gradients enabled"
            )
        for k, output in enumerate(batch):
            gradients = torch.autograd.grad(
                output, tensors, retain_graph=k + 1 < len(batch), allow_unused=True
            )
            for total, gradient in zip(squares, gradients, strict=True):
                if gradient is None:
                    continue
                if not torch.isfinite(gradient).all():
                    raise DataError("A gradient is not finite.", where=f"output {number}")
                total += gradient.double() ** 2
            number += 1
    return dict(zip(weights, squares, strict=True))


def laplace_std(
    squares: Mapping[str, Tensor], prior_precision: float, noise_std: float
) -> dict[str, Float64[Tensor, "*shape"]]:
    """Posterior deviations (Σ_n (∂μ_n/∂θ_j)²/σ² + δ)^(−1/2) by name.

    Raises:
        DataError: a prior precision or a noise that is not positive.
    """
    _require_positive("prior_precision", prior_precision)
    _require_positive("noise_std", noise_std)
    return {
        name: (value.double() / noise_std**2 + prior_precision).rsqrt() for name, value in squares.items()
    }


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise DataError(f"{name} must be positive and finite, not {value}.")


@dataclass(frozen=True)
class Evidence:
    """Hyperparameters with the greatest evidence.

    Attributes:
        prior_precision: δ of the prior N(0, 1/δ), in the inverse square of the weights' unit.
        noise_std: σ in the unit of the outputs.
        log_evidence: log p(data | δ, σ) in the Laplace approximation.
    """

    prior_precision: float
    noise_std: float
    log_evidence: float


def log_evidence(
    squares: Float64[np.ndarray, " weights"],
    weight_norm2: float,
    residual_norm2: float,
    n_outputs: int,
    log_precision: float,
    log_noise_var: float,
) -> tuple[float, float, float]:
    """Log evidence of the diagonal Laplace approximation, and its derivatives by log δ and log σ².

        log p = −½ (Σ r²/σ² + N log 2πσ² + δ|θ|² + Σ_j log(1 + S_j/(σ²δ)))
        ∂/∂log δ = ½ (γ − δ|θ|²),   ∂/∂log σ² = ½ (Σ r²/σ² − N + γ),   γ = Σ_j S_j/(S_j + σ²δ)

    Source: MacKay 1992, with the Hessian replaced by its diagonal.
    """
    precision, noise_var = math.exp(log_precision), math.exp(log_noise_var)
    ratio = squares / (noise_var * precision)
    effective = float(np.sum(ratio / (1.0 + ratio)))
    misfit, prior = residual_norm2 / noise_var, precision * weight_norm2
    value = misfit + n_outputs * (math.log(2 * math.pi) + log_noise_var) + prior + np.log1p(ratio).sum()
    return -0.5 * float(value), 0.5 * (effective - prior), 0.5 * (misfit - n_outputs + effective)


def fit_evidence(
    squares: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    residuals: Float[Tensor, " outputs"],
    *,
    noise_std: float | None = None,
) -> Evidence:
    """Prior precision and noise that maximise `log_evidence`, by L-BFGS in (log δ, log σ²).

    In each of the two the other fixed, the derivative changes sign exactly once, so that the maximum is
    finite. With many more weights than outputs the diagonal counts too many effective weights (γ > N), which
    makes σ too large: check it on validation data.

    Args:
        squares: from `squared_gradients`.
        weights: the trained weights, with the same names.
        residuals: output − label of the same outputs.
        noise_std: keep σ at this value.

    Raises:
        DataError: residuals, weights or gradients that are not finite or all zero; a noise that is not positive.
    """
    flat = torch.cat([squares[name].double().reshape(-1) for name in squares]).cpu().numpy()
    weight_norm2 = sum(float((weights[name].detach().double() ** 2).sum()) for name in squares)
    residual_norm2, count = float((residuals.detach().double() ** 2).sum()), len(residuals)
    for what, norm2 in (("weights", weight_norm2), ("residuals", residual_norm2), ("gradients", flat.sum())):
        if not 0.0 < norm2 < math.inf:
            raise DataError(f"The {what} are all zero or not finite: the evidence has no maximum.")
    if noise_std is not None:
        _require_positive("noise_std", noise_std)
    fixed = None if noise_std is None else 2.0 * math.log(noise_std)
    start = [math.log(len(flat) / weight_norm2), math.log(residual_norm2 / count)]

    def cost(x: Float64[np.ndarray, " 2"]) -> tuple[float, Float64[np.ndarray, " 2"]]:
        by_noise = x[1] if fixed is None else fixed
        value, *slopes = log_evidence(flat, weight_norm2, residual_norm2, count, x[0], by_noise)
        if fixed is not None:
            slopes[1] = 0.0
        return -value / count, -np.array(slopes) / count

    best = minimize(
        cost, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    )
    precision, noise_var = math.exp(best.x[0]), math.exp(best.x[1] if fixed is None else fixed)
    return Evidence(precision, math.sqrt(noise_var), -float(best.fun) * count)
