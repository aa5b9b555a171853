"""How many of how many: counts are always given with their fractions and an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

__all__ = ["reasons", "share", "wilson_interval"]

TWO_SIDED_95 = 1.959963984540054  # standard deviations


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


def reasons(errors: Iterable[str | None]) -> dict[str, int]:
    """How often each error occurs, the most frequent first; None is no error."""
    return dict(Counter(error for error in errors if error is not None).most_common())
