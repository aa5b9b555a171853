"""Kernels of the factorised convolution; the equations are in `atomml.kernels.reference`.

Both kernels walk over work items in a loop with the stride of the grid, so that the same code serves one item
per program and persistent programs. No kernel adds to memory that another one writes: results do not
depend on the order in which programs run. Products are taken in ``ACC`` (float32, or float64 for float64).
``group`` holds g(r) of every rank and one number more that differs from the last.

Functions of ``triton.language.standard`` are avoided: they are compiled functions that the interpreter can
only call when it was chosen before Triton was imported.
"""

from typing import no_type_check

import triton.language as tl

__all__ = ["edge_kernel", "node_kernel"]


@no_type_check
def node_kernel(
    out: tl.tensor,
    p: tl.tensor,
    q: tl.tensor,
    w: tl.tensor,
    row_ptr: tl.tensor,
    order: tl.tensor,
    source: tl.tensor,
    group: tl.tensor,
    n_items: int,
    C: tl.constexpr,
    R: tl.constexpr,
    G: tl.constexpr,
    ORDERED: tl.constexpr,
    ACC: tl.constexpr,
    BE: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
) -> None:
    """out[n, r, c] = Σ_e q[e, r] · w[e, g(r), c] · p[source(e), r, c] over the edges of node n.

    One item is one node × tile of ranks × tile of channels; it sums over blocks of BE edges. With ``ORDERED``
    the edges of node n are ``order[row_ptr[n]:row_ptr[n+1]]`` (the transpose), otherwise these numbers
    themselves.
    """
    TILES_C: tl.constexpr = (C + BC - 1) // BC
    TILES: tl.constexpr = TILES_C * ((R + BR - 1) // BR)
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        node = tl.cast(item // TILES, tl.int64)
        tile = item % TILES
        r = (tile // TILES_C) * BR + tl.arange(0, BR)
        c = (tile % TILES_C) * BC + tl.arange(0, BC)
        inside = (r < R)[:, None] & (c < C)[None, :]
        offset = r[:, None] * C + c[None, :]
        if G > 1:
            group_offset = tl.load(group + r, mask=r < R, other=0)[:, None] * C + c[None, :]
        total = tl.full((BE, BR, BC), 0, ACC)
        end = tl.load(row_ptr + node + 1)
        for first in range(tl.load(row_ptr + node), end, BE):
            e = first + tl.arange(0, BE)
            is_edge = e < end
            if ORDERED:
                e = tl.load(order + e, mask=is_edge, other=0)
            j = tl.load(source + e, mask=is_edge, other=0)
            q_e = tl.load(q + e[:, None] * R + r[None, :], mask=is_edge[:, None] & (r < R)[None, :], other=0)
            if G == 1:
                w_e = tl.load(
                    w + e[:, None] * C + c[None, :], mask=is_edge[:, None] & (c < C)[None, :], other=0
                )[:, None, :]
            else:
                weight = e[:, None, None] * (G * C) + group_offset[None, :, :]
                w_e = tl.load(w + weight, mask=is_edge[:, None, None] & inside[None, :, :], other=0)
            feature = j[:, None, None] * (R * C) + offset[None, :, :]
            p_j = tl.load(p + feature, mask=is_edge[:, None, None] & inside[None, :, :], other=0)
            total += q_e.to(ACC)[:, :, None] * w_e.to(ACC) * p_j.to(ACC)
        message = tl.reduce(total, 0, tl.standard._sum_combine)
        tl.store(out + node * (R * C) + offset, message.to(out.dtype.element_ty), mask=inside)


@no_type_check
def edge_kernel(
    q_out: tl.tensor,
    w_out: tl.tensor,
    p: tl.tensor,
    q: tl.tensor,
    w: tl.tensor,
    s: tl.tensor,
    neighbor: tl.tensor,
    center: tl.tensor,
    group: tl.tensor,
    n_edges: int,
    C: tl.constexpr,
    R: tl.constexpr,
    G: tl.constexpr,
    WITH_Q: tl.constexpr,
    WITH_W: tl.constexpr,
    ACC: tl.constexpr,
    BE: tl.constexpr,
    BC: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """The adjoints per edge, with u[r, c] = p[j(e), r, c] · s[i(e), r, c] and all channels in one tile.

    q_out[e, r]    = Σ_c       w[e, g(r), c] · u[r, c]
    w_out[e, g, c] = Σ_{r ∈ g} q[e, r] · u[r, c]

    Ranks are taken one after the other: a sum over ranks stays in a register until its group ends, and a sum
    over channels crosses the lanes of one row only.
    """
    c = tl.arange(0, BC)[None, :]
    one = tl.full((1, 1), 0, tl.int32)  # a number as a block, so that it combines with masks
    for item in range(tl.program_id(0), (n_edges + BE - 1) // BE, tl.num_programs(0)):
        e = tl.cast(item, tl.int64) * BE + tl.arange(0, BE)
        is_edge = e < n_edges
        inside = is_edge[:, None] & (c < C)
        j = tl.load(neighbor + e, mask=is_edge, other=0)
        i = tl.load(center + e, mask=is_edge, other=0)
        p_j = p + j[:, None] * (R * C) + c
        s_i = s + i[:, None] * (R * C) + c
        weight = e[:, None] * (G * C) + c
        if WITH_Q and G == 1:
            w_e = tl.load(w + weight, mask=inside, other=0).to(ACC)
        if WITH_W:
            w_bar = tl.full((BE, BC), 0, ACC)
        for r in tl.range(0, R, loop_unroll_factor=UNROLL):
            u = tl.load(p_j + r * C, mask=inside, other=0).to(ACC)
            u *= tl.load(s_i + r * C, mask=inside, other=0).to(ACC)
            if G > 1:
                g = tl.load(group + r + one)
            if WITH_Q:
                if G > 1:
                    w_e = tl.load(w + weight + g * C, mask=inside, other=0).to(ACC)
                q_bar = tl.reduce(w_e * u, 1, tl.standard._sum_combine)
                tl.store(q_out + e * R + r, q_bar.to(q_out.dtype.element_ty), mask=is_edge)
            if WITH_W:
                q_e = tl.load(q + e * R + r, mask=is_edge, other=0).to(ACC)
                w_bar += q_e[:, None] * u
                if G > 1:
                    is_last = tl.load(group + r + 1 + one) != g
                    target = w_out + weight + g * C
                    tl.store(target, w_bar.to(w_out.dtype.element_ty), mask=inside & is_last)
                    w_bar = tl.where(is_last, 0.0, w_bar)
        if WITH_W and G == 1:
            tl.store(w_out + weight, w_bar.to(w_out.dtype.element_ty), mask=inside)
