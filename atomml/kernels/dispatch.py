"""Which implementation runs: a function of device and dtype, overridden inside a ``with use_kernel(...)``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from atomml.errors import UnsupportedError
from atomml.kernels import reference, torch_backend

__all__ = ["choose", "use_kernel"]

_MODULES: dict[str, ModuleType] = {"reference": reference, "torch": torch_backend}
_override: ContextVar[str | None] = ContextVar("atomml_kernel", default=None)


def choose() -> ModuleType:
    """The module whose ``conv``, ``conv_p``, ``conv_q``, ``conv_w`` run for the calling operator."""
    return _MODULES[_override.get() or "torch"]


@contextmanager
def use_kernel(backend: str) -> Iterator[None]:
    """Run every tensor product inside the block with ``backend``.

    Example:
        >>> with use_kernel("reference"):
        ...     pass

    Raises:
        UnsupportedError: there is no such backend.
    """
    if backend not in _MODULES:
        raise UnsupportedError(
            f"There is no kernel backend {backend!r}.", fix=f"choose one of {', '.join(_MODULES)}"
        )
    token = _override.set(backend)
    try:
        yield
    finally:
        _override.reset(token)
