"""A backend against the reference on a tiny graph: the last guard between a broken build and a wrong force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import torch

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import reference
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.shapes import Tensor

__all__ = ["self_check", "tiny_graph"]

_GROUPS = (2, 3)
_CHANNELS = 19  # a full vector and a tail for every width of the vectors


def self_check(backend: ModuleType, device: str, dtype: torch.dtype) -> str | None:
    """What is wrong with ``backend``, in words; None if all its kernels agree with the reference in float64."""
    index = EdgeIndex(*(part.to(device) for part in tiny_graph()))
    for names, operands, structure in _cases(index):
        for name in names:
            if problem := _compare(
                backend, name, _chosen(name, *operands), (index, structure), device, dtype
            ):
                return problem
    matrix, x = _numbers(sum(_GROUPS), 4), _numbers(len(index.row_ptr) - 1, 4, _CHANNELS)
    return _compare(backend, "mix", (matrix, x), (), device, dtype)


def _cases(index: EdgeIndex) -> Iterator[tuple[tuple[str, ...], tuple[Tensor, ...], object]]:
    """Names of S, Sx, Sy, Sw and the last two at once; x, y, w and s; what follows the index."""
    n, e, rank = len(index.row_ptr) - 1, len(index.neighbor), sum(_GROUPS)
    p, s, q = _numbers(n, rank, _CHANNELS), _numbers(n, rank, _CHANNELS).flip(0), _numbers(e, rank)
    names = ("conv", "conv_p", "conv_q", "conv_w", "conv_qw")
    yield names, (p, q, _numbers(e, len(_GROUPS), _CHANNELS), s), list(_GROUPS)
    names = ("cg_conv", "cg_conv_x", "cg_conv_y", "cg_conv_w", "cg_conv_yw")
    for lmax in (1, 2):
        coupling = sparse_coupling(lmax, "cg_even")
        x, s, y = (
            _numbers(n, coupling.dim_x, _CHANNELS),
            _numbers(n, coupling.dim_x, _CHANNELS).flip(0),
            _numbers(e, coupling.dim_y),
        )
        yield names, (x, y, _numbers(e, len(coupling.paths), _CHANNELS), s), coupling


def _chosen(name: str, x: Tensor, y: Tensor, w: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    match name.removeprefix("cg_"):
        case "conv":
            return x, y, w
        case "conv_x" | "conv_p":
            return s, y, w
        case "conv_y" | "conv_q":
            return x, s, w
        case "conv_w":
            return x, y, s
    return x, y, w, s


def _compare(
    backend: ModuleType,
    name: str,
    operands: Sequence[Tensor],
    others: Sequence[object],
    device: str,
    dtype: torch.dtype,
) -> str | None:
    rounded = [x.to(device=device, dtype=dtype) for x in operands]
    expected = getattr(reference, name)(*[x.double() for x in rounded], *others)
    try:
        actual = getattr(backend, name)(*rounded, *others)
    except Exception as error:  # errors of compilers and loaders have no common base
        return f"{name}: {type(error).__name__}: {error}"
    pairs = zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]
    tolerance = 50 * torch.finfo(dtype).eps
    for a, b in pairs:
        difference = float((a.double() - b).abs().max() / b.abs().max())
        if not difference <= tolerance:
            return f"{name}: relative error {difference:.1e}"
    return None


def tiny_graph() -> EdgeIndex:
    """Four atoms, six edges sorted by centre; the last atom is isolated."""
    neighbor, center = torch.tensor([1, 2, 0, 2, 0, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    row_ptr = torch.tensor([0, 2, 4, 6, 6])
    return EdgeIndex(neighbor, center, row_ptr, torch.argsort(neighbor, stable=True), row_ptr)


def _numbers(*shape: int) -> Tensor:
    """Numbers of order one in float64, the same in every process."""
    count = torch.Size(shape).numel()
    return torch.cos(torch.arange(1, count + 1, dtype=torch.float64) * 1.7).reshape(shape)
