"""How much the disagreement of members counts beside the noise that they predict."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from atomml.shapes import Float64, ndarray

__all__ = ["LARGEST_BALANCE", "balance"]

LARGEST_BALANCE = 1e3
MOST_VALUES = 4000
GRID = 25


def balance(
    error: Float64[ndarray, "n d"],
    aleatoric: Float64[ndarray, "n d d"],
    epistemic: Float64[ndarray, "n d d"],
) -> float:
    """γ ≥ 1 for which α² (Σ_aleatoric + γ² Σ_epistemic), with the best α, is most likely.

    The scale of an epistemic part is that of its method (a posterior of the last layer alone, few members), so it may
    have to grow before it says as much as it can. It is never made smaller: structures like those that were trained
    on cannot tell how uncertain others are, and there the likelihood often prefers no epistemic part at all. For
    given γ the best α² is mean(errorᵀ Σ⁻¹ error)/d, which leaves one number to search for. More than 4,000 vectors
    are thinned out evenly.

    Args:
        error: vectors; scalars are vectors of one component.
        aleatoric: covariances that the members predict.
        epistemic: covariances of the members' predictions.
    """
    if not epistemic.any():
        return 1.0
    step = -(-len(error) // MOST_VALUES)
    error, aleatoric, epistemic = error[::step], aleatoric[::step], epistemic[::step]
    d = error.shape[1]

    def cost(log_gamma: float) -> float:
        total = aleatoric + np.exp(2 * log_gamma) * epistemic
        distance = np.einsum("ni,ni->n", error, np.linalg.solve(total, error[..., None])[..., 0])
        return float(np.linalg.slogdet(total)[1].mean() + d * np.log(distance.mean() / d))

    grid = np.linspace(0.0, np.log(LARGEST_BALANCE), GRID)
    best = grid[int(np.argmin([cost(x) for x in grid]))]
    bounds = (max(best - grid[1], 0.0), min(best + grid[1], grid[-1]))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if found.fun < cost(0.0) else 1.0
