"""The folder of a `FrameStore`: ``header.json`` and one flat little-endian array per file.

Nothing in it is executable: no pickle, file names are fixed by the format, and every size is checked
against the header before a byte is used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from atomml.datasets.index import FrameIndex
from atomml.datasets.store import FrameStore
from atomml.datasets.strings import PackedStrings
from atomml.datasets.tags import MappedTags, TextColumn
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["FORMAT", "FORMAT_VERSION", "is_store", "open_store", "read_header"]

FORMAT, FORMAT_VERSION = "atomml-frames", 2
READABLE = (1, 2)  # version 1 has no index and no coded text
VERIFY_BELOW = 64 * 2**20
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "n_atoms": ("<i8", ()),
    "offsets": ("<i8", ()),
    "numbers": ("|u1", ()),
    "positions": ("<f8", (3,)),
    "cell": ("<f8", (3, 3)),
    "pbc": ("|b1", (3,)),
    "energy": ("<f8", ()),
    "forces": ("<f8", (3,)),
    "stress": ("<f8", (3, 3)),
}
OPTIONAL: dict[str, tuple[str, tuple[int, ...]]] = {"atom_tags": ("<i8", ()), "fixed": ("|b1", ())}
INDEX: dict[str, tuple[str, tuple[int, ...]]] = {"max_force": ("<f8", ()), "elements": ("|u1", (15,))}
PER_ATOM = ("numbers", "positions", "forces", "atom_tags", "fixed")
TAG_DTYPES = {"b": "|b1", "i": "<i8", "f": "<f8"}  # by numpy's kind


def is_store(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a header, ours or not."""
    return (Path(path) / "header.json").is_file()


def read_header(folder: str | Path) -> dict[str, Any]:
    """The checked header of a store.

    Raises:
        DataError: no header, broken JSON, another format or a newer version.
    """
    path = Path(folder) / "header.json"
    remedy = "make the store again with `atomml data convert SOURCE OUT`"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("This is not a frame store: it has no header.json.", where=str(folder)) from error
    except ValueError as error:
        raise DataError(f"The header is damaged ({error}).", where=str(path), fix=remedy) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(
            "The header is not one of a frame store.",
            where=str(path),
            fix="give the folder that `atomml data convert` wrote, or the original file",
        )
    if header.get("version") not in READABLE:
        raise DataError(
            f"The store has format version {header.get('version')}, this program reads {READABLE}.",
            where=str(path),
            fix="use the atomml that wrote it, or " + remedy,
        )
    return header


def open_store(folder: Path, *, verify: bool | None) -> FrameStore:
    """See `FrameStore.open`."""
    header = read_header(folder)
    try:
        return _open_columns(folder, header, verify)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"The header misses or garbles an entry ({type(error).__name__}: {error}).",
            where=str(folder / "header.json"),
            fix="make the store again with `atomml data convert SOURCE OUT`",
        ) from error


def _open_columns(folder: Path, header: dict[str, Any], verify: bool | None) -> FrameStore:
    n, total = int(header["frames"]), int(header["atoms"])
    arrays = header["arrays"]
    size = sum(path.stat().st_size for path in folder.glob("*.bin"))
    check = size < VERIFY_BELOW if verify is None else verify

    def column(name: str, dtype: str, shape: tuple[int, ...] | None) -> ndarray:
        entry = arrays[name]
        found = tuple(int(k) for k in entry["shape"])
        if entry["dtype"] != dtype or (shape is not None and found != shape):
            raise ValueError(f"{name} is {entry['dtype']} {found}, not {dtype} {shape}")
        return _map_array(folder / f"{name}.bin", dtype, found, entry["sha256"] if check else None)

    def strings(name: str, count: int | None) -> PackedStrings:
        ends = None if count is None else (count + 1,)
        packed = PackedStrings(column(f"{name}_text", "|u1", None), column(f"{name}_offsets", "<i8", ends))
        if packed.offsets.ndim != 1 or packed.offsets[0] != 0 or packed.offsets[-1] != len(packed.data):
            raise ValueError(f"{name}: offsets do not end at the text")
        return packed

    columns: dict[str, ndarray] = {}
    for name, (dtype, tail) in (COLUMNS | OPTIONAL).items():
        if name in COLUMNS or name in arrays:
            rows = total if name in PER_ATOM else n + (name == "offsets")
            columns[name] = column(name, dtype, (rows, *tail))
    if columns["offsets"][0] != 0 or columns["offsets"][-1] != total:
        raise ValueError("the offsets do not end at the number of atoms")
    tags: dict[str, ndarray | TextColumn] = {}
    for k, tag in enumerate(header["tags"]):
        name, title = f"tag_{k:03d}", str(tag["name"])
        if tag["text"]:
            coded = bool(tag.get("coded"))
            codes = column(f"{name}_codes", "<u2", (n,)) if coded else None
            tags[title] = TextColumn(strings(name, None if coded else n), codes)
        elif arrays[name]["dtype"] in TAG_DTYPES.values():
            tags[title] = column(name, arrays[name]["dtype"], (n,))
        else:
            raise ValueError(f"{name} has type {arrays[name]['dtype']}")
    store = FrameStore(
        **columns,
        ids=strings("ids", n),
        tags=MappedTags(tags),
        info=dict(header["info"]),
        folder=folder.resolve(),
    )
    # the header's value is what the checksums vouch for; hashing a large store again would read all of it
    store.__dict__["_fingerprint"] = str(header["fingerprint"])
    if "index_elements" in arrays:
        found = {name: column(f"index_{name}", dtype, (n, *tail)) for name, (dtype, tail) in INDEX.items()}
        edges = column("index_n_edges", "<i8", (n,)) if "index_n_edges" in arrays else None
        store.__dict__["index"] = FrameIndex(**found, n_edges=edges, edge_cutoff=header.get("edge_cutoff"))
    return store


def _map_array(path: Path, dtype: str, shape: tuple[int, ...], sha256: str | None) -> ndarray:
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    remedy = "copy the store again, or make it again with `atomml data convert SOURCE OUT`"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError("A column of the store is missing.", where=str(path), fix=remedy) from error
    if size != expected:
        raise DataError(
            f"The column is truncated or foreign: {size} bytes where the header says {expected}.",
            where=str(path),
            fix=remedy,
        )
    if expected == 0:
        return np.empty(shape, dtype=dtype)
    # a plain array on the mapping: slices of np.memmap cost several times as much
    data = np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape)).view(np.ndarray)
    if sha256 is not None and hashlib.sha256(data.reshape(-1).view(np.uint8).data).hexdigest() != sha256:
        raise DataError("The column was altered: its checksum is wrong.", where=str(path), fix=remedy)
    return data
