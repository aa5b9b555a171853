"""Writing a store: the columns of one or many parts, streamed, checksummed, renamed when complete.

Nothing is read into memory at once but one column of one part, so the result may be larger than memory. The
bytes depend on the parts and their order only.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomml._version import __version__
from atomml.datasets.store import FrameStore, fingerprint_digest
from atomml.datasets.store_files import COLUMNS, FORMAT, FORMAT_VERSION, INDEX, OPTIONAL, TAG_DTYPES, is_store
from atomml.datasets.strings import PackedStrings
from atomml.datasets.tags import tag_text, text_words
from atomml.errors import DataError
from atomml.files import sync_folder
from atomml.shapes import ndarray

__all__ = ["MAX_WORDS", "check_output", "save_store", "write_parts"]

MAX_WORDS = 2**16  # distinct texts of a tag that is written as 2-byte codes


def save_store(store: FrameStore, folder: Path, *, overwrite: bool) -> Path:
    """See `FrameStore.save`."""
    return write_parts([store], store.info, folder, overwrite=overwrite)


def write_parts(
    parts: Iterable[FrameStore],
    info: Mapping[str, Any],
    folder: Path,
    *,
    overwrite: bool,
    extra: Mapping[str, bytes] | None = None,
    scratch: Path | None = None,
) -> Path:
    """One store that holds the frames of all ``parts`` in order.

    Args:
        parts: can be iterated any number of times: once per column, so that files need not stay open.
        info: of the new store.
        folder: where it appears when complete.
        overwrite: replace a store that is there.
        extra: further files to lay beside the columns.
        scratch: existing folder of the same file system to write in; beside ``folder`` by default.

    Raises:
        DataError: the folder exists, the info is not JSON, or the disk refuses (full, read-only).
    """
    check_output(folder, overwrite)
    try:
        json.dumps(info)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The info of the data set cannot be written as JSON ({error}).",
            where=str(folder),
            fix="keep text, numbers, lists and dictionaries in info",
        ) from error
    temporary = (scratch or folder.parent) / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        for name, data in (extra or {}).items():
            _write_bytes(temporary / name, data)
        _write_all(parts, info, temporary)
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


def check_output(folder: Path, overwrite: bool) -> None:
    """Refuse to write over what must stay.

    Raises:
        DataError: the folder exists and ``overwrite`` is false, or it is not a store.
    """
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


def _replace_folder(temporary: Path, folder: Path) -> None:
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write_bytes(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_all(parts: Iterable[FrameStore], info: Mapping[str, Any], folder: Path) -> None:
    arrays: dict[str, dict[str, Any]] = {}
    digest = fingerprint_digest()

    def write(name: str, chunks: Iterable[ndarray], dtype: str, tail: tuple[int, ...], *more: Any) -> None:
        arrays[name] = _write_array(folder / f"{name}.bin", chunks, dtype, tail, more)

    facts = [_facts(part) for part in parts]
    for name, (dtype, tail) in COLUMNS.items():
        if name == "offsets":
            write(name, _offsets(parts), dtype, tail)
        else:
            write(name, (getattr(part, name) for part in parts), dtype, tail, digest)
    for name, (dtype, tail) in OPTIONAL.items():
        if any(name in fact["optional"] for fact in facts):
            write(name, _filled(parts, name), dtype, tail)
    for name, (dtype, tail) in INDEX.items():
        write(f"index_{name}", (getattr(part.index, name) for part in parts), dtype, tail)
    cutoffs = {fact["edge_cutoff"] for fact in facts if fact["frames"]}
    edge_cutoff = cutoffs.pop() if len(cutoffs) == 1 else None
    if edge_cutoff is not None:
        write("index_n_edges", (p.index.n_edges for p in parts if p.index.n_edges is not None), "<i8", ())
    write("ids_text", (part.ids.data for part in parts), "|u1", ())
    write("ids_offsets", _string_offsets(part.ids for part in parts), "<i8", ())
    tags = []
    for k, name in enumerate(dict.fromkeys(name for fact in facts for name in fact["tags"])):
        tags.append({"name": name, **_write_tag(parts, facts, name, f"tag_{k:03d}", write)})
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "written_by": f"atomml {__version__}",
        "frames": sum(fact["frames"] for fact in facts),
        "atoms": sum(fact["atoms"] for fact in facts),
        "labels": {
            label: sum(fact["labels"][label] for fact in facts) for label in ("energy", "forces", "stress")
        },
        "fingerprint": digest.hexdigest(),
        "edge_cutoff": edge_cutoff,
        "info": dict(info),
        "tags": tags,
        "arrays": arrays,
    }
    _write_bytes(folder / "header.json", json.dumps(header, indent=1, ensure_ascii=False).encode())
    sync_folder(folder)


def _facts(part: FrameStore) -> dict[str, Any]:
    return {
        "frames": len(part),
        "atoms": len(part.numbers),
        "labels": part.label_counts(),
        "optional": {name for name in OPTIONAL if getattr(part, name) is not None},
        "edge_cutoff": part.index.edge_cutoff,
        "tags": {name: column.dtype.kind for name, column in part.tags.items()} if len(part) else {},
    }


def _write_array(
    path: Path, chunks: Iterable[ndarray], dtype: str, tail: tuple[int, ...], digests: Sequence[Any]
) -> dict[str, Any]:
    rows, checksum = 0, hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in chunks:
            if not len(chunk):
                continue
            raw = np.ascontiguousarray(chunk, dtype=np.dtype(dtype)).reshape(-1).view(np.uint8).data
            rows += len(chunk)
            file.write(raw)
            for digest in (checksum, *digests):
                digest.update(raw)
        file.flush()
        os.fsync(file.fileno())
    return {"dtype": dtype, "shape": [rows, *tail], "sha256": checksum.hexdigest()}


def _offsets(parts: Iterable[FrameStore]) -> Iterator[ndarray]:
    yield np.zeros(1, dtype=np.int64)
    total = 0
    for part in parts:
        yield np.asarray(part.offsets[1:]) + total
        total += int(part.offsets[-1])


def _string_offsets(strings: Iterable[PackedStrings]) -> Iterator[ndarray]:
    yield np.zeros(1, dtype=np.int64)
    total = 0
    for packed in strings:
        yield np.asarray(packed.offsets[1:]) + total
        total += int(packed.offsets[-1])


def _filled(parts: Iterable[FrameStore], name: str) -> Iterator[ndarray]:
    """An optional per-atom column; zeros in the parts that lack it."""
    for part in parts:
        column = getattr(part, name)
        yield np.zeros(len(part.numbers), dtype=np.int64) if column is None else column


def _write_tag(
    parts: Iterable[FrameStore], facts: Sequence[Mapping[str, Any]], name: str, file: str, write: Any
) -> dict[str, bool]:
    """One tag of all parts: text if it is text in any, a number with NaN where a part lacks it."""
    kinds = {fact["tags"].get(name) for fact in facts if fact["frames"]}
    if "U" not in kinds:
        kind = "f" if None in kinds or "f" in kinds else "i" if "i" in kinds else "b"
        write(file, (_numbers(part, name) for part in parts), TAG_DTYPES[kind], ())
        return {"text": False, "coded": False}
    words = _vocabulary(parts, name)
    if words is None:
        write(f"{file}_text", (PackedStrings.pack(_text(part, name)).data for part in parts), "|u1", ())
        packed = (PackedStrings.pack(_text(part, name)) for part in parts)
        write(f"{file}_offsets", _string_offsets(packed), "<i8", ())
        return {"text": True, "coded": False}
    vocabulary = PackedStrings.pack(words)
    write(f"{file}_text", [vocabulary.data], "|u1", ())
    write(f"{file}_offsets", [vocabulary.offsets], "<i8", ())
    write(f"{file}_codes", (_codes(part, name, words) for part in parts), "<u2", ())
    return {"text": True, "coded": True}


def _numbers(part: FrameStore, name: str) -> ndarray:
    return part.tags[name] if name in part.tags else np.full(len(part), np.nan)


def _text(part: FrameStore, name: str) -> ndarray:
    return tag_text(part.tags.get(name), len(part))


def _vocabulary(parts: Iterable[FrameStore], name: str) -> dict[str, int] | None:
    """Code of every distinct text in order of first appearance; None if there are too many."""
    words: dict[str, int] = {}
    for part in parts:
        for word in text_words(_text(part, name))[0]:
            words.setdefault(word, len(words))
        if len(words) > MAX_WORDS:
            return None
    return words


def _codes(part: FrameStore, name: str, words: Mapping[str, int]) -> ndarray:
    mine, codes = text_words(_text(part, name))
    return np.array([words[word] for word in mine], dtype=np.uint16)[codes] if mine else codes
