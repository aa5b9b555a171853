"""Bounds on what a foreign pickle may contain."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PickleLimits"]


@dataclass(frozen=True)
class PickleLimits:
    """Bounds on one pickle. The defaults fit a record of a dataset with room to spare.

    Attributes:
        n_bytes: size of the pickle.
        n_opcodes: instructions in it, each of which can make an object of up to a hundred bytes. A pickle of
            plain values may have eight times as many, if so many are no lists or dicts.
        n_calls: objects that it builds from a name (tensors, arrays, `Data`).
        n_values: values of the result, those that occur twice counted twice.
        depth: levels of nesting.
        array_bytes: of all arrays together, beyond 16 times the size of the pickle: a tensor may repeat the
            elements of its storage.
    """

    n_bytes: int = 1 << 30
    n_opcodes: int = 1_000_000
    n_calls: int = 200_000
    n_values: int = 10_000_000
    depth: int = 100
    array_bytes: int = 1 << 24
