"""Batches over several sets of structures, each with its own share of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomml.errors import ConfigError
from atomml.graph.batching import BudgetSampler
from atomml.shapes import Int64, ndarray

__all__ = ["MixtureSampler", "epoch_quotas", "sampling_shares"]


def sampling_shares(
    counts: Sequence[int], *, temperature: float = 1.0, fixed: Sequence[float | None] | None = None
) -> list[float]:
    """Share of each set in an epoch; they add up to 1.

    p_s = n_s^(1/T) / Σ n^(1/T): T = 1 is in proportion to the sizes, T → ∞ the same share for all.

    Args:
        counts: structures of each set.
        temperature: T.
        fixed: shares that are given; the sets without one divide what is left by the rule above.

    Raises:
        ConfigError: given shares that leave nothing for the other sets, or do not add up to 1.
    """
    given = [None] * len(counts) if fixed is None else list(fixed)
    taken = float(sum(share for share in given if share is not None))
    free = [k for k, share in enumerate(given) if share is None]
    if (free and taken >= 1.0) or (not free and abs(taken - 1.0) > 1e-6):
        rest = "nothing is left for the other sets" if free else "and there is no other set"
        raise ConfigError(
            f"The given shares add up to {taken:g}: {rest}.", where="share", fix="make all shares add up to 1"
        )
    # relative to the largest set, so that no power overflows
    largest = max((counts[k] for k in free), default=1)
    weights = {k: (counts[k] / largest) ** (1.0 / temperature) for k in free}
    total = sum(weights.values())
    return [
        (1.0 - taken) * weights[k] / total if share is None else share / (1.0 if free else taken)
        for k, share in enumerate(given)
    ]


def epoch_quotas(shares: Sequence[float], size: int) -> list[int]:
    """Structures of each set in an epoch of ``size``, by largest remainder: they add up to ``size``.

    Raises:
        ConfigError: a set would get none.
    """
    exact = np.array(shares) * size
    quotas = np.floor(exact + 1e-9).astype(int)  # 0.1 · 30 is 3, not 2
    order = np.argsort(-(exact - quotas), kind="stable")
    quotas[order[: size - int(quotas.sum())]] += 1
    if quotas.min() < 1:
        k = int(np.argmin(quotas))
        raise ConfigError(
            f"Set {k + 1} has a share of {shares[k]:.3g} and would get none of the {size} structures.",
            where="epoch size",
            fix=f"raise it to {int(np.ceil(1 / shares[k]))}, or raise the share or the sampling temperature",
        )
    return [int(q) for q in quotas]


class MixtureSampler(BudgetSampler):
    """A `BudgetSampler` whose epoch holds a fixed number of structures of each set.

    The sets lie one after another: rows 0 to counts[0] − 1 are the first. Each set is gone through in
    permutations of its own, one after the other across epochs, so that no structure of it is used again
    before all of it was. The order depends on (seed, epoch) only.

    Args:
        n_atoms, n_edges: of all structures, set after set.
        counts: structures of each set.
        quotas: how many of them an epoch has, see `epoch_quotas`.
        options: as in `BudgetSampler`.

    Raises:
        ConfigError: as in `BudgetSampler`; counts that do not add up to the number of structures.
    """

    def __init__(
        self,
        n_atoms: Int64[ndarray, " n"],
        n_edges: Int64[ndarray, " n"] | None = None,
        *,
        counts: Sequence[int],
        quotas: Sequence[int],
        **options: Any,
    ) -> None:
        if sum(counts) != len(n_atoms) or len(counts) != len(quotas) or min(counts, default=0) < 1:
            raise ConfigError(f"Sets of {list(counts)} structures are not the {len(n_atoms)} that there are.")
        super().__init__(n_atoms, n_edges, **options)
        self.counts, self.quotas = list(counts), list(quotas)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch: the quota of every set, in random order."""
        starts = np.cumsum([0, *self.counts[:-1]])
        parts = [int(start) + self._turn(k, epoch) for k, start in enumerate(starts)]
        rows = np.concatenate(parts).astype(np.int64)
        return np.random.default_rng((self.seed, epoch)).permutation(rows) if self.shuffle else rows

    def _turn(self, k: int, epoch: int) -> NDArray[np.int64]:
        """The ``quotas[k]`` rows of set k that are due in ``epoch``."""
        n, first = self.counts[k], epoch * self.quotas[k]
        stop = first + self.quotas[k]
        cycles = range(first // n, (stop - 1) // n + 1)
        every = np.concatenate([self._permutation(k, cycle) for cycle in cycles])
        return every[first - cycles[0] * n : stop - cycles[0] * n]

    def _permutation(self, k: int, cycle: int) -> NDArray[np.int64]:
        n = self.counts[k]
        if not self.shuffle:
            return np.arange(n)
        # the last 1 keeps these streams apart from (seed, epoch), which numpy reads as (seed, epoch, 0, 0)
        return np.random.default_rng((self.seed, k, cycle, 1)).permutation(n)
