"""Coverage: how many reference crystals have a generated one nearby, and the reverse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from atomml.crystals.evaluate.fingerprints import Fingerprints
from atomml.crystals.evaluate.magpie import MP20_DEVIATIONS
from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = ["CUTOFFS", "Coverage", "Cutoffs", "Nearest", "coverage", "deviations_of", "read_deviations"]

ROWS = 512  # of a distance matrix at a time
CONSTANT = 1e-10  # relative deviation of a feature that differs by rounding only


class Cutoffs(NamedTuple):
    """Largest distances of two crystals that are near."""

    structure: float
    composition: float


CUTOFFS = {"mp_20": Cutoffs(0.4, 10.0), "carbon_24": Cutoffs(0.2, 4.0), "perov_5": Cutoffs(0.2, 4.0)}


@dataclass(frozen=True)
class Nearest:
    """From each crystal of one set the distances to the nearest of another; infinite if that is empty.

    The nearest structure and the nearest composition may belong to different crystals.
    """

    structure: Float64[ndarray, " crystals"]
    composition: Float64[ndarray, " crystals"]

    def near(self, cutoffs: Cutoffs) -> int:
        """How many are near in structure and in composition."""
        return int(np.sum((self.structure <= cutoffs.structure) & (self.composition <= cutoffs.composition)))


@dataclass(frozen=True)
class Coverage:
    """Coverage of a reference by a generated set; a share or a mean over nothing is NaN.

    Attributes:
        recall: COV-R, recalled / reference.
        precision: COV-P, precise / generated.
        recalled: reference crystals with a near generated one.
        precise: generated crystals with a near reference crystal.
        reference: reference crystals that have a fingerprint.
        generated: all generated crystals, with or without a fingerprint.
        no_fingerprint: crystals without a fingerprint (of the reference, generated).
        amsd_recall: AMSD, mean distance from reference crystals to the nearest generated structure.
        amsd_precision: the same from generated crystals to the reference.
        amcd_recall: AMCD, as ``amsd_recall`` for compositions.
        amcd_precision: as ``amsd_precision`` for compositions.
        from_reference: the distances from each reference crystal.
        from_generated: the distances from each generated crystal that has a fingerprint.
    """

    recall: float
    precision: float
    recalled: int
    precise: int
    reference: int
    generated: int
    no_fingerprint: tuple[int, int]
    amsd_recall: float
    amsd_precision: float
    amcd_recall: float
    amcd_precision: float
    from_reference: Nearest
    from_generated: Nearest


def coverage(
    generated: Fingerprints,
    reference: Fingerprints,
    cutoffs: Cutoffs,
    deviations: Float64[ndarray, " magpie"] | None = None,
) -> Coverage:
    """COV-R, COV-P, AMSD and AMCD as in CDVAE (Xie et al., ICLR 2022).

    With structure distances |s_i − s_j| and composition distances |(c_i − c_j) / σ|,
        COV-R = share of reference crystals j with min_i |s_i − s_j| ≤ d_s and min_i |(c_i − c_j) / σ| ≤ d_c,
    the two minima from whichever crystals; COV-P is the same from the generated side and divides by all generated
    crystals, so that a crystal without fingerprint counts as not near.

    σ are the same for all data sets, as in CDVAE, since the published cut-offs hold for one scale. CDVAE's own
    constants are not used here: ours are recomputed from a part of MP-20 (`MP20_DEVIATIONS`), so that numbers are
    close to published ones but not equal to the last digit. With the deviations of the reference instead
    (`deviations_of`) coverage of Perov-5 falls by half, and features that hardly vary in a small reference rule the
    distance. In a set of one element all composition distances are 0.

    Args:
        generated: all that was generated.
        reference: usually the test set.
        cutoffs: d_s and d_c; see `CUTOFFS`.
        deviations: σ, for example of `read_deviations`.
    """
    if deviations is None:
        deviations = np.array(MP20_DEVIATIONS)
    from_generated, from_reference = _nearest(generated, reference, deviations)
    recalled, precise = from_reference.near(cutoffs), from_generated.near(cutoffs)
    return Coverage(
        recall=_share(recalled, len(reference.rows)),
        precision=_share(precise, generated.total),
        recalled=recalled,
        precise=precise,
        reference=len(reference.rows),
        generated=generated.total,
        no_fingerprint=(reference.total - len(reference.rows), generated.total - len(generated.rows)),
        amsd_recall=_mean(from_reference.structure),
        amsd_precision=_mean(from_generated.structure),
        amcd_recall=_mean(from_reference.composition),
        amcd_precision=_mean(from_generated.composition),
        from_reference=from_reference,
        from_generated=from_generated,
    )


def deviations_of(reference: Fingerprints) -> Float64[ndarray, " magpie"]:
    """Standard deviation of each feature of the composition; 1 where a feature is the same for all.

    Args:
        reference: a set that is not empty.
    """
    deviations = reference.composition.std(axis=0)
    constant = deviations <= CONSTANT * abs(reference.composition).max(axis=0)
    return np.where(constant, 1.0, deviations)


def read_deviations(path: Path, size: int) -> Float64[ndarray, " magpie"]:
    """Constants σ from a JSON file: a list of ``size`` positive numbers, in the order of the features.

    Raises:
        DataError: the file cannot be read, or is not such a list.
    """
    try:
        deviations = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"Cannot read standard deviations ({error}).", where=str(path)) from error
    if deviations.shape != (size,) or not (np.isfinite(deviations) & (deviations > 0)).all():
        raise DataError(f"Standard deviations are a list of {size} positive numbers.", where=str(path))
    return deviations


def _nearest(
    first: Fingerprints, second: Fingerprints, deviations: Float64[ndarray, " magpie"]
) -> tuple[Nearest, Nearest]:
    if not (len(first.rows) and len(second.rows)):
        return _far(len(first.rows)), _far(len(second.rows))
    structure = _least(first.structure, second.structure)
    composition = _least(first.composition / deviations, second.composition / deviations)
    return Nearest(structure[0], composition[0]), Nearest(structure[1], composition[1])


def _far(number: int) -> Nearest:
    return Nearest(np.full(number, np.inf), np.full(number, np.inf))


def _least(
    first: Float64[ndarray, "first size"], second: Float64[ndarray, "second size"]
) -> tuple[Float64[ndarray, " first"], Float64[ndarray, " second"]]:
    """Distance from each row of either to the nearest row of the other."""
    rows, columns = np.full(len(first), np.inf), np.full(len(second), np.inf)
    for start in range(0, len(first), ROWS):
        distances = cdist(first[start : start + ROWS], second)
        rows[start : start + ROWS] = distances.min(axis=1)
        columns = np.minimum(columns, distances.min(axis=0))
    return rows, columns


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _mean(distances: Float64[ndarray, " crystals"]) -> float:
    return float(distances.mean()) if len(distances) else float("nan")
