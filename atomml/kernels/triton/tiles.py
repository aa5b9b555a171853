"""Tile sizes of the kernels: plain arithmetic on shapes, without timing anything at run time.

The kernels are bound by memory and by latency, not by arithmetic (`atomml.kernels.cost_model`), so the rules
aim at enough loads in flight without spilling registers:

- a thread holds 16 products of the factorised convolution (8 in float64) and 2 channels of the sparse-coupling
  kernels (1 in float64, per edge for L ≥ 3, per node for L ≥ 4), which keeps every kernel for L ≤ 3 free of
  spills;
- a row of channels is read by neighbouring lanes: up to 64 channels in a tile, the whole row where the sum
  over channels must stay inside a warp;
- where the nodes do not fill the device, channels are split (down to 32) and several edges of a node are
  summed side by side, which shortens the chain of dependent loads;
- where there are more than `LONG_QUEUE` times as many items as programs fit on the device, the programs are
  persistent: as many as fit, each walking over items, so that small items do not pay for a launch each.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "LONG_QUEUE",
    "Device",
    "Tiles",
    "cg_edge_tiles",
    "cg_node_tiles",
    "cp_edge_tiles",
    "cp_node_tiles",
]

LONG_QUEUE = 8
"""Items per resident program from which programs are persistent."""

_RESIDENT_WARPS = 32
"""Warps of one multiprocessor that its registers hold at 64 registers a thread."""


class Device(NamedTuple):
    """What the rules know of a GPU: its multiprocessors and the warps that each can hold."""

    multiprocessors: int
    warps: int = 64


class Tiles(NamedTuple):
    """One launch: block of edges × ranks × channels per step, warps per program, programs for all items.

    ``items`` is how many tiles there are to work on; ``programs`` is less than that for persistent programs.
    """

    edges: int
    ranks: int
    channels: int
    warps: int
    items: int
    programs: int


def cp_node_tiles(
    n_nodes: int, n_edges: int, rank: int, channels: int, itemsize: int, device: Device
) -> Tiles:
    """Tiles of ``cp_kernels.node_kernel``: an item is one node × tile of ranks × tile of channels."""
    per_thread = 16 if itemsize < 8 else 8
    degree = n_edges // max(1, n_nodes)
    for most_channels in (64, 32):
        block_c = min(_up(channels), most_channels)
        block_r = min(_up(rank), 4096 // block_c)
        block_e = max(1, min(_down(degree), 8, 2048 // (block_r * block_c)))
        warps = _clamp(block_e * block_r * block_c // (32 * per_thread), 1, 8)
        items = n_nodes * _tiles(rank, block_r) * _tiles(channels, block_c)
        if _fills(items, warps, device):
            break
    return Tiles(block_e, block_r, block_c, warps, items, _programs(items, warps, device))


def cp_edge_tiles(n_edges: int, channels: int, itemsize: int, device: Device) -> Tiles:
    """Tiles of ``cp_kernels.edge_kernel``: an item is a block of edges with all ranks and channels."""
    elements = 256 if itemsize < 8 else 128  # of one warp
    block_c = _up(channels)
    block_e = max(1, elements // block_c)
    warps = _clamp(block_c // elements, 1, 8)
    items = _tiles(n_edges, block_e)
    return Tiles(block_e, 1, block_c, warps, items, _programs(items, warps, device))


def cg_node_tiles(
    n_nodes: int, n_edges: int, components: int, channels: int, itemsize: int, device: Device
) -> Tiles:
    """Tiles of ``node_kernel`` in `atomml.kernels.triton.cg_source`: an item is one node × tile of channels.

    ``components`` is the larger of the numbers of input and output components.
    """
    elements = 64 if components <= 16 and itemsize < 8 else 32  # of one component in a warp
    block_c = min(_up(channels), elements)
    items = n_nodes * _tiles(channels, block_c)
    degree = n_edges // max(1, n_nodes)
    warps = 1 if _fills(items, 1, device) else min(4, _down(degree))
    block_e = warps * elements // block_c
    return Tiles(block_e, 1, block_c, warps, items, _programs(items, warps, device))


def cg_edge_tiles(n_edges: int, components: int, channels: int, itemsize: int, device: Device) -> Tiles:
    """Tiles of ``edge_kernel`` in `atomml.kernels.triton.cg_source`: an item is a block of edges, one warp wide."""
    elements = 64 if components <= 9 and itemsize < 8 else 32  # of one component in a warp
    block_c = min(_up(channels), elements)
    block_e = elements // block_c
    items = _tiles(n_edges, block_e)
    return Tiles(block_e, 1, block_c, 1, items, _programs(items, 1, device))


def _fills(items: int, warps: int, device: Device) -> bool:
    return items * warps >= device.multiprocessors * min(device.warps, _RESIDENT_WARPS)


def _programs(items: int, warps: int, device: Device) -> int:
    resident = device.multiprocessors * max(1, min(device.warps, _RESIDENT_WARPS) // warps)
    return resident if items > LONG_QUEUE * resident else items


def _tiles(size: int, block: int) -> int:
    return -(-size // block)


def _up(n: int) -> int:
    """Smallest power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _down(n: int) -> int:
    """Largest power of two that is not above n, at least 1."""
    return 1 << (max(1, n).bit_length() - 1)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
