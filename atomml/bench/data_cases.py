"""The same frames in several file formats, and one case for each way of getting a frame out of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from atomml._optional import installed
from atomml.datasets import FrameStore, read_frames
from atomml.datasets.readers import Reader

__all__ = ["Access", "data_cases"]

LEGACY_FRAMES = 200


@dataclass(frozen=True)
class Access:
    """A `Case`: ``run`` reads ``frames`` frames."""

    name: str
    frames: int
    run: Callable[[], Any]

    def seconds(self, count: int) -> float:
        """Seconds of ``count`` runs."""
        start = time.perf_counter()
        for _ in range(count):
            self.run()
        return time.perf_counter() - start


def data_cases(store: FrameStore, folder: Path, database: Path | None = None, seed: int = 0) -> list[Access]:
    """Write ``store`` to ``folder`` in every format, and the accesses to measure.

    ``database`` is an ``.aselmdb`` file with the same frames, if there is one. ASE's database backend
    (``ase-db-backends``) is left out where it is not installed.
    """
    order = np.random.default_rng(seed).permutation(len(store)).tolist()
    native = FrameStore.open(store.save(folder / "native"))
    frames = [store[i] for i in range(len(store))]
    text = folder / "frames.extxyz"
    ase.io.write(text, frames)
    cases = [
        Access("native store, random frames", len(store), lambda: [native.frame(i) for i in order]),
        Access("native store, random ase.Atoms", len(store), lambda: [native[i] for i in order]),
        Access("ASE, extxyz in sequence", len(store), lambda: ase.io.read(text, ":")),
        *_legacy(store, folder),
    ]
    if installed("ase_db_backends"):
        cases += _aselmdb(database or _write_aselmdb(frames, folder / "frames.aselmdb"), order)
    return cases


def _all(path: Path, reader: Reader) -> Callable[[], FrameStore]:
    return lambda: read_frames(path, reader)


def _write_aselmdb(frames: list[Any], path: Path) -> Path:
    from ase.db import connect

    with connect(path, type="aselmdb") as database:
        for atoms in frames:
            database.write(atoms)
    return path


def _aselmdb(path: Path, order: list[int]) -> list[Access]:
    from ase.db import connect

    from atomml.datasets.readers.aselmdb.reader import READER, iterate_rows

    opened = connect(path, type="aselmdb", readonly=True)
    ids = [opened.ids[i] for i in order]

    def theirs() -> None:
        for i in ids:
            opened._get_row(i).toatoms()

    return [
        Access("ase-db-backends, random rows", len(ids), theirs),
        Access("atomml, aselmdb rows", len(ids), lambda: list(iterate_rows(path))),
        Access("atomml, aselmdb into a store", len(ids), _all(path, READER)),
    ]


def _legacy(store: FrameStore, folder: Path) -> list[Access]:
    """Pickled PyG objects in LMDB, as OC20 has them."""
    from pickle import dumps

    import lmdb
    import torch
    from torch_geometric.data import Data

    from atomml.datasets.readers.oc20.lmdb_shards import READER

    count = min(LEGACY_FRAMES, len(store))
    path = folder / "frames.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=2**30) as database, database.begin(write=True) as write:
        for i in range(count):
            frame = store.frame(i)
            value = Data(
                pos=torch.tensor(frame.positions, dtype=torch.float32),
                cell=torch.tensor(frame.cell, dtype=torch.float32)[None],
                atomic_numbers=torch.tensor(frame.numbers, dtype=torch.float32),
                natoms=len(frame.numbers),
                tags=torch.zeros(len(frame.numbers), dtype=torch.long),
                fixed=torch.zeros(len(frame.numbers)),
                y=frame.energy,
                force=torch.tensor(frame.forces, dtype=torch.float32),
                sid=i,
                fid=0,
            )
            write.put(str(i).encode(), dumps(value, protocol=4))
    return [Access("atomml, pickles of PyG", count, _all(path, READER))]
