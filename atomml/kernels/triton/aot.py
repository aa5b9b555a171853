"""Compile every kernel for given GPUs without having one, and tabulate what the compiler made of it.

    python -m atomml.kernels.triton.aot --markdown table.md --json table.json

Registers per thread, bytes spilled to memory and bytes of shared memory are read from the compiled code by
NVIDIA's ``cuobjdump``, which comes with Triton. Spilling at L ≤ 3 is a failure (exit code 1). The tile sizes
are those that `atomml.kernels.triton.tiles` chooses on an H100 for a large and a small graph.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from atomml.kernels.coupling import Grouping
from atomml.kernels.cp_factors import load_group_factors
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.kernels.triton import cg, cp_kernels
from atomml.kernels.triton.cp import MAX_REGISTERS, UNROLL
from atomml.kernels.triton.launch import OPTIONS, Kernel
from atomml.kernels.triton.tiles import (
    Device,
    Tiles,
    cg_edge_tiles,
    cg_node_tiles,
    cp_edge_tiles,
    cp_node_tiles,
)

__all__ = ["Launch", "Resources", "launches", "main", "markdown", "resources"]

GRAPHS = ((35_700, 1_000_000), (357, 9_996))
"""Nodes and edges of a large graph and of a small one, which does not fill the device."""

H100 = Device(132)

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}
_INDICES = {"row_ptr", "order", "source", "neighbor", "center"}
_COUNTS = {"n_items", "n_edges"}


class Launch(NamedTuple):
    """A kernel with everything that is fixed when it is compiled."""

    name: str
    lmax: int
    channels: int
    dtype: str
    tiles: Tiles
    kernel: Kernel
    constants: dict[str, Any]
    options: dict[str, Any]


class Resources(NamedTuple):
    """What one compiled kernel takes: registers per thread, spilled bytes per thread, shared bytes per program."""

    name: str
    lmax: int
    channels: int
    dtype: str
    edges: int
    ranks: int
    columns: int
    warps: int
    capability: int
    registers: int
    spilled: int
    shared: int


def launches(lmax: int, channels: int, dtype: str) -> Iterator[Launch]:
    """Every launch of both families for one L, number of channels and dtype ("fp32", "bf16", …)."""
    yield from _cp_launches(lmax, channels, dtype)
    yield from _cg_launches(lmax, channels, dtype)


def _cp_launches(lmax: int, channels: int, dtype: str) -> Iterator[Launch]:
    common, options = {"C": channels, "ACC": _accumulator(dtype)}, {"maxnreg": MAX_REGISTERS}
    groupings: tuple[Grouping, ...] = ("fused", "per_path") if lmax <= 3 else ("fused",)
    for grouping in groupings:
        groups = load_group_factors(lmax, "cg_even", grouping).groups
        shape = {"R": sum(groups), "G": len(groups)}
        for tiles in _distinct(
            cp_node_tiles(*graph, sum(groups), channels, _SIZES[dtype], H100) for graph in GRAPHS
        ):
            blocks = {"BE": tiles.edges, "BR": tiles.ranks, "BC": tiles.channels}
            for operator, ordered in (("conv", False), ("conv_p", True)):
                constants = common | shape | blocks | {"ORDERED": ordered}
                name = f"{operator} {grouping}"
                yield Launch(name, lmax, channels, dtype, tiles, cp_kernels.node_kernel, constants, options)
        tiles = cp_edge_tiles(GRAPHS[0][1], channels, _SIZES[dtype], H100)
        blocks = {"BE": tiles.edges, "BC": tiles.channels, "UNROLL": UNROLL}
        for operator, with_q, with_w in (("q", True, False), ("w", False, True), ("qw", True, True)):
            constants = common | shape | blocks | {"WITH_Q": with_q, "WITH_W": with_w}
            name = f"conv_{operator} {grouping}"
            yield Launch(name, lmax, channels, dtype, tiles, cp_kernels.edge_kernel, constants, options)


def _cg_launches(lmax: int, channels: int, dtype: str) -> Iterator[Launch]:
    coupling = sparse_coupling(lmax, "cg_even")
    common = {"C": channels, "ACC": _accumulator(dtype)}
    for tiles in _distinct(
        cg_node_tiles(*graph, coupling.dim_x, channels, _SIZES[dtype], H100) for graph in GRAPHS
    ):
        blocks = {"BE": tiles.edges, "BC": tiles.channels}
        for name, adjoint in (("cg_conv", False), ("cg_conv_x", True)):
            for kernel in cg.node_kernels(coupling, adjoint):
                constants = common | blocks | {"ORDERED": adjoint}
                yield Launch(name, lmax, channels, dtype, tiles, kernel, constants, {})
    tiles = cg_edge_tiles(GRAPHS[0][1], coupling.dim_x, channels, _SIZES[dtype], H100)
    for operator, with_y, with_w in (("y", True, False), ("w", False, True), ("yw", True, True)):
        blocks = {"BE": tiles.edges, "BC": tiles.channels}
        constants = common | blocks | {"WITH_Y": with_y, "WITH_W": with_w}
        name = f"cg_conv_{operator}"
        yield Launch(name, lmax, channels, dtype, tiles, cg.edge_kernel(coupling), constants, {})


def resources(launch: Launch, capability: int) -> Resources:
    """Compile for one compute capability (80, 90, …) and read what the code takes."""
    function = triton.JITFunction(launch.kernel)
    signature = {name: _type_of(name, launch) for name in function.arg_names}
    aligned = {
        (k,): [["tt.divisibility", 16]] for k, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    compiled = triton.compile(
        ASTSource(function, signature, launch.constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.tiles.warps, **OPTIONS, **launch.options},
    )
    usage = _usage(compiled.asm["cubin"])
    return Resources(
        *launch[:4],
        *launch.tiles[:4],
        capability,
        registers=usage["REG"],
        spilled=usage["STACK"] + usage["LOCAL"],
        shared=usage["SHARED"],
    )


def _type_of(name: str, launch: Launch) -> str:
    if name in launch.constants:
        return "constexpr"
    if name in _COUNTS:
        return "i32"
    if name == "group":
        return "*i32"
    return "*i64" if name in _INDICES else f"*{launch.dtype}"


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL as cuobjdump prints them: spilled registers live in the stack frame."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def _accumulator(dtype: str) -> tl.dtype:
    return tl.float64 if dtype == "fp64" else tl.float32


def _distinct(tiles: Iterable[Tiles]) -> list[Tiles]:
    """Without those that differ in the number of programs only."""
    return list({t[:4]: t for t in tiles}.values())


def markdown(rows: Sequence[Resources]) -> str:
    """Table with one line per kernel and a column of registers / spilled / shared bytes per capability."""
    capabilities = sorted({row.capability for row in rows})
    lines = [
        "| kernel | L | C | dtype | edges × ranks × channels | warps | "
        + " | ".join(f"sm_{c}" for c in capabilities)
        + " |",
        "|---" * (6 + len(capabilities)) + "|",
    ]
    for key, same in groupby(sorted(rows, key=lambda row: row[:9]), key=lambda row: row[:8]):
        name, lmax, channels, dtype, *block, warps = key
        cells: dict[int, tuple[int, int, int]] = {}
        for row in same:  # a kernel in several parts: the worst of them
            usage = (row.registers, row.spilled, row.shared)
            cells[row.capability] = max(cells.get(row.capability, usage), usage)
        used = " | ".join(" / ".join(map(str, cells[c])) if c in cells else "" for c in capabilities)
        size = " × ".join(map(str, block))
        lines.append(f"| {name} | {lmax} | {channels} | {dtype} | {size} | {warps} | {used} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a kernel for L ≤ 3 spills."""
    parser = argparse.ArgumentParser(prog="python -m atomml.kernels.triton.aot", description=__doc__)
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--dtypes", nargs="+", choices=sorted(_SIZES), default=["fp32", "bf16"])
    parser.add_argument("--capabilities", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--kernels", nargs="+", default=[""], help="prefixes of the kernels to compile")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    chosen = parser.parse_args(arguments)
    rows = [
        resources(launch, capability)
        for lmax in chosen.lmax
        for channels in chosen.channels
        for dtype in chosen.dtypes
        for launch in launches(lmax, channels, dtype)
        if launch.name.startswith(tuple(chosen.kernels))
        for capability in chosen.capabilities
    ]
    table = markdown(rows)
    sys.stdout.write(table)
    if chosen.markdown:
        chosen.markdown.write_text(table, encoding="utf-8")
    if chosen.json:
        chosen.json.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    spilling = [row for row in rows if row.spilled and row.lmax <= 3]
    for row in spilling:
        sys.stderr.write(f"spills: {row}\n")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
