"""Which implementation runs: a function of device and dtype, overridden inside a ``with use_kernel(...)``.

| device | dtype | backend |
|---|---|---|
| CPU | float32, float64 | ``cpu``, where the package was installed with a C++ compiler |
| CUDA | float16 to float64 | ``triton``, where it is installed |
| any other | any | ``torch`` |

Each fast backend is checked against the reference on a tiny graph before its first use in a process; one that
fails is reported and not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

from atomml.errors import UnsupportedError
from atomml.kernels import cpu, reference, torch_backend
from atomml.kernels.cpu.library import HOW_TO_BUILD, library
from atomml.kernels.self_check import self_check
from atomml.shapes import Tensor

__all__ = ["BACKENDS", "backend_for", "choose", "use_kernel"]

BACKENDS = ("reference", "torch", "cpu", "triton")
"""Names of the backends: plain equations, blocked torch, native C++, Triton."""

_override: ContextVar[str | None] = ContextVar("atomml_kernel", default=None)


def choose(x: Tensor) -> ModuleType:
    """The module whose kernels run for an operator on ``x``."""
    return _module(_override.get() or backend_for(x.device.type, x.dtype))


@cache
def backend_for(device: str, dtype: torch.dtype) -> str:
    """Name of the fastest backend that works for a device ("cpu", "cuda") and a dtype."""
    wanted = "torch"
    if device == "cpu" and dtype in (torch.float32, torch.float64):
        wanted = "cpu"
        if library() is None:
            _warn(
                f"The native CPU kernels were not built; computing with torch, slower. To do: {HOW_TO_BUILD}."
            )
            return "torch"
    elif device == "cuda" and find_spec("triton") is not None:
        wanted = "triton"
    if wanted == "torch":
        return wanted
    problem = self_check(_module(wanted), device, dtype)
    if problem is None:
        return wanted
    _warn(f"The {wanted} kernels fail their self-check ({problem}); computing with torch, slower.")
    return "torch"


@contextmanager
def use_kernel(backend: str) -> Iterator[None]:
    """Run every tensor product inside the block with ``backend``, one of `BACKENDS`.

    Example:
        >>> with use_kernel("reference"):
        ...     pass

    Raises:
        UnsupportedError: there is no such backend, or it is not installed.
    """
    if backend not in BACKENDS:
        raise UnsupportedError(
            f"There is no kernel backend {backend!r}.", fix=f"choose one of {', '.join(BACKENDS)}"
        )
    if backend == "cpu" and library() is None:
        raise UnsupportedError("The native CPU kernels were not built.", fix=HOW_TO_BUILD)
    if backend == "triton" and find_spec("triton") is None:
        raise UnsupportedError("Triton is not installed.", fix="pip install 'atomml[gpu]'")
    token = _override.set(backend)
    try:
        yield
    finally:
        _override.reset(token)


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from atomml.kernels import triton  # only where it is used: the package is optional

        return triton
    return {"reference": reference, "torch": torch_backend, "cpu": cpu}[backend]


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
