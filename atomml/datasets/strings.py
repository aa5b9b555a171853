"""`PackedStrings`: a list of strings as one UTF-8 block and offsets, so that it can be memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import UInt8

from atomml.shapes import Int64, ndarray

__all__ = ["PackedStrings"]


class PackedStrings(Sequence[str]):
    """String i is ``data[offsets[i]:offsets[i+1]]`` in UTF-8."""

    def __init__(self, data: UInt8[ndarray, " bytes"], offsets: Int64[ndarray, " ends"]) -> None:
        self.data, self.offsets = data, offsets

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Copy ``strings`` into one block."""
        encoded = [s.encode("utf-8") for s in strings]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(s) for s in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _get(self, i: int) -> str:
        return bytes(self.data[self.offsets[i] : self.offsets[i + 1]]).decode("utf-8")

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self._get(k) for k in range(*i.indices(len(self)))]
        k = i + len(self) if i < 0 else i
        if not 0 <= k < len(self):
            raise IndexError(f"string {i} of {len(self)}")
        return self._get(k)

    def __iter__(self) -> Iterator[str]:
        return (self._get(i) for i in range(len(self)))

    def to_array(self) -> ndarray:
        """All strings as a numpy unicode array."""
        return np.array(list(self), dtype=np.str_)
