"""A backend against the reference on a tiny graph: the last guard between a broken build and a wrong force."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import reference
from atomml.shapes import Tensor

__all__ = ["self_check", "tiny_graph"]

_GROUPS = (2, 3)
_CHANNELS = 19  # a full vector and a tail for every width of the vectors


def self_check(backend: ModuleType, device: str, dtype: torch.dtype) -> str | None:
    """What is wrong with ``backend``, in words; None if all its kernels agree with the reference in float64."""
    index = EdgeIndex(*(part.to(device) for part in tiny_graph()))
    n, e, r = len(index.row_ptr) - 1, len(index.neighbor), sum(_GROUPS)
    p, s = _numbers(n, r, _CHANNELS), _numbers(n, r, _CHANNELS).flip(0)
    q, w = _numbers(e, r), _numbers(e, len(_GROUPS), _CHANNELS)
    cases = {
        "conv": (p, q, w),
        "conv_p": (s, q, w),
        "conv_q": (p, s, w),
        "conv_w": (p, q, s),
        "conv_qw": (p, q, w, s),
    }
    for name, operands in cases.items():
        problem = _compare(backend, name, operands, (index, list(_GROUPS)), device, dtype)
        if problem:
            return problem
    return _compare(backend, "mix", (_numbers(r, 4), _numbers(n, 4, _CHANNELS)), (), device, dtype)


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
    except (AtommlError, RuntimeError, OSError, AttributeError) as error:
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
