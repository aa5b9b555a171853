"""Structure prediction: how many crystals are found, and how close they come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np
from ase import Atoms

from atomml.crystals.evaluate.equality import Tolerances, Work, formula_key, map_present, structure_of
from atomml.crystals.evaluate.shares import reasons, share
from atomml.errors import DataError
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = [
    "PREDICTION",
    "Flags",
    "Matches",
    "assign",
    "closest",
    "match_structures",
    "prediction_metrics",
    "rms_distance",
    "same_formula_pairs",
]

PREDICTION = Tolerances(stol=0.5, ltol=0.3, angle_tol=10.0)


def rms_distance(prediction: Atoms, reference: Atoms, tolerances: Tolerances = PREDICTION) -> float | None:
    """Root mean square distance of paired sites, in units of (V/N)^(1/3); None: no match within the tolerances.

    Both cells are made primitive and scaled to one volume before.

    Source: `StructureMatcher.get_rms_dist` of pymatgen; tolerances of CDVAE and its successors.
    """
    found = tolerances.matcher().get_rms_dist(structure_of(prediction), structure_of(reference))
    return None if found is None else float(found[0])


@dataclass(frozen=True)
class Matches:
    """Distances of P pairs.

    Attributes:
        prediction: row of the prediction of each pair.
        reference: row of the reference of each pair.
        rmsd: see `rms_distance`; NaN: no match.
        errors: why a pair was not compared (it counts as unmatched), or None.
    """

    prediction: Int64[ndarray, " pairs"]
    reference: Int64[ndarray, " pairs"]
    rmsd: Float64[ndarray, " pairs"]
    errors: tuple[str | None, ...]


class Flags(NamedTuple):
    """Structural validity of n crystals, and validity of their compositions (None: was not looked at)."""

    structure: Bool[ndarray, " crystals"]
    composition: Bool[ndarray, " crystals"] | None


class _Pair(NamedTuple):
    prediction: Atoms
    reference: Atoms
    tolerances: Tolerances


def _distance(pair: _Pair) -> float | None:
    return rms_distance(*pair)


def match_structures(
    predictions: Sequence[Atoms | None],
    references: Sequence[Atoms],
    pairs: Sequence[tuple[int, int]],
    *,
    tolerances: Tolerances = PREDICTION,
    **work: Unpack[Work],
) -> Matches:
    """Distances of the pairs (row of a prediction, row of a reference).

    Args:
        predictions: None: cannot be read, and matches nothing.
        references: the true crystals.
        pairs: see `assign` and `same_formula_pairs`.
        tolerances: of the match.
        **work: ``workers``, ``timeout`` (seconds of a pair), ``executor``.
    """
    items = [
        None if predictions[p] is None else _Pair(predictions[p], references[r], tolerances) for p, r in pairs
    ]
    outcomes = map_present(_distance, items, **work)
    rmsd = np.array([np.nan if outcome.value is None else outcome.value for outcome in outcomes])
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Matches(rows[:, 0], rows[:, 1], rmsd, tuple(outcome.error for outcome in outcomes))


def assign(n_predictions: int, n_references: int) -> Int64[ndarray, " predictions"]:
    """Row of the reference that each prediction is of: k predictions of the first one, then k of the second, ...

    Raises:
        DataError: the number of predictions is not a multiple of the number of references.
    """
    if n_references == 0 or n_predictions % n_references:
        raise DataError(
            f"{n_predictions} predictions cannot be shared out among {n_references} references.",
            fix="give every structure the row of its reference (`reference` in structures.jsonl or in the "
            "comment line of the extxyz)",
        )
    return np.repeat(np.arange(n_references), n_predictions // n_references).astype(np.int64)


def same_formula_pairs(
    predictions: Sequence[Atoms | None], references: Sequence[Atoms]
) -> list[tuple[int, int]]:
    """All pairs with the same reduced formula: no other can match."""
    rows = defaultdict(list)
    for r, atoms in enumerate(references):
        rows[formula_key(atoms.numbers)].append(r)
    return [
        (p, r)
        for p, atoms in enumerate(predictions)
        if atoms is not None
        for r in rows.get(formula_key(atoms.numbers), [])
    ]


def prediction_metrics(
    of: Int64[ndarray, " predictions"],
    matches: Matches,
    predicted: Flags,
    true: Flags,
    *,
    everyone: bool,
    stol: float = PREDICTION.stol,
) -> dict[str, Any]:
    """Match rates and distances with three filters side by side; every rate is of all R references.

    A reference is matched when one of its predictions is (the best of k), at the distance d_r of the closest one:
    match rate = |{r: matched}| / R, RMSE = mean of d_r over the matched, cRMSE = mean over all R of d_r with
    ``stol`` for the unmatched. METRe and its cRMSE are the same with the predictions of all references allowed.

    Filters: ``none``; ``prediction``: the prediction has a valid structure; ``strict``: prediction and
    reference have a valid structure and a composition valid after SMACT, as CDVAE and DiffCSP count. They shift the
    rates by several per cent, so rates of different filters are not comparable. ``strict`` is left out where
    compositions were not looked at.

    Args:
        of: row of the reference of each prediction.
        matches: of all pairs of a prediction and its reference, and with ``everyone`` of all of one formula.
        predicted: flags of the predictions.
        true: flags of the references.
        everyone: whether METRe can be given.
        stol: distance of what is unmatched.

    Source: Martirossyan et al., All that structure matches does not glitter (NeurIPS 2025) for METRe and cRMSE.
    """
    p, r = matches.prediction, matches.reference
    allowed = {"prediction": predicted.structure[p], "none": np.ones(len(p), dtype=np.bool_)}
    if predicted.composition is not None and true.composition is not None:
        both = (predicted.structure & predicted.composition)[p] & (true.structure & true.composition)[r]
        allowed = {"strict": both, **allowed}
    own = of[p] == r
    filters: dict[str, Any] = {}
    for name, mask in allowed.items():
        best = closest(matches, mask & own, len(true.structure))
        filters[name] = _rates(best, stol)
        if everyone:
            filters[name]["metre"] = _rates(closest(matches, mask, len(true.structure)), stol)
    failed = [error for error in matches.errors if error is not None]
    return {
        "references": len(true.structure),
        "predictions": len(of),
        "pairs": len(p),
        "filters": filters,
        "failed_pairs": {"count": len(failed), "reasons": reasons(failed)},
    }


def closest(matches: Matches, mask: Bool[ndarray, " pairs"], n: int) -> Float64[ndarray, " references"]:
    """Smallest distance to each of n references among the pairs in ``mask``; NaN: none matches."""
    best = np.full(n, np.inf)
    kept = mask & np.isfinite(matches.rmsd)
    np.minimum.at(best, matches.reference[kept], matches.rmsd[kept])
    return np.where(np.isfinite(best), best, np.nan)


def _rates(best: Float64[ndarray, " references"], stol: float) -> dict[str, Any]:
    matched = np.isfinite(best)
    return {
        "match": share(int(matched.sum()), len(best)),
        "rmse": float(best[matched].mean()) if matched.any() else None,
        "crmse": float(np.where(matched, best, stol).mean()) if len(best) else None,
    }
