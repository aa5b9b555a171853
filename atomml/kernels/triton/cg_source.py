"""Source code of the kernels of the sparse-coupling family, written out for one coupling.

The equations are in `atomml.kernels.reference_cg`. A coupling is a constant of the compiled kernel: every
non-zero number becomes a literal, no index is looked up, and zeros cost nothing. For one edge and channel

    S, Sx:  out_k += Σ_P w_P t_k,   t_k = Σ_a (Σ_b v y_b) x_a
    Sy, Sw: z_b = Σ_ak v x_a s_k,   ȳ_b += w_P z_b,   w̄_P = Σ_b y_b z_b

with the numbers (Σ_b v y_b) shared by the channels of a thread, and the products x_a s_k shared by all paths
of the same (l1, l3). The adjoint Sx is S with a and k exchanged, along the transposed edges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from atomml.kernels.sparse_coupling import SparseCoupling

__all__ = ["edge_source", "node_source", "output_parts"]

_WHOLE, _PART = 16, 9
_Key = TypeVar("_Key", int, tuple[int, int])

_HEADER = '''"""Written by atomml.kernels.triton.cg_source; not edited by hand."""

from typing import no_type_check

import triton.language as tl


@no_type_check
'''

_NODE_HEAD = """\
def node_kernel(
    out, x, y, w, row_ptr, order, source, n_items,
    C: tl.constexpr, ORDERED: tl.constexpr, ACC: tl.constexpr, BE: tl.constexpr, BC: tl.constexpr,
):
    TILES: tl.constexpr = (C + BC - 1) // BC
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        node = tl.cast(item // TILES, tl.int64)
        c = ((item % TILES) * BC + tl.arange(0, BC))[None, :]
        end = tl.load(row_ptr + node + 1)
"""

_NODE_EDGE = """\
        for first in range(tl.load(row_ptr + node), end, BE):
            e = first + tl.arange(0, BE)
            is_edge = e < end
            if ORDERED:
                e = tl.load(order + e, mask=is_edge, other=0)
            inside = is_edge[:, None] & (c < C)
            x_row = x + tl.load(source + e, mask=is_edge, other=0)[:, None] * ({dim_in} * C) + c
            w_row = w + e[:, None] * ({n_paths} * C) + c
"""

_EDGE_HEAD = """\
def edge_kernel(
    y_out, w_out, x, y, w, s, neighbor, center, n_edges,
    C: tl.constexpr, WITH_Y: tl.constexpr, WITH_W: tl.constexpr, ACC: tl.constexpr, BE: tl.constexpr,
    BC: tl.constexpr,
):
    for item in range(tl.program_id(0), (n_edges + BE - 1) // BE, tl.num_programs(0)):
        e = tl.cast(item, tl.int64) * BE + tl.arange(0, BE)
        is_edge = e < n_edges
        j = tl.load(neighbor + e, mask=is_edge, other=0)[:, None]
        i = tl.load(center + e, mask=is_edge, other=0)[:, None]
"""

_EDGE_CHANNELS = """\
        for first in range(0, C, BC):
            c = (first + tl.arange(0, BC))[None, :]
            inside = is_edge[:, None] & (c < C)
            x_row = x + j * ({dim_x} * C) + c
            s_row = s + i * ({dim_out} * C) + c
            w_row = e[:, None] * ({n_paths} * C) + c
"""


class _Entry(NamedTuple):
    """v for the components a (input), b (harmonic), k (output) of a path."""

    a: int
    b: int
    k: int
    path: int
    v: float


def output_parts(lmax: int) -> list[range]:
    """Degrees 0..lmax of the output in parts, one kernel each, so that a thread can hold all sums in registers.

    One part up to L = 3 (16 components); above that as many degrees at a time as have 9 components together.
    """
    if (lmax + 1) ** 2 <= _WHOLE:
        return [range(lmax + 1)]
    parts, first = [], 0
    for last in range(lmax + 1):
        if last == lmax or (last + 2) ** 2 - first**2 > _PART:
            parts.append(range(first, last + 1))
            first = last + 1
    return parts


def node_source(coupling: SparseCoupling, degrees: range, *, adjoint: bool = False) -> str:
    """Source of ``node_kernel`` for some degrees of the output: S, or with ``adjoint`` Sx.

    out[n, k, c] = Σ_e Σ_{(a,b,k,P,v)} v · w[e, P, c] · y[e, b] · x[source(e), a, c], one item per node and tile
    of channels, summed over blocks of BE edges.
    """
    dim_in, dim_out = coupling.dim_x, coupling.dim_out
    entries = _entries(coupling)
    if adjoint:
        dim_in, dim_out = dim_out, dim_in
        entries = [_Entry(t.k, t.b, t.a, t.path, t.v) for t in entries]
    outputs = range(degrees.start**2, degrees.stop**2)
    entries = [t for t in entries if t.k in outputs]
    lines = [_HEADER + _NODE_HEAD]
    lines += [f"        out_{k} = tl.full((BE, BC), 0, ACC)\n" for k in outputs]
    lines += [_NODE_EDGE.format(dim_in=dim_in, n_paths=len(coupling.paths))]
    lines += _loads("y", sorted({t.b for t in entries}), f"y + e * {coupling.dim_y} + {{}}", "is_edge")
    lines += _loads("x", sorted({t.a for t in entries}), "x_row + {} * C", "inside")
    for path, in_path in _grouped(entries, lambda t: t.path):
        lines += _loads("w", [path], "w_row + {} * C", "inside")
        for k, in_row in _grouped(in_path, lambda t: t.k):
            terms = [
                f"({_sum(f'{t.v!r} * y_{t.b}' for t in factor)})[:, None] * x_{a}"
                for a, factor in _grouped(in_row, lambda t: t.a)
            ]
            lines += [f"            out_{k} += w_{path} * ({_sum(terms)})\n"]
    for k in outputs:
        total = f"tl.reduce(out_{k}, 0, tl.standard._sum_combine)[None, :]"
        target = f"out + node * ({dim_out} * C) + {k} * C + c"
        lines += [f"        tl.store({target}, {total}.to(out.dtype.element_ty), mask=c < C)\n"]
    return "".join(lines)


def edge_source(coupling: SparseCoupling) -> str:
    """Source of ``edge_kernel``: Sy and Sw for blocks of BE edges, tile after tile of channels."""
    entries = _entries(coupling)
    harmonics = sorted({t.b for t in entries})
    lines = [_HEADER + _EDGE_HEAD]
    lines += [f"        y_out_{b} = tl.full((BE, BC), 0, ACC)\n" for b in range(coupling.dim_y)]
    lines += ["        if WITH_W:\n"]
    loads = _loads("y", harmonics, f"y + e * {coupling.dim_y} + {{}}", "is_edge")
    lines += loads or ["            pass\n"]
    lines += [
        _EDGE_CHANNELS.format(dim_x=coupling.dim_x, dim_out=coupling.dim_out, n_paths=len(coupling.paths))
    ]
    lines += _loads("x", sorted({t.a for t in entries}), "x_row + {} * C", "inside")
    lines += _loads("s", sorted({t.k for t in entries}), "s_row + {} * C", "inside")
    for _, block in _grouped(entries, lambda t: (coupling.paths[t.path][0], coupling.paths[t.path][2])):
        lines += _block_of_paths(block)
    for path in range(len(coupling.paths)):
        if not any(t.path == path for t in entries):
            lines += _store_weight(path, "tl.full((BE, BC), 0, ACC)")
    lines += ["        if WITH_Y:\n"]
    for b in range(coupling.dim_y):
        total = f"tl.reduce(y_out_{b}, 1, tl.standard._sum_combine).to(y_out.dtype.element_ty)"
        lines += [f"            tl.store(y_out + e * {coupling.dim_y} + {b}, {total}, mask=is_edge)\n"]
    return "".join(lines)


def _block_of_paths(block: Sequence[_Entry]) -> list[str]:
    """The z of all paths of one (l1, l3), then what they add to ȳ and w̄."""
    lines, known = [], set()
    for (a, k), products in _grouped(block, lambda t: (t.a, t.k)):
        lines += [f"            u = x_{a} * s_{k}\n"]
        for t in products:
            sign = "+=" if (t.path, t.b) in known else "="
            known.add((t.path, t.b))
            lines += [f"            z_{t.path}_{t.b} {sign} {t.v!r} * u\n"]
    for path, in_path in _grouped(block, lambda t: t.path):
        harmonics = sorted({t.b for t in in_path})
        lines += ["            if WITH_Y:\n"]
        lines += _loads("w", [path], "w + w_row + {} * C", "inside", indent=16)
        lines += [f"                y_out_{b} += w_{path} * z_{path}_{b}\n" for b in harmonics]
        lines += _store_weight(path, _sum(f"y_{b}[:, None] * z_{path}_{b}" for b in harmonics))
    return lines


def _store_weight(path: int, value: str) -> list[str]:
    target = f"w_out + w_row + {path} * C"
    return [
        "            if WITH_W:\n",
        f"                tl.store({target}, ({value}).to(w_out.dtype.element_ty), mask=inside)\n",
    ]


def _loads(name: str, numbers: Iterable[int], address: str, mask: str, indent: int = 12) -> list[str]:
    """``name_n`` for every n from its address."""
    return [
        f"{' ' * indent}{name}_{n} = tl.load({address.format(n)}, mask={mask}, other=0).to(ACC)\n"
        for n in numbers
    ]


def _sum(terms: Iterable[str]) -> str:
    return " + ".join(terms)


def _entries(coupling: SparseCoupling) -> list[_Entry]:
    rows = zip(coupling.entries.tolist(), coupling.values.tolist(), strict=True)
    return [_Entry(a, b, k, path, v) for (a, b, k, path), v in rows]


def _grouped(entries: Iterable[_Entry], key: Callable[[_Entry], _Key]) -> list[tuple[_Key, list[_Entry]]]:
    """Entries by a key, keys in ascending order."""
    groups: defaultdict[_Key, list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return sorted(groups.items(), key=lambda item: item[0])
