"""Training, validation and test frames: rows of one store or of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from atomml.datasets import FrameStore, GraphDataset, Split
from atomml.datasets.mixture import Alignment
from atomml.datasets.mixture_graphs import MixtureGraphs
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["AnyPart", "Mixture", "MixturePart", "Part", "TrainingData"]

CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Part:
    """Some rows of a store; with ``free_only`` the forces on atoms held fixed are no labels."""

    store: FrameStore
    rows: Int64[ndarray, " rows"]
    free_only: bool = False
    _graphs: dict[tuple[float, bool], GraphDataset] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> dict[str, int]:
        """How many of the frames have an energy, forces, a stress."""
        return {name: int(mask[self.rows].sum()) for name, mask in self.store.has_label().items()}

    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return self.store.elements(self.rows)

    def sets(self) -> dict[str, Part]:
        """Itself, under an empty name."""
        return {"": self}

    def shared_sets(self) -> Iterator[tuple[float, Part]]:
        """Share and frames of each set."""
        yield 1.0, self

    def graphs(self, cutoff: float, cache: bool, cache_bytes: int = CACHE_BYTES) -> GraphDataset:
        """The frames as graphs with neighbours within ``cutoff`` Å; one object for the same arguments."""
        key = (cutoff, cache)
        if key not in self._graphs:
            self._graphs[key] = GraphDataset(
                self.store, self.rows, cutoff, cache=cache, cache_bytes=cache_bytes, free_only=self.free_only
            )
        return self._graphs[key]

    def forces(self) -> Float64[ndarray, "atoms 3"]:
        """Force labels of all atoms, eV/Å; NaN where there is none."""
        part = self.store.subset(self.rows)
        if not self.free_only or part.fixed is None:
            return part.forces
        return np.where(part.fixed[:, None], np.nan, part.forces)


@dataclass(frozen=True)
class MixturePart:
    """Frames of several sets, by the name of the set, and the share that each has in the training."""

    parts: dict[str, Part]
    shares: dict[str, float]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())

    def labels(self) -> dict[str, int]:
        """How many of the frames have an energy, forces, a stress."""
        each = [part.labels() for part in self.parts.values()]
        return {name: sum(counts[name] for counts in each) for name in each[0]}

    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return sorted({z for part in self.parts.values() for z in part.elements()})

    def sets(self) -> dict[str, Part]:
        """The sets by name."""
        return self.parts

    def shared_sets(self) -> Iterator[tuple[float, Part]]:
        """Share and frames of each set."""
        return ((self.shares[name], part) for name, part in self.parts.items())

    def graphs(self, cutoff: float, cache: bool) -> MixtureGraphs:
        """The frames of all sets as graphs, set after set."""
        room = CACHE_BYTES // len(self.parts)
        return MixtureGraphs({name: part.graphs(cutoff, cache, room) for name, part in self.parts.items()})


AnyPart = Part | MixturePart


@dataclass(frozen=True)
class Mixture:
    """What is fixed about the training on several sets.

    Attributes:
        names: of the sets, in order.
        shares: of each set in an epoch.
        quotas: frames of each set in an epoch.
        factors: of the loss terms energy, forces and stress for each set.
        alignment: of the energies.
        splits: rows of each set.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    quotas: tuple[int, ...]
    factors: Float64[ndarray, "sets 3"]
    alignment: Alignment
    splits: dict[str, Split]


@dataclass(frozen=True)
class TrainingData:
    """The three parts and how they were made.

    Attributes:
        train, valid, test: frames; None where there is no such part.
        split: rows and the rule, written to ``split.json``; None for several sets, see ``mixture``.
        fingerprint: hashes of the stores and the split.
        summary: one line per store, with the label counts.
        mixture: sampling, weights and energies of several sets.
    """

    train: AnyPart
    valid: AnyPart | None
    test: AnyPart | None
    split: Split | None
    fingerprint: dict[str, str]
    summary: Mapping[str, str]
    mixture: Mixture | None = None

    def parts(self) -> dict[str, AnyPart]:
        """The parts that exist, by name."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    def single_parts(self) -> dict[str, Part]:
        """The parts that exist, one per set: ``valid``, or ``valid_SET`` where there are several sets."""
        return {
            f"{name}_{key}" if key else name: part
            for name, whole in self.parts().items()
            for key, part in whole.sets().items()
        }
