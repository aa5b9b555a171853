"""Fingerprints of single frames, to find out whether two sets share structures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from atomml.datasets.store import FrameStore
from atomml.shapes import Int64, ndarray

__all__ = ["frame_fingerprints"]

RESOLUTION = 1e-5  # Å; text files and binary stores of one frame agree to better than that


def frame_fingerprints(
    store: FrameStore, rows: Sequence[int] | Int64[ndarray, " rows"] | None = None
) -> Int64[ndarray, " rows"]:
    """64 bits of a hash of elements, positions and cell (to 1e-5 Å) of each frame; labels do not count.

    Two frames with one fingerprint are the same structure with its atoms in the same order. A structure that was
    moved, turned or sorted differently is not recognised.

    Args:
        store: the frames.
        rows: which; all by default.
    """
    chosen = range(len(store)) if rows is None else [int(row) for row in rows]
    out = np.empty(len(chosen), dtype=np.int64)
    for k, row in enumerate(chosen):
        atoms = store.atoms_of(row)
        digest = hashlib.blake2b(np.asarray(store.numbers[atoms]).tobytes(), digest_size=8)
        for lengths in (store.positions[atoms], store.cell[row]):
            digest.update(np.rint(np.asarray(lengths) / RESOLUTION).astype(np.int64).tobytes())
        out[k] = np.frombuffer(digest.digest(), dtype=np.int64)[0]
    return out
