"""From rows of a data set to batches of graphs on a device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread

import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Batch, Data

from atomml.datasets import GraphDataset
from atomml.datasets.mixture_graphs import MixtureGraphs

ALIGNMENT = 64  # bytes; of every tensor in a block
Layout = list[tuple[str, torch.dtype, tuple[int, ...], int]]
Flat = tuple[type[Data], Layout, torch.Tensor]

__all__ = ["greedy_batches", "join", "stream_batches"]


def greedy_batches(
    graphs: Iterable[Data],
    *,
    batch_size: int | None = None,
    max_atoms: int | None = None,
    max_edges: int | None = None,
) -> Iterator[list[Data]]:
    """Group graphs in order, as many as the limits allow; a graph over a limit is a batch of its own."""
    group: list[Data] = []
    atoms = edges = 0
    for graph in graphs:
        n, m = graph.pos.shape[0], graph.edge_index.shape[1]
        full = (
            (batch_size is not None and len(group) + 1 > batch_size)
            or (max_atoms is not None and atoms + n > max_atoms)
            or (max_edges is not None and edges + m > max_edges)
        )
        if group and full:
            yield group
            group, atoms, edges = [], 0, 0
        group.append(graph)
        atoms, edges = atoms + n, edges + m
    if group:
        yield group


def join(graphs: Sequence[Data]) -> Batch:
    """The same tensors as ``Batch.from_data_list``, several times faster, without the way back to a list."""
    columns = [graph.to_dict() for graph in graphs]
    atoms = torch.tensor([len(c["z"]) for c in columns])
    edges = torch.tensor([len(c["edge_transpose"]) for c in columns])
    first_atom, first_edge = atoms.cumsum(0) - atoms, edges.cumsum(0) - edges
    out = Batch(_base_cls=type(graphs[0]))
    for key in columns[0]:
        value = torch.cat([c[key] for c in columns], dim=1 if key == "edge_index" else 0)
        if key == "edge_index":
            value = value + first_atom.repeat_interleave(edges)
        elif key == "edge_transpose":
            value = value + first_edge.repeat_interleave(edges)
        out[key] = value
    out.batch = torch.arange(len(graphs)).repeat_interleave(atoms)
    out.ptr = torch.cat([first_atom, atoms.sum()[None]])
    return out


def stream_batches(
    dataset: GraphDataset | MixtureGraphs,
    steps: Sequence[Sequence[int]],
    *,
    workers: int,
    device: torch.device,
) -> Iterator[Data | None]:
    """The batch of each step, on ``device``; None for a step without rows.

    With ``workers`` > 0 the graphs are built in other processes and handed over in pinned memory for a GPU.
    """
    if workers == 0:
        for rows in steps:
            yield join([dataset.shared(i) for i in rows]).to(device) if len(rows) else None
        return
    loader: DataLoader[Flat] = DataLoader(
        dataset,
        batch_sampler=[list(rows) for rows in steps if len(rows)],
        collate_fn=_flat,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader must not draw from the generator of the model
    )
    loaded = _ahead(iter(loader))
    for rows in steps:
        yield _unflat(next(loaded)).to(device, non_blocking=True) if len(rows) else None


def _ahead(items: Iterator[Flat], depth: int = 2) -> Iterator[Flat]:
    """The same items, received by a thread while the caller computes; an error of ``items`` is raised here."""
    received: Queue[Flat | BaseException | None] = Queue(depth)
    stopped = Event()

    def put(item: Flat | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                received.put(item, timeout=0.1)
                return

    def receive() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = Thread(target=receive, daemon=True)
    thread.start()
    try:
        while (item := received.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _flat(graphs: Sequence[Data]) -> Flat:
    """A batch as one block of bytes: handing over a tensor between processes costs as much as building one."""
    batch = join(graphs)
    layout: Layout = []
    blocks, end = [], 0
    for key, value in batch.to_dict().items():
        raw = value.contiguous().reshape(-1).view(torch.uint8)
        layout.append((key, value.dtype, tuple(value.shape), end))
        padding = -len(raw) % ALIGNMENT
        blocks += [raw, raw.new_zeros(padding)]
        end += len(raw) + padding
    return type(graphs[0]), layout, torch.cat(blocks)


def _unflat(flat: Flat) -> Batch:
    kind, layout, block = flat
    batch = Batch(_base_cls=kind)
    for key, dtype, shape, start in layout:
        size = math.prod(shape) * dtype.itemsize
        batch[key] = block[start : start + size].view(dtype).reshape(shape)
    return batch
