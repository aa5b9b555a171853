"""What a convolution moves and computes on a GPU, and the time that this takes at the limits of the device.

Three resources bound a kernel, and the slowest decides:

- memory: bytes between the chip and its memory. Every operand and result once; features that neighbours gather
  again are read again only in so far as they do not fit into the second-level cache;
- cache: bytes between the second-level cache and the multiprocessors. Features are gathered for every edge;
- arithmetic: operations, 2 for a multiply-add.

    t = t_launch + max(bytes_memory / B_memory, bytes_cache / B_cache, operations / P)

The result is a floor: it knows no latency, no imbalance and no masked lanes. E edges, N nodes, C channels,
R ranks, G path groups, P paths, d components; the operations per edge and channel are

- conv, conv_p: 3 R; conv_q: 3 R; conv_w: 3 R; conv_qw: 5 R;
- cg_conv, cg_conv_x: 2 n_Pak + 2 n_Pk + n, with n_Pak different (path, a, k), n_Pk different (path, k) and n
  entries of the table, whose products v y_b serve two channels at once;
- cg_conv_y, cg_conv_w: n_ak + 2 n + 2 n_Pb; both together n_ak + 2 n + 4 n_Pb.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from atomml.kernels.sparse_coupling import SparseCoupling

__all__ = [
    "GPU",
    "H100",
    "OPERATORS",
    "Cost",
    "Mode",
    "Operator",
    "Shape",
    "bound",
    "cg_convolution_cost",
    "cg_cost",
    "cp_convolution_cost",
    "cp_cost",
    "mix_cost",
    "seconds",
    "total",
]

Operator = Literal["conv", "conv_p", "conv_q", "conv_w", "conv_qw"]
"""One of a family; in the sparse-coupling family read x for p and y for q."""

Mode = Literal["forward", "backward", "double"]
"""``backward``: with the gradients of all operands; ``double``: with the gradients of these gradients too."""

OPERATORS: dict[Mode, dict[Operator, int]] = {
    "forward": {"conv": 1},
    "backward": {"conv": 1, "conv_p": 1, "conv_qw": 1},
    "double": {"conv": 4, "conv_p": 3, "conv_qw": 2, "conv_q": 1, "conv_w": 1},
}
"""How often each operator runs in each mode; the rule of derivatives is in `atomml.kernels.trilinear`."""

_MIXES: dict[Mode, int] = {"forward": 2, "backward": 4, "double": 7}
_INDEX = 8
_BLOCK = 4  # edges of one centre that read its features together in the kernels per edge


class GPU(NamedTuple):
    """Limits of a device: bytes and operations per second, bytes of second-level cache, seconds per launch."""

    name: str
    memory: float
    cache: float
    arithmetic: float
    cache_size: float
    launch: float


H100 = GPU("H100 SXM", memory=3.35e12, cache=5.5e12, arithmetic=67e12, cache_size=50e6, launch=3e-6)
"""Memory, float32 arithmetic and cache size of NVIDIA's data sheet; cache bandwidth and launch time are assumed."""


class Shape(NamedTuple):
    """N nodes, E edges, C channels and bytes per number."""

    nodes: int
    edges: int
    channels: int
    itemsize: int


class Cost(NamedTuple):
    """Bytes from memory, bytes from the second-level cache, operations, and kernels launched."""

    memory: float
    cache: float
    operations: int
    launches: int


def cp_cost(operator: Operator, shape: Shape, rank: int, groups: int, gpu: GPU = H100) -> Cost:
    """Cost of one operator of the factorised family."""
    _, edges, channels, _ = shape
    per_edge = {"conv_qw": 5 * rank}.get(operator, 3 * rank)
    operations = edges * channels * per_edge
    return _cost(operator, shape, (rank, rank, rank, groups), operations, gpu)


def cg_cost(operator: Operator, shape: Shape, coupling: SparseCoupling, gpu: GPU = H100) -> Cost:
    """Cost of one operator of the family with one radial weight per path."""
    a, b, k, path = coupling.entries.T
    entries = len(path)
    if operator in ("conv", "conv_p"):
        outer = k if operator == "conv" else a
        per_edge = 2 * _different(path, a, k) + 2 * _different(path, outer) + entries
    else:
        sums = 4 if operator == "conv_qw" else 2
        per_edge = _different(a, k) + 2 * entries + sums * _different(path, b)
    sizes = (coupling.dim_x, coupling.dim_out, coupling.dim_y, len(coupling.paths))
    return _cost(operator, shape, sizes, shape.edges * shape.channels * per_edge, gpu)


def mix_cost(shape: Shape, dim: int, rank: int) -> Cost:
    """Cost of one product with a factor at the nodes, [R, d] × [d, C], by the library of matrix products."""
    nodes, _, channels, itemsize = shape
    moved = nodes * (dim + rank) * channels * itemsize
    return Cost(moved, moved, 2 * nodes * dim * rank * channels, 1)


def cp_convolution_cost(
    mode: Mode, shape: Shape, dim: int, rank: int, groups: int, gpu: GPU = H100
) -> list[Cost]:
    """Every launch of a factorised convolution, with the factors at the nodes."""
    mixes = [mix_cost(shape, dim, rank)] * _MIXES[mode]
    return mixes + [
        cp_cost(operator, shape, rank, groups, gpu)
        for operator, times in OPERATORS[mode].items()
        for _ in range(times)
    ]


def cg_convolution_cost(mode: Mode, shape: Shape, coupling: SparseCoupling, gpu: GPU = H100) -> list[Cost]:
    """Every launch of a convolution with one radial weight per path."""
    return [
        cg_cost(operator, shape, coupling, gpu)
        for operator, times in OPERATORS[mode].items()
        for _ in range(times)
    ]


def seconds(cost: Cost, gpu: GPU = H100) -> float:
    """Floor of the time of one cost, see the module."""
    return cost.launches * gpu.launch + max(_times(cost, gpu).values())


def total(costs: Iterable[Cost], gpu: GPU = H100) -> float:
    """Seconds of several costs, one after the other."""
    return sum(seconds(cost, gpu) for cost in costs)


def bound(cost: Cost, gpu: GPU = H100) -> str:
    """What takes longest: "memory", "cache", "arithmetic", or "launch"."""
    times = _times(cost, gpu) | {"launch": cost.launches * gpu.launch}
    return max(times, key=times.__getitem__)


def _times(cost: Cost, gpu: GPU) -> dict[str, float]:
    return {
        "memory": cost.memory / gpu.memory,
        "cache": cost.cache / gpu.cache,
        "arithmetic": cost.operations / gpu.arithmetic,
    }


def _cost(
    operator: Operator, shape: Shape, sizes: tuple[int, int, int, int], operations: int, gpu: GPU
) -> Cost:
    """Bytes of an operator on features p and s of (sizes[0], sizes[1]) rows, q of sizes[2] and w of sizes[3] rows."""
    nodes, edges, channels, itemsize = shape
    p, s, q, w = sizes
    row = channels * itemsize
    gathered, other = (s, p) if operator == "conv_p" else (p, s)
    numbers = 2 if operator == "conv_qw" else 1  # q and w are operand and result, or one of the two
    streamed = numbers * edges * (q * itemsize + w * row) + _INDEX * (2 * edges + nodes)
    others = nodes if operator in ("conv", "conv_p") else edges / _BLOCK  # rows written, or read for a block
    return Cost(
        nodes * (p + s) * row + _again(edges, nodes, gathered * row, gpu) + streamed,
        (edges * gathered + others * other) * row + streamed,
        operations,
        1,
    )


def _again(edges: int, nodes: int, row: int, gpu: GPU) -> float:
    """Bytes of gathered rows that have left the cache by the time they are wanted again, for random neighbours."""
    size = nodes * row
    return max(0, edges - nodes) * row * max(0.0, 1 - gpu.cache_size / size) if size else 0.0


def _different(*columns: np.ndarray) -> int:
    return len(np.unique(np.stack(columns), axis=1).T)
