"""One entry to all ways of choosing the structures that are labelled next."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, get_args

import numpy as np
from pydantic import Field, model_validator

from atomml.config import Config
from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, Int64, ndarray
from atomml.uncertainty.acquisition.batch import batch_bald, llpr_maxdet, training_precision
from atomml.uncertainty.acquisition.noise import NoiseFloor
from atomml.uncertainty.acquisition.predictions import WHERE, MemberPredictions, PoolFeatures
from atomml.uncertainty.acquisition.scores import (
    Aggregation,
    bald_energy,
    bald_force,
    bald_joint,
    energy_std_per_atom,
    force_std,
)
from atomml.uncertainty.acquisition.selection import Selection, check_count, farthest_point, top_k

__all__ = ["METHODS", "AcquisitionSettings", "Method", "acquire"]

Method = Literal[
    "random",
    "energy_std",
    "force_std",
    "bald_energy",
    "bald_force",
    "bald_joint",
    "batch_bald",
    "farthest_point",
    "llpr_maxdet",
]
METHODS: tuple[Method, ...] = get_args(Method)
T = TypeVar("T")
Positive = Annotated[float, Field(gt=0)]


class AcquisitionSettings(Config):
    """How structures are chosen."""

    aggregate: Aggregation = "max"
    """force_std and bald_force: how a structure is judged by its atoms: max, mean, sum, or top_k, the mean of the
    ``top`` largest. max finds one atom in an unknown environment."""
    top: int = Field(default=5, ge=1)
    """Atoms that top_k takes."""
    noise: NoiseFloor | None = None
    """Noise of labels that bald_energy, bald_force, bald_joint and batch_bald compare disagreement with, in addition
    to what the members predict. Needed if they have no noise heads."""
    force_std_min: float = Field(default=0.0, ge=0)
    """Structures in which no atom's force has this deviation among the members, eV/Å, are known well enough and left
    out."""
    force_std_max: Positive | None = None
    """Structures with an atom beyond this deviation, eV/Å, have probably exploded and are left out."""
    regulariser: Positive | None = None
    """llpr_maxdet: ς² of the last layer's precision ΦᵀΦ + ς² I, best that of the model's posterior; none: 1e-8 of the
    mean diagonal of ΦᵀΦ."""
    noise_var: float = Field(default=1.0, ge=0)
    """llpr_maxdet: variance of the noise of a new label relative to that of a labelled one. 0 never chooses the same
    twice, as long as there are more features than structures to choose."""

    @model_validator(mode="after")
    def _ordered(self) -> AcquisitionSettings:
        if self.force_std_max is not None and self.force_std_max <= self.force_std_min:
            raise ValueError("force_std_max must be larger than force_std_min")
        return self


def acquire(
    method: Method,
    n: int,
    *,
    predictions: MemberPredictions | None = None,
    features: PoolFeatures | None = None,
    rng: np.random.Generator | None = None,
    settings: AcquisitionSettings | None = None,
) -> Selection:
    """The structures of the pool to label next.

    The pool is what ``predictions`` or ``features`` are of; identical structures are to be removed from it before.

    Args:
        method: "random"; largest deviation of the members ("energy_std" per atom, "force_std"); largest
            information by itself ("bald_energy", "bald_force", "bald_joint") or as a batch ("batch_bald"); most
            different ("farthest_point"); largest determinant of the last layer's covariance ("llpr_maxdet").
        n: how many.
        predictions: needed by all methods but "random" and those by features, and for limits of the deviation.
        features: needed by "farthest_point" and "llpr_maxdet".
        rng: needed by "random".
        settings: None for the defaults.

    Returns:
        rows of the whole pool. Fewer than ``n``, even none, if limits leave out more than can be spared: a note
        says how many are beyond which limit.

    Raises:
        ConfigError: an unknown method, or one whose inputs are not given.
        DataError: ``n`` is larger than the pool, predictions and features of different pools, or see the methods.
    """
    settings = settings or AcquisitionSettings()
    size = _pool_size(predictions, features)
    check_count(n, size)
    rows, notes = _inside_limits(size, predictions, settings)
    n = min(n, len(rows))
    if n == 0:
        return Selection(rows, np.empty(0), method, notes)
    if len(rows) < size:
        predictions = None if predictions is None else predictions.take(rows)
        features = None if features is None else features.take(rows)
    if method == "random":
        found = top_k(_needed(rng, "a random generator", method).random(len(rows)), n)
    elif method == "farthest_point":
        found = farthest_point(_needed(features, "features", method), n)
    elif method == "llpr_maxdet":
        given = _needed(features, "features", method)
        precision = training_precision(given.labelled, settings.regulariser)
        found = llpr_maxdet(given.pool, precision, n, noise_var=settings.noise_var)
    elif method == "batch_bald":
        found = batch_bald(_needed(predictions, "predictions", method), n, settings.noise)
    else:
        found = top_k(_scores(method, _needed(predictions, "predictions", method), settings), n)
    return Selection(rows[found.rows], found.scores, method, (*notes, *found.notes))


def _scores(
    method: Method, predictions: MemberPredictions, settings: AcquisitionSettings
) -> Float64[ndarray, " graphs"]:
    if method == "energy_std":
        return energy_std_per_atom(predictions)
    if method == "force_std":
        return force_std(predictions, settings.aggregate, top=settings.top)
    if method == "bald_energy":
        return bald_energy(predictions, settings.noise)
    if method == "bald_force":
        return bald_force(predictions, settings.aggregate, settings.noise, top=settings.top)
    if method == "bald_joint":
        return bald_joint(predictions, settings.noise)
    raise ConfigError(
        f"There is no method {method!r}.", where=WHERE, fix=f"choose one of {', '.join(METHODS)}"
    )


def _needed(value: T | None, what: str, reader: str) -> T:
    if value is None:
        raise ConfigError(f"{reader} needs {what}.", where=WHERE, fix="give them, or choose another method")
    return value


def _pool_size(predictions: MemberPredictions | None, features: PoolFeatures | None) -> int:
    sizes = {len(each) for each in (predictions, features) if each is not None}
    if not sizes:
        raise ConfigError("Neither predictions nor features of the pool are given.", where=WHERE)
    if len(sizes) > 1:
        raise DataError(
            f"Predictions and features are of pools of {' and '.join(map(str, sorted(sizes)))} structures.",
            where=WHERE,
            fix="make both for the same structures, in the same order",
        )
    return sizes.pop()


def _inside_limits(
    size: int, predictions: MemberPredictions | None, settings: AcquisitionSettings
) -> tuple[Int64[ndarray, " rows"], tuple[str, ...]]:
    """Structures whose largest deviation of a force is within the limits, and how many are not."""
    low, high = settings.force_std_min, settings.force_std_max
    if low == 0 and high is None:
        return np.arange(size), ()
    deviation = force_std(_needed(predictions, "predictions", "A limit of the deviation"), "max")
    below, above = deviation < low, deviation > (np.inf if high is None else high)
    notes = []
    if below.any():
        notes.append(f"{below.sum()} of {size} structures are below {low:g} eV/Å: known well enough")
    if above.any():
        notes.append(f"{above.sum()} of {size} structures are above {high:g} eV/Å: probably exploded")
    return np.flatnonzero(~below & ~above), tuple(notes)
