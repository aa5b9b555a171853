"""The folder of a `FrameStore`: ``header.json`` and one flat little-endian array per file.

Nothing in it is executable: no pickle, file names are fixed by the format, and every size is checked
against the header before a byte is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from atomml._version import __version__
from atomml.datasets.store import FrameStore
from atomml.datasets.strings import PackedStrings
from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["FORMAT", "FORMAT_VERSION", "is_store", "open_store", "read_header", "save_store"]

FORMAT, FORMAT_VERSION = "atomml-frames", 1
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
PER_ATOM = ("numbers", "positions", "forces", "atom_tags", "fixed")
TAG_DTYPES = ("<i8", "<f8", "|b1")


def is_store(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a header, ours or not."""
    return (Path(path) / "header.json").is_file()


def save_store(store: FrameStore, folder: Path, *, overwrite: bool) -> Path:
    """See `FrameStore.save`."""
    if folder.exists() and not overwrite:
        raise DataError(
            "The output folder exists already.", where=str(folder), fix="choose another name or overwrite"
        )
    if folder.exists() and not is_store(folder):
        raise DataError(
            "The output exists and is not a frame store, so it is not replaced.",
            where=str(folder),
            fix="choose another name",
        )
    try:
        json.dumps(store.info)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The info of the data set cannot be written as JSON ({error}).",
            where=str(folder),
            fix="keep text, numbers, lists and dictionaries in info",
        ) from error
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        _write_all(store, temporary)
        _replace_folder(temporary, folder)
    except OSError as error:
        raise DataError(
            f"The data set could not be written ({error.strerror or error}).",
            where=str(folder),
            fix="free some space or choose another disk; what was there before is untouched",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _replace_folder(temporary: Path, folder: Path) -> None:
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(store: FrameStore, folder: Path) -> None:
    arrays: dict[str, dict[str, Any]] = {}

    def write(name: str, array: ndarray, dtype: str) -> None:
        arrays[name] = _write_array(folder / f"{name}.bin", array, dtype)

    for name, (dtype, _) in (COLUMNS | OPTIONAL).items():
        if getattr(store, name) is not None:
            write(name, getattr(store, name), dtype)
    write("ids_text", store.ids.data, "|u1")
    write("ids_offsets", store.ids.offsets, "<i8")
    tags = []
    for k, (name, column) in enumerate(store.tags.items()):
        tags.append({"name": name, "text": column.dtype.kind == "U"})
        if column.dtype.kind == "U":
            packed = PackedStrings.pack(str(s) for s in column)
            write(f"tag_{k:03d}_text", packed.data, "|u1")
            write(f"tag_{k:03d}_offsets", packed.offsets, "<i8")
        else:
            write(f"tag_{k:03d}", column, {"b": "|b1", "i": "<i8", "f": "<f8"}[column.dtype.kind])
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "written_by": f"atomml {__version__}",
        "frames": len(store),
        "atoms": len(store.numbers),
        "labels": store.label_counts(),
        "fingerprint": store.fingerprint(),
        "info": store.info,
        "tags": tags,
        "arrays": arrays,
    }
    with open(folder / "header.json", "w", encoding="utf-8") as file:
        json.dump(header, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _write_array(path: Path, array: ndarray, dtype: str) -> dict[str, Any]:
    data = np.ascontiguousarray(array, dtype=np.dtype(dtype))
    raw = data.reshape(-1).view(np.uint8).data
    with open(path, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return {"dtype": dtype, "shape": list(array.shape), "sha256": hashlib.sha256(raw).hexdigest()}


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
    if header.get("version") != FORMAT_VERSION:
        raise DataError(
            f"The store has format version {header.get('version')}, this program reads {FORMAT_VERSION}.",
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

    def strings(name: str) -> PackedStrings:
        packed = PackedStrings(
            column(f"{name}_text", "|u1", None), column(f"{name}_offsets", "<i8", (n + 1,))
        )
        if packed.offsets[0] != 0 or packed.offsets[-1] != len(packed.data):
            raise ValueError(f"{name}: offsets do not end at the text")
        return packed

    columns: dict[str, ndarray] = {}
    for name, (dtype, tail) in (COLUMNS | OPTIONAL).items():
        if name in COLUMNS or name in arrays:
            rows = total if name in PER_ATOM else n + (name == "offsets")
            columns[name] = column(name, dtype, (rows, *tail))
    if columns["offsets"][0] != 0 or columns["offsets"][-1] != total:
        raise ValueError("the offsets do not end at the number of atoms")
    tags: dict[str, ndarray] = {}
    for k, tag in enumerate(header["tags"]):
        name = f"tag_{k:03d}"
        if tag["text"]:
            tags[str(tag["name"])] = strings(name).to_array()
        elif arrays[name]["dtype"] in TAG_DTYPES:
            tags[str(tag["name"])] = column(name, arrays[name]["dtype"], (n,))
        else:
            raise ValueError(f"{name} has type {arrays[name]['dtype']}")
    store = FrameStore(
        **columns, ids=strings("ids"), tags=tags, info=dict(header["info"]), folder=folder.resolve()
    )
    # the header's value is what the checksums vouch for; hashing a large store again would read all of it
    store.__dict__["_fingerprint"] = str(header["fingerprint"])
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
    data = np.memmap(path, dtype=dtype, mode="r", shape=shape)
    if sha256 is not None and hashlib.sha256(data.reshape(-1).view(np.uint8).data).hexdigest() != sha256:
        raise DataError("The column was altered: its checksum is wrong.", where=str(path), fix=remedy)
    return data
