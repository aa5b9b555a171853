"""Numbers of atoms: which ones a wish allows, weighted as in the training data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from atomml.errors import ConfigError

__all__ = ["ExtrapolationWarning", "normalised", "ranges", "require_sizes", "sizes_for"]


class ExtrapolationWarning(UserWarning):
    """A size of crystal that the model has not seen in its training."""


def sizes_for(
    counts: Mapping[int, float],
    n_atoms: int | None,
    max_atoms: int | None,
    *,
    step: int = 1,
    z: int | None = None,
    what: str = "crystal",
) -> dict[int, float]:
    """Numbers of atoms that are multiples of ``step``, with their weights.

    Raises:
        ConfigError: a number of atoms that is not a multiple, or nothing within the limit or the training data.
    """
    fixed = step * z if z is not None else n_atoms
    if fixed is None:
        known = {k: w for k, w in sorted(counts.items()) if w > 0}
        limit = max(known) if max_atoms is None else max_atoms
        sizes = {k: w for k, w in known.items() if k % step == 0 and k <= limit}
        require_sizes(sizes, f"{what} needs a multiple of {step}, at most {limit}", ranges(known))
        return sizes
    if fixed % step:
        near = sorted({max(step, fixed // step * step), (fixed // step + 1) * step})
        raise ConfigError(
            f"No whole number of formula units {what} has {fixed} atoms.",
            fix=f"one unit has {step} atoms; use {' or '.join(map(str, near))}, or --z",
        )
    if not counts.get(fixed):
        warnings.warn(
            f"The model was not trained on crystals of {fixed} atoms, but of "
            f"{ranges(counts)}; results may be poor.",
            ExtrapolationWarning,
            stacklevel=4,
        )
    return {fixed: 1.0}


def require_sizes(sizes: Mapping[int, float], need: str, known: str = "") -> None:
    """Refuse a wish that no number of atoms fulfils.

    Raises:
        ConfigError: says what is needed, and what is known.
    """
    if not sizes:
        trained = f"; the model was trained on {known} atoms" if known else ""
        raise ConfigError(
            f"There is no such number of atoms: {need}{trained}.",
            fix="choose another --n-atoms or --z, or raise --max-atoms",
        )


def ranges(counts: Mapping[int, float]) -> str:
    """Sizes with weight as "1-4, 6, 8-10"."""
    runs: list[list[int]] = []
    for k in sorted(k for k, w in counts.items() if w > 0):
        if runs and k == runs[-1][-1] + 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def normalised(sizes: Mapping[int, float]) -> tuple[float, ...]:
    """The weights as probabilities, w / Σ w."""
    total = sum(sizes.values())
    return tuple(weight / total for weight in sizes.values())
