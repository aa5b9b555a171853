"""How many of how many: counts are always given with their fractions and an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Section", "reasons", "share", "share_text", "wilson_interval"]

TWO_SIDED_95 = 1.959963984540054  # standard deviations


class Section(NamedTuple):
    """A part of an evaluation: numbers of the whole set, and values of each crystal by the name of their column."""

    metrics: dict[str, Any]
    columns: dict[str, list[Any]]


def wilson_interval(count: int, of: int) -> tuple[float, float]:
    """Wilson's score interval (95 %) of a fraction p = k/n, which is sound also near 0 and 1.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96; (0, 1) for n = 0.

    Source: Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    if of == 0:
        return 0.0, 1.0
    z, n, p = TWO_SIDED_95, of, count / of
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return (0.0 if count == 0 else low), (1.0 if count == of else high)


def share(count: int, of: int) -> dict[str, Any]:
    """``count``, ``of``, ``fraction`` (None of nothing) and ``interval_95``, see `wilson_interval`."""
    return {
        "count": int(count),
        "of": int(of),
        "fraction": count / of if of else None,
        "interval_95": list(wilson_interval(count, of)),
    }


def share_text(found: Mapping[str, Any]) -> str:
    """A `share` for the eye: ``570 of 1000: 57.0 % (53.9–60.0)``."""
    if found["fraction"] is None:
        return "0 of 0"
    low, high = (100 * x for x in found["interval_95"])
    return f"{found['count']} of {found['of']}: {100 * found['fraction']:.1f} % ({low:.1f}–{high:.1f})"


def reasons(errors: Iterable[str | None]) -> dict[str, int]:
    """How often each error occurs, the most frequent first; None is no error."""
    return dict(Counter(error for error in errors if error is not None).most_common())
