"""Frames divided into labelled, pool, calibration and test parts, no trajectory in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from atomml.datasets.splits import assign_groups
from atomml.errors import ConfigError, DataError
from atomml.shapes import Int64, ndarray

__all__ = ["PARTS", "PoolSplit", "split_pool"]

PARTS = ("labelled", "pool", "calibration", "test")
WHERE = "split of the pool"


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolSplit:
    """Rows of a data set, ascending, no row in two parts.

    Attributes:
        labelled: for training.
        pool: to choose from.
        calibration: for the scale of the uncertainties, never trained on.
        test: for the errors that are reported, never chosen from.
        seed: of the split.
        groups: how many groups (trajectories) the frames were in.
        rounds: rows that were chosen from the pool and labelled, round by round.

    Raises:
        DataError: a row that is negative or in two parts (it is named).
    """

    labelled: Int64[ndarray, " labelled"]
    pool: Int64[ndarray, " pool"]
    calibration: Int64[ndarray, " calibration"]
    test: Int64[ndarray, " test"]
    seed: int
    groups: int
    rounds: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        rows, counts = np.unique(np.concatenate([getattr(self, part) for part in PARTS]), return_counts=True)
        if len(rows) and (rows[0] < 0 or counts.max() > 1):
            bad = rows[0] if rows[0] < 0 else rows[np.argmax(counts)]
            raise DataError(f"Row {bad} is negative or in two parts.", where=WHERE)

    def check_groups(self, groups: Sequence[Any] | ndarray) -> None:
        """Check that no group of pool or labelled frames has frames in the calibration or test part too.

        Args:
            groups: of every frame of the data set.

        Raises:
            DataError: names the group, or a row beyond the groups.
        """
        names, inverse = np.unique(np.asarray(groups), return_inverse=True)
        if max(int(getattr(self, part).max(initial=-1)) for part in PARTS) >= len(inverse):
            raise DataError(f"There are rows beyond the {len(inverse)} groups.", where=WHERE)
        seen = np.concatenate([self.labelled, self.pool])
        for first, second in ((seen, self.test), (seen, self.calibration), (self.calibration, self.test)):
            shared = np.intersect1d(inverse[first], inverse[second])
            if len(shared):
                raise DataError(
                    f"Frames of {names[shared[0]]!s} are in two parts that must not share any.",
                    where=WHERE,
                    fix="split by group",
                )

    def label(self, rows: Int64[ndarray, " chosen"]) -> PoolSplit:
        """The split after labelling some rows of the pool (rows of the data set: ``pool[selection.rows]``).

        Raises:
            DataError: a row that is not in the pool, or twice.
        """
        outside = np.setdiff1d(rows, self.pool)
        if len(outside) or len(np.unique(rows)) != len(rows):
            problem = f"row {outside[0]} is not in the pool" if len(outside) else "a row is chosen twice"
            raise DataError(f"These rows cannot be labelled: {problem}.", where=WHERE)
        return replace(
            self,
            labelled=np.union1d(self.labelled, rows),
            pool=np.setdiff1d(self.pool, rows),
            rounds=(*self.rounds, tuple(rows.tolist())),
        )

    def record(self) -> dict[str, Any]:
        """Everything, as JSON takes it; `from_record` reads it."""
        return {
            **{part: getattr(self, part).tolist() for part in PARTS},
            "seed": self.seed,
            "groups": self.groups,
            "rounds": [list(rows) for rows in self.rounds],
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> PoolSplit:
        """The split of a record.

        Raises:
            DataError: not such a record, or one with a row in two parts.
        """
        try:
            parts = {part: np.array(record[part], dtype=np.int64).reshape(-1) for part in PARTS}
            rounds = tuple(tuple(int(row) for row in rows) for rows in record["rounds"])
            seed, groups = int(record["seed"]), int(record["groups"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"This is not the record of a split ({type(error).__name__}: {error}).", where=WHERE
            ) from error
        return PoolSplit(**parts, seed=seed, groups=groups, rounds=rounds)


def split_pool(groups: Sequence[Any] | ndarray, fractions: Mapping[str, float], *, seed: int) -> PoolSplit:
    """Whole groups of frames into labelled, pool, calibration and test parts.

    Every part gets one group, then each group in random order goes to the part that lacks most frames, so that
    the fractions are met up to the size of a group.

    Args:
        groups: the trajectory, molecule or composition of every frame; ``range(n)`` if frames are independent.
        fractions: of the frames, for every one of `PARTS`; positive except for "calibration", which may be 0; they
            add up to 1.
        seed: of the order.

    Raises:
        ConfigError: fractions that are missing, unknown, negative or do not add up to 1.
        DataError: fewer groups than parts, or not one for each frame.
    """
    values = np.array([fractions.get(part, -1.0) for part in PARTS])
    needed = np.array([part != "calibration" for part in PARTS])
    if set(fractions) != set(PARTS) or (values < 0).any() or (values[needed] == 0).any():
        raise ConfigError(
            f"The fractions {dict(fractions)} are not one positive number for each part.",
            where=WHERE,
            fix=f"give {', '.join(PARTS)}; only calibration may be 0",
        )
    if abs(values.sum() - 1.0) > 1e-9:
        raise ConfigError(f"The fractions add up to {values.sum():g}, not to 1.", where=WHERE)
    labels = np.asarray(groups)
    if labels.ndim != 1:
        raise DataError("Groups must be one name or number for each frame.", where=WHERE)
    names, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    parts = np.flatnonzero(values > 0)
    if len(names) < len(parts):
        raise DataError(
            f"There are {len(names)} groups, too few for {len(parts)} parts.",
            where=WHERE,
            fix="split by something with more values: shorter trajectories, or single frames if independent",
        )
    part_of = assign_groups(sizes, values * len(inverse), parts.tolist(), seed=seed)
    labelled, pool, calibration, test = (np.flatnonzero(part_of[inverse] == p) for p in range(len(PARTS)))
    return PoolSplit(
        labelled=labelled, pool=pool, calibration=calibration, test=test, seed=seed, groups=len(names)
    )
