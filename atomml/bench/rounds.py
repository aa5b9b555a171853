"""Interleaved timing: every case once per round, in a fixed order, so that a slow moment hits all of them alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from atomml.shapes import Float64, ndarray

__all__ = ["Case", "Ratio", "interleave", "ratio"]

Seconds = Float64[ndarray, " rounds"]


@runtime_checkable
class Case(Protocol):
    """Something that can be run many times."""

    @property
    def name(self) -> str:
        """What it is called in the tables; unique within a comparison."""

    def seconds(self, count: int) -> float:
        """Run ``count`` times and return the seconds that took."""


@dataclass(frozen=True)
class Ratio:
    """Time of ``numerator`` over that of ``denominator``, from quotients taken round by round.

    Attributes:
        median, low, high: median and quartiles of the quotients.
    """

    numerator: str
    denominator: str
    median: float
    low: float
    high: float


def interleave(
    cases: Sequence[Case],
    *,
    rounds: int,
    slot: float,
    progress: Callable[[int], object] = lambda _: None,
    failed: Callable[[str, Exception], object] | None = None,
) -> dict[str, Seconds]:
    """Seconds per run of every case in every round.

    Each case first runs once to warm up and once to choose how often it must run to fill ``slot`` seconds. Then
    come the rounds; ``progress`` is told the number of each.

    Args:
        cases: with different names.
        rounds: how many times each is measured.
        slot: seconds that one measurement lasts at least.
        progress: called after each round.
        failed: is told of a case that raises, which is then left out; by default the error goes on.
    """
    counts: dict[str, int] = {}
    for case in cases:
        try:
            case.seconds(1)
            counts[case.name] = max(1, math.ceil(slot / max(case.seconds(1), 1e-9)))
        except Exception as error:
            if failed is None:
                raise
            failed(case.name, error)
    running = [case for case in cases if case.name in counts]
    found = {case.name: np.zeros(rounds) for case in running}
    for k in range(rounds):
        for case in running:
            found[case.name][k] = case.seconds(counts[case.name]) / counts[case.name]
        progress(k + 1)
    return found


def ratio(seconds: Mapping[str, Seconds], numerator: str, denominator: str) -> Ratio:
    """How many times longer ``numerator`` takes than ``denominator``, by rounds of one `interleave`."""
    quotients = seconds[numerator] / seconds[denominator]
    low, median, high = (float(q) for q in np.quantile(quotients, [0.25, 0.5, 0.75]))
    return Ratio(numerator, denominator, median, low, high)
