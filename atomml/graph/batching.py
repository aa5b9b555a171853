"""Batches of graphs within a budget of atoms, edges and structures, the same on every run and every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler
from torch_geometric.data import Batch

from atomml.errors import ConfigError, DataError
from atomml.graph.atom_graph import AtomGraph
from atomml.shapes import Int64, ndarray

__all__ = ["BudgetSampler", "collate"]

Step = list[list[int]]  # for each rank, the rows of its batch


def collate(graphs: Sequence[AtomGraph]) -> Batch:
    """Join graphs into one ``torch_geometric.data.Batch``: ``batch`` [N] is each atom's graph, ``ptr`` [B+1].

    The edges stay sorted by centre, and ``edge_transpose`` still sorts them by neighbour.

    Raises:
        DataError: nothing to join, or optional fields (tag, index) that only some of the graphs have.
    """
    if not graphs:
        raise DataError("A batch needs at least one structure.")
    fields = [set(graph.keys()) for graph in graphs]
    partial = set.union(*fields) - set.intersection(*fields)
    if partial:
        raise DataError(f"Only some structures of this batch have {', '.join(sorted(partial))}.")
    return Batch.from_data_list(list(graphs))


class BudgetSampler(Sampler[list[int]]):
    """Rows of a data set, in batches that stay within every limit that is set: a PyTorch ``batch_sampler``.

    The order depends on (seed, epoch) only. All ranks compute the same plan: rows are taken in order, rank
    after rank, so that step s of W ranks holds the rows that one rank with W times the batch size would take.
    All ranks have equally many steps and no batch is empty: the batches of the last step are split until
    every rank has one, if need be with rows from the step before. Only where that has single rows too, or the
    set is smaller than the number of ranks, are the first rows of the epoch taken a second time.

    Args:
        n_atoms: atoms of each structure [n].
        n_edges: edges of each structure [n]; needed for ``max_edges``.
        batch_size, max_atoms, max_edges: limits per rank and step; at least one of them.
        shuffle: a new order in each epoch; otherwise rows in the order of the set.
        seed: of the order.
        rank, world_size: which of how many processes this is.

    Raises:
        ConfigError: no limit, a limit below one, ``max_edges`` without ``n_edges``, a structure over a limit.
        DataError: an empty set.
    """

    def __init__(
        self,
        n_atoms: Int64[ndarray, " n"],
        n_edges: Int64[ndarray, " n"] | None = None,
        *,
        batch_size: int | None = None,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(n_atoms) == 0:
            raise DataError("There is no structure to sample from.")
        if not 0 <= rank < world_size:
            raise ConfigError(f"Rank {rank} of {world_size} processes does not exist.")
        sizes = {"batch_size": np.ones_like(n_atoms), "max_atoms": n_atoms, "max_edges": n_edges}
        limits = {"batch_size": batch_size, "max_atoms": max_atoms, "max_edges": max_edges}
        self._sizes, self._limits = _checked_budget(sizes, limits)
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self._epoch = self._step = self._start = 0
        self._plan: tuple[int, list[Step]] | None = None

    def batches(self, epoch: int) -> list[Step]:
        """The whole epoch: global step -> rank -> rows."""
        key = epoch if self.shuffle else 0
        if self._plan is None or self._plan[0] != key:
            self._plan = key, self._make_plan(key)
        return self._plan[1]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch in the order in which they are put into batches."""
        n = self._sizes.shape[1]
        return np.random.default_rng((self.seed, epoch)).permutation(n) if self.shuffle else np.arange(n)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a position restored for the same epoch is kept."""
        if epoch != self._epoch:
            self._epoch, self._step, self._start = epoch, 0, 0

    def __len__(self) -> int:
        """Steps in the current epoch, those already done included."""
        return len(self.batches(self._epoch))

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of this rank, from the restored position (once) or the beginning."""
        start, self._start = self._start, 0
        for step, ranks in enumerate(self.batches(self._epoch)[start:], start):
            self._step = step + 1
            yield list(ranks[self.rank])

    def state(self, step: int | None = None) -> dict[str, int]:
        """Where iteration stands: the epoch and the number of batches handed out.

        Args:
            step: batches that were used; loaders with worker processes fetch ahead of the training.
        """
        return {"epoch": self._epoch, "step": self._step if step is None else step}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Continue after ``state``: the next iteration of that epoch starts at its step.

        Raises:
            ConfigError: the epoch has fewer steps than that: the data, the seed or the limits have changed.
        """
        epoch, step = state["epoch"], state["step"]
        if not 0 <= step <= len(self.batches(epoch)):
            raise ConfigError(
                f"Cannot continue at step {step} of epoch {epoch}: it has {len(self.batches(epoch))} steps.",
                fix="resume with the data, seed, limits and number of processes of the interrupted run",
            )
        self._epoch, self._step, self._start = epoch, step, step

    def _make_plan(self, epoch: int) -> list[Step]:
        rows = self.order(epoch)
        batches = _fill(rows, self._sizes, self._limits)
        world = self.world_size
        steps = [batches[k : k + world] for k in range(0, len(batches), world)]
        _complete(steps, world, [int(row) for row in rows])
        return steps


def _checked_budget(
    sizes: Mapping[str, NDArray[np.int64] | None], limits: Mapping[str, int | None]
) -> tuple[NDArray[np.int64], list[int]]:
    """The limits that are set, with what each structure uses of them [limits, n]."""
    names = [name for name, limit in limits.items() if limit is not None]
    if not names:
        raise ConfigError("Batches need a limit.", fix="set batch_size, max_atoms or max_edges")
    used, bounds = [], []
    for name in names:
        limit, size = limits[name], sizes[name]
        assert limit is not None
        if limit < 1:
            raise ConfigError(f"{name} must be at least 1, not {limit}.")
        if size is None:
            raise ConfigError("max_edges needs the number of edges of every structure.")
        row = int(np.argmax(size))
        if size[row] > limit:
            over = int((size > limit).sum())
            raise ConfigError(
                f"Structure {row} alone has {size[row]} {name.removeprefix('max_')}, more than"
                f" {name} = {limit} ({over} of {len(size)} structures do).",
                fix=f"set {name} to at least {size[row]}, or leave those structures out",
            )
        used.append(size)
        bounds.append(limit)
    return np.stack(used), bounds


def _fill(rows: NDArray[np.int64], sizes: NDArray[np.int64], limits: Sequence[int]) -> list[list[int]]:
    """Take rows in order; start a new batch when the next row would break a limit."""
    batches: list[list[int]] = []
    total = list(limits)  # full, so that the first row opens a batch
    for row, size in zip(rows.tolist(), sizes[:, rows].T.tolist(), strict=True):
        grown = [t + s for t, s in zip(total, size, strict=True)]
        if batches and all(g <= limit for g, limit in zip(grown, limits, strict=True)):
            batches[-1].append(row)
            total = grown
        else:
            batches.append([row])
            total = size
    return batches


def _complete(steps: list[Step], world: int, rows: Sequence[int]) -> None:
    """Give the last step one batch for every rank; parts of a batch are within its limits too."""
    last = steps[-1]
    while len(last) < world:
        longest = max(last, key=len)
        if len(longest) > 1:
            half = (len(longest) + 1) // 2
            last.append(longest[half:])
            del longest[half:]
            continue
        donor = max((batch for step in steps[-2:-1] for batch in step), key=len, default=[])
        last.append([donor.pop()] if len(donor) > 1 else [rows[len(last) % len(rows)]])
