"""How well a score tells unusual structures from usual ones, and errors from good predictions."""

from __future__ import annotations

import numpy as np

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.metrics.values import check_finite, check_scalars, ranks

__all__ = [
    "auroc",
    "average_precision",
    "false_positive_rate",
    "risk_coverage",
    "risk_coverage_area",
    "sparsification",
    "sparsification_error",
]


def auroc(known: Float64[ndarray, " known"], unusual: Float64[ndarray, " unusual"]) -> float:
    """Area under the ROC curve: probability that an unusual structure scores above a known one; ties count ½.

    Args:
        known: scores (say, deviations) of structures like those trained on.
        unusual: scores of structures from outside, the positive class.

    Raises:
        DataError: no values, or one that is not finite.
    """
    _check_scores(known, unusual)
    n = len(unusual)
    above = ranks(np.concatenate([unusual, known]))[:n]
    return float((above.sum() - n * (n + 1) / 2) / (n * len(known)))


def false_positive_rate(
    known: Float64[ndarray, " known"], unusual: Float64[ndarray, " unusual"], rate: float = 0.95
) -> float:
    """Fraction of known structures above the largest threshold that finds the fraction ``rate`` of the unusual.

    Raises:
        DataError: no values, one that is not finite, or a rate outside (0, 1].
    """
    _check_scores(known, unusual)
    if not 0 < rate <= 1:
        raise DataError(f"A rate of true positives lies in (0, 1], not at {rate}.")
    found = int(np.ceil(rate * len(unusual) - 1e-9))
    return float(np.mean(known >= np.sort(unusual)[-found]))


def average_precision(known: Float64[ndarray, " known"], unusual: Float64[ndarray, " unusual"]) -> float:
    """Area under the precision–recall curve, Σ_k (R_k − R_{k−1}) P_k over descending thresholds.

    By chance it is the share of unusual structures.

    Raises:
        DataError: no values, or one that is not finite.
    """
    _check_scores(known, unusual)
    thresholds = np.unique(unusual)[::-1]  # precision counts only where recall grows
    found = len(unusual) - np.searchsorted(np.sort(unusual), thresholds)
    wrong = len(known) - np.searchsorted(np.sort(known), thresholds)
    gain = np.diff(found, prepend=0) / len(unusual)
    return float(gain @ (found / (found + wrong)))


def risk_coverage(
    loss: Float64[ndarray, " n"], score: Float64[ndarray, " n"]
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Coverage k/n and risk, the mean loss of the k values with the smallest score, for k = 1 … n.

    Equal scores share their mean loss, so the order of the values does not matter.
    Geifman and El-Yaniv, NeurIPS 2017.

    Raises:
        DataError: no values, one that is not finite, or different numbers of both.
    """
    check_finite(loss, "loss")
    check_finite(score, "score")
    if loss.shape != score.shape:
        raise DataError(f"loss has the shape {loss.shape}, score {score.shape}.")
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    ordered = np.repeat(np.bincount(group, weights=loss) / counts, counts)
    kept = np.arange(1, len(loss) + 1)
    return kept / len(loss), np.cumsum(ordered) / kept


def risk_coverage_area(loss: Float64[ndarray, " n"], score: Float64[ndarray, " n"]) -> float:
    """AURC: mean of the risk over all coverages, in the unit of the loss; the mean loss if the score says nothing.

    Raises:
        DataError: see `risk_coverage`.
    """
    return float(np.mean(risk_coverage(loss, score)[1]))


def sparsification(
    error: Float64[ndarray, " n"], score: Float64[ndarray, " n"]
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Fraction k/n removed, highest scores first, and RMSE of the rest over that of all, k = 0 … n − 1.

    Ilg et al., ECCV 2018. NaN where every error is zero.

    Raises:
        DataError: see `risk_coverage`.
    """
    coverage, square = risk_coverage(error**2, score)
    whole = square[-1] if square[-1] > 0 else np.nan
    return 1 - coverage[::-1], np.sqrt(square[::-1] / whole)


def sparsification_error(error: Float64[ndarray, " n"], std: Float64[ndarray, " n"]) -> float:
    """AUSE: area between the `sparsification` curve of σ and that of the oracle, which knows every |error|.

    0 if σ ranks the values as their errors do.

    Raises:
        DataError: values that cannot be used, see `check_scalars`.
    """
    check_scalars(error, std)
    return float(np.mean(sparsification(error, std)[1] - sparsification(error, np.abs(error))[1]))


def _check_scores(known: ndarray, unusual: ndarray) -> None:
    check_finite(known, "the scores of known structures")
    check_finite(unusual, "the scores of unusual structures")
