"""Batches of structures that are informative together: greedy maximisation of a log determinant.

The information ½ log det(I + ·) of a batch is monotone and submodular, so the greedy batch has at least 1 − 1/e of
that of the best one; not so for labels without noise (``noise_var`` 0 of `llpr_maxdet`).

Sources: A. Kirsch, J. van Amersfoort, Y. Gal, BatchBALD, NeurIPS 2019, for the information of a batch;
D. Holzmüller, V. Zaverkin, J. Kästner, I. Steinwart, A framework and benchmark for deep batch active learning for
regression, JMLR 24 (2023), for the determinant of a kernel; the forms here are derived from Gaussians.
"""

from __future__ import annotations

import heapq

import numpy as np

from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, ndarray
from atomml.uncertainty.acquisition.noise import NoiseFloor
from atomml.uncertainty.acquisition.predictions import WHERE, MemberPredictions
from atomml.uncertainty.acquisition.scores import half_log_det, joint_disagreement
from atomml.uncertainty.acquisition.selection import Selection, check_count, top_k

__all__ = ["batch_bald", "greedy_information", "llpr_maxdet", "training_precision"]

EXHAUSTED = 1e-10  # of the largest variance: below it only rounding errors are left


def batch_bald(predictions: MemberPredictions, n: int, floor: NoiseFloor | None = None) -> Selection:
    """Greedy choice by the information of the batch ½ log det(I_M + Σ_{x∈batch} G_x), nats.

    G_x is the Gram matrix of `joint_disagreement`, so this is the moment-matched information in the energies and
    forces of all chosen structures together. The disagreement about the noise is left out: it adds up over a
    batch whatever the structures have in common.

    A committee of M members spans M − 1 directions only. Once these are known to within the noise, further
    structures mainly average the noise, and similar ones are chosen. The choice goes on by the same gain, and a
    note says from which structure on labelling one of the chosen a second time would have told as much.

    Returns:
        scores are the gains, never increasing.

    Raises:
        ConfigError: neither heads nor a floor give any noise.
        DataError: ``n`` does not fit, noise that is not positive definite.
    """
    grams, _ = joint_disagreement(predictions, floor)
    rows, gains, exhausted = greedy_information(grams, n)
    if exhausted is None:
        return Selection(rows, gains, "batch_bald")
    note = (
        f"from choice {exhausted + 1} on, no structure told more than one of the chosen labelled twice: "
        f"{predictions.members} members cannot tell more structures apart"
    )
    return Selection(rows, gains, "batch_bald", (note,))


def greedy_information(
    grams: Float64[ndarray, "graphs k k"], n: int
) -> tuple[ndarray, Float64[ndarray, " chosen"], int | None]:
    """Greedy maximisation of ½ log det(I + Σ_{x∈batch} G_x).

    Gains never grow with the batch, so an earlier gain bounds the present one and only candidates at the top of
    the list are evaluated again, each O(k³); ties go to the first.

    Returns:
        rows; gains; the first choice whose gain was not above that of repeating an earlier one, or None.

    Raises:
        DataError: ``n`` does not fit.
    """
    check_count(n, len(grams))
    size = grams.shape[-1]
    known = np.eye(size)
    bounds = [(-gain, row) for row, gain in enumerate(half_log_det(grams).tolist())]
    heapq.heapify(bounds)
    rows: list[int] = []
    gains: list[float] = []
    exhausted = None
    for step in range(n):
        whiten = np.linalg.inv(np.linalg.cholesky(known))
        fresh: set[int] = set()
        while bounds[0][1] not in fresh:
            row = bounds[0][1]
            fresh.add(row)
            heapq.heapreplace(bounds, (-_gain(whiten, grams[row]), row))
        best, row = heapq.heappop(bounds)
        if exhausted is None and any(_gain(whiten, grams[old]) >= -best for old in rows):
            exhausted = step
        rows.append(row)
        gains.append(-best)
        known = known + grams[row]
    return np.array(rows, dtype=np.int64), np.array(gains), exhausted


def _gain(whiten: ndarray, gram: ndarray) -> float:
    """½ [log det(P + G) − log det P] with whiten = P^(−1/2)."""
    return float(half_log_det((whiten @ gram @ whiten.T)[None])[0])


def training_precision(
    features: Float64[ndarray, "labelled features"], regulariser: float | None = None
) -> Float64[ndarray, "features features"]:
    """ΦᵀΦ + ς² I of the labelled structures.

    Args:
        features: Φ, see `PoolFeatures`; rows for forces may be among them.
        regulariser: ς²; None for 1e-8 of the mean diagonal of ΦᵀΦ.

    Raises:
        ConfigError: ``regulariser`` is not positive.
        DataError: it is not given and all labelled features are zero or there are none.
    """
    gram = features.T @ features
    if regulariser is None:
        regulariser = 1e-8 * float(np.trace(gram)) / len(gram)
        if regulariser <= 0:
            raise DataError(
                "The labelled structures have no features from which the regulariser could be taken.",
                where=WHERE,
                fix="state the regulariser, or use a method that needs no labelled structures",
            )
    if not regulariser > 0:
        raise ConfigError(f"The regulariser {regulariser} is not positive.", where=WHERE)
    return gram + regulariser * np.eye(len(gram))


def llpr_maxdet(
    features: Float64[ndarray, "graphs features"],
    precision: Float64[ndarray, "features features"],
    n: int,
    *,
    noise_var: float = 1.0,
) -> Selection:
    """Greedy choice by log det(ν I + K_batch), K = φ Λ⁻¹ φᵀ the covariance that the last-layer posterior gives.

    Each step takes the structure of the largest variance given the labelled and the chosen ones; a rank-one update
    of the variances (a column of the pivoted Cholesky factor of K + ν I) costs O(B (P + n)).

    Args:
        features: φ of the pool, see `PoolFeatures`.
        precision: Λ of the last layer, see `training_precision`.
        n: how many.
        noise_var: ν. 1 is the noise of a training row: the chosen batch makes det(Λ + Φ_batchᵀ Φ_batch), the next
            posterior's precision, large. 0: labels without noise; a structure whose features are combinations of
            those of chosen ones is worth nothing, and after at most P structures the rest is taken by their
            variance given the labelled ones only, which a note tells.

    Returns:
        scores are the standard deviations, in units of that of a training row, at the time of the choice.

    Raises:
        ConfigError: ``noise_var`` is negative.
        DataError: ``n`` does not fit, the precision is not positive definite.
    """
    check_count(n, len(features))
    if not noise_var >= 0:
        raise ConfigError(f"The variance of the noise {noise_var} is negative.", where=WHERE)
    try:
        whitened = np.linalg.solve(np.linalg.cholesky(precision), features.T)
    except np.linalg.LinAlgError as error:
        raise DataError(
            "The precision of the last layer is not positive definite.", where=WHERE, fix="regularise it more"
        ) from error
    alone = np.einsum("pb,pb->b", whitened, whitened)
    variance, free = alone.copy(), np.ones(len(alone), dtype=bool)
    columns = np.zeros((n, len(alone)))
    rows, variances = np.empty(n, dtype=np.int64), np.empty(n)
    for k in range(n):
        row = int(np.argmax(np.where(free, variance, -np.inf)))
        if noise_var == 0 and variance[row] <= EXHAUSTED * alone.max():
            left = np.flatnonzero(free)
            rest = top_k(alone[left], n - k)
            rows[k:], variances[k:] = left[rest.rows], 0.0
            note = (
                f"from choice {k + 1} on, by the variance given the labelled ones: the features span no more"
            )
            return Selection(rows, np.sqrt(variances), "llpr_maxdet", (note,))
        rows[k], variances[k], free[row] = row, variance[row], False
        covariance = whitened[:, row] @ whitened - columns[:k, row] @ columns[:k]
        columns[k] = covariance / np.sqrt(variance[row] + noise_var)
        variance = np.maximum(variance - columns[k] ** 2, 0.0)
    return Selection(rows, np.sqrt(variances), "llpr_maxdet")
