"""What became of one label: a frame, or a failure of one of six kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from atomml.datasets.frame import Frame
from atomml.shapes import ndarray

__all__ = ["ADVICE", "FINAL", "RETRIED", "Failure", "LabelOutcome", "outcome_from_json", "outcome_to_json"]

Failure = Literal["timeout", "died", "not_converged", "not_finite", "unsupported", "error"]

ADVICE: Mapping[Failure, str] = MappingProxyType(
    {
        "timeout": "raise `timeout`, give more `threads`, or leave out the largest structures",
        "died": "the process was killed, ran out of memory or crashed: use fewer `workers`, ask for more memory",
        "not_converged": "raise the number of cycles or the smearing, or leave out distorted structures",
        "not_finite": "the calculator is outside its range here: look for atoms that overlap",
        "unsupported": "the calculator cannot do such structures: elements, charge, or a periodic cell",
        "error": "run the calculator on this structure by hand and read its whole message",
    }
)
"""What to do about each kind of failure."""
RETRIED: frozenset[Failure] = frozenset({"died", "error"})
"""Failures that another attempt may cure."""
FINAL: frozenset[Failure] = frozenset({"not_converged", "not_finite", "unsupported", "error"})
"""Failures that are remembered by a cache: the same structure is not tried again."""


@dataclass(frozen=True)
class LabelOutcome:
    """What became of the label of one structure.

    Attributes:
        key: hash of the structure and of the calculator, see `atomml.labelling.cache.label_key`.
        frame: the structure with energy, forces and (if there is one) stress; None where there is a failure.
            Its tags: labeller, labeller_version, label_seconds, label_host, fmax.
        failure: None, or the kind of the failure.
        message: None, or the failure in the words of the calculator.
        attempts: how often it was tried.
        seconds: all attempts together.
        cached: whether it was known before and not computed now.
    """

    key: str
    frame: Frame | None
    failure: Failure | None
    message: str | None
    attempts: int
    seconds: float
    cached: bool

    @property
    def final(self) -> bool:
        """Whether asking again is no use."""
        return self.failure is None or self.failure in FINAL

    def known(self) -> LabelOutcome:
        """The same, not computed now."""
        return replace(self, cached=True)


def outcome_to_json(outcome: LabelOutcome) -> dict[str, Any]:
    """JSON values; numbers in full precision."""
    record = {name: getattr(outcome, name) for name in ("key", "failure", "message", "attempts", "seconds")}
    if outcome.frame is not None:
        frame = outcome.frame._asdict()
        frame["tags"] = dict(frame["tags"])
        record["frame"] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in frame.items()
            if value is not None
        }
    return record


def outcome_from_json(record: Mapping[str, Any]) -> LabelOutcome:
    """The outcome that `outcome_to_json` wrote, with ``cached`` set."""
    frame = None
    if "frame" in record:
        saved = dict(record["frame"])
        saved |= {name: _array(saved[name], kind) for name, kind in _ARRAYS.items() if name in saved}
        frame = Frame(**saved)
    values = {name: record[name] for name in ("key", "failure", "message", "attempts", "seconds")}
    return LabelOutcome(**values, frame=frame, cached=True)


_ARRAYS: Mapping[str, type] = MappingProxyType(
    {
        "numbers": np.int64,
        "positions": np.float64,
        "cell": np.float64,
        "pbc": np.bool_,
        "forces": np.float64,
        "stress": np.float64,
        "atom_tags": np.int64,
        "fixed": np.bool_,
    }
)


def _array(values: Any, kind: type) -> ndarray:
    return np.array(values, dtype=kind)
