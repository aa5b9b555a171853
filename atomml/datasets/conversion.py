"""Foreign files into a native store: in pieces, in parallel, resumable after a kill, with source hashes.

Pieces become small stores in ``.OUT.partial`` (complete or absent), then these are joined in
order. The bytes of the result do not depend on the number of processes, nor on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atomml.config import Config
from atomml.datasets.ase_files import as_paths
from atomml.datasets.conversion_info import merge_info
from atomml.datasets.conversion_worker import Job, Task, files_under, run_tasks
from atomml.datasets.readers import ase_any
from atomml.datasets.readers.choice import choose_reader, parse_options
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.store import FrameStore, concatenate
from atomml.datasets.store_files import is_store, read_header
from atomml.datasets.store_writer import check_output, write_parts
from atomml.errors import DataError
from atomml.files import replace_file

__all__ = ["Conversion", "convert", "verify_conversion"]

GROUP_BYTES, GROUP_PIECES = 4 * 2**20, 500  # of the source, in one intermediate store
SOURCES, PLAN = "sources.json", "plan.json"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        store: the result, mapped.
        pieces: number of pieces.
        resumed: tasks found complete from an interrupted run.
    """

    store: FrameStore
    pieces: int
    resumed: int


def convert(
    paths: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    reader: str | None = None,
    options: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    workers: int = 1,
    cutoff: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write the native store of foreign files.

    Args:
        paths: files or folders that one reader understands.
        out: folder of the store; it appears when complete. An interrupted conversion leaves
            ``.OUT.partial`` beside it, from which the same call goes on.
        reader: name of a reader; found from the files if not given.
        options: of the reader.
        notes: kept in the header: licence, level of theory.
        workers: processes; 1 reads in this one.
        cutoff: count the neighbours of every frame within this distance (Å), so that batches with an edge
            budget need no pass over the data.
        overwrite: replace a store at ``out``.
        progress: called with (pieces done, pieces, name of the last).

    Raises:
        DataError: whatever the reader finds, sources that change meanwhile, a result without frames.
        ConfigError: unknown options.
    """
    listed = as_paths(paths)
    folder = Path(out)
    if listed and all(is_store(path) for path in listed) and reader is None:
        check_output(folder, overwrite)
        return _join_stores(listed, folder, dict(notes or {}), overwrite)
    chosen = choose_reader(listed, reader)
    parsed = parse_options(chosen, dict(options or {}))
    plan = _plan(chosen, parsed, listed, cutoff)
    partial = folder.parent / f".{folder.name}.partial"
    if not _has_plan(partial, plan):
        check_output(folder, overwrite)
    tasks = _open_plan(plan, partial)
    todo = [task for task in tasks if not task.done()]
    if todo:
        check_output(folder, overwrite)
    finished = len(tasks) - len(todo)
    job = Job(chosen.name, parsed.model_dump(mode="json"), cutoff)
    for task in run_tasks(job, todo, workers):
        finished += 1
        if progress is not None:
            progress(finished, len(tasks), task.title)
    result = _result(plan, partial, notes or {})
    if not result.is_at(folder, cutoff):  # it is if an earlier run was killed just before its end
        extra = {SOURCES: result.sources}
        stores = _Stores(result.folders)
        write_parts(stores, result.info, folder, overwrite=overwrite, extra=extra, scratch=partial)
    shutil.rmtree(partial, ignore_errors=True)
    pieces = len(plan["pieces"])
    return Conversion(FrameStore.open(folder, verify=True), pieces, len(tasks) - len(todo))


def verify_conversion(out: Path | str, paths: Sequence[Path | str], *, parts: int, seed: int = 0) -> int:
    """Read some parts from the source again and compare every number with the store.

    Args:
        out: the store.
        paths: as they were given to `convert`.
        parts: how many; all if there are fewer.
        seed: of the choice.

    Returns:
        the number of frames compared.

    Raises:
        DataError: a part whose geometry or labels differ, or sources that are others than those converted.
    """
    import random

    store, listed = FrameStore.open(out, verify=True), as_paths(paths)
    record = json.loads((Path(out) / SOURCES).read_text(encoding="utf-8"))
    reader = choose_reader(listed, record["reader"])
    options = parse_options(reader, record["options"])
    work = reader.pieces(listed, options)
    if [_piece_name(p) for p in work] != [name for part in record["parts"] for name in part["pieces"]]:
        raise DataError("These are not the files the store was made from.", where=str(out))
    chosen = set(random.Random(seed).sample(range(len(record["parts"])), min(parts, len(record["parts"]))))
    compared = position = 0
    for k, part in enumerate(record["parts"]):
        mine = work[position : position + len(part["pieces"])]
        position += len(mine)
        if k not in chosen:
            continue
        first, count = part["first_frame"], part["frames"]
        again = concatenate([reader.read(piece, options) for piece in mine])
        if store.subset(range(first, first + count)).fingerprint() != again.fingerprint():
            raise DataError(
                "The store differs from its source.",
                where=f"{out}, frames {first} to {first + count - 1}, from {mine[0]} and what follows",
                fix="the source has changed or the store is damaged: convert again",
            )
        compared += count
    return compared


def _join_stores(paths: Sequence[Path], folder: Path, notes: dict[str, Any], overwrite: bool) -> Conversion:
    """Native stores as one: their columns are copied as they are."""
    infos = [FrameStore.open(path, verify=True).info for path in paths]
    info = {"parts": infos, **notes} if len(infos) > 1 else {**infos[0], **notes}
    write_parts(_Stores(paths), info, folder, overwrite=overwrite)
    return Conversion(FrameStore.open(folder, verify=True), len(paths), 0)


def _piece_name(piece: Piece) -> str:
    return f"{piece.path.name}|{piece.member}|{piece.start}|{piece.stop}"


def _plan(reader: Reader, options: Config, paths: Sequence[Path], cutoff: float | None) -> dict[str, Any]:
    pieces = reader.pieces(paths, options)
    if not pieces:
        raise DataError(f"The reader {reader.name} finds nothing to read here.", where=str(paths[0]))
    files = list(dict.fromkeys(piece.path for piece in pieces))
    states = [_file_state(path) for path in files]
    return {
        "reader": reader.name,
        "options": options.model_dump(mode="json"),
        "cutoff": cutoff,
        "files": states,
        "pieces": [
            {
                "path": str(p.path),
                "start": p.start,
                "stop": p.stop,
                "member": p.member,
                "first": p.first,
                "file_tag": len(files) > 1,
                "name": _piece_name(p),
            }
            for p in pieces
        ],
        "groups": _groups(pieces, dict(zip(files, (s["size"] for s in states), strict=True))),
    }


def _groups(pieces: Sequence[Piece], sizes: Mapping[Path, int]) -> list[tuple[int, int]]:
    """Ranges of pieces that are read and saved together: many small files make few intermediate stores."""
    share = Counter(piece.path for piece in pieces)
    groups, first, total = [], 0, 0.0
    for k, piece in enumerate(pieces):
        total += sizes[piece.path] / share[piece.path]
        if total >= GROUP_BYTES or k + 1 - first >= GROUP_PIECES:
            groups.append((first, k + 1))
            first, total = k + 1, 0.0
    return groups + ([(first, len(pieces))] if first < len(pieces) else [])


def _file_state(path: Path) -> dict[str, Any]:
    states = [file.stat() for file in files_under(path)]
    size, changed = sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)
    return {"path": str(path), "size": size, "mtime_ns": changed}


def _has_plan(partial: Path, plan: Mapping[str, Any]) -> bool:
    record = partial / PLAN
    return record.is_file() and record.read_bytes() == json.dumps(plan, indent=1).encode()


def _open_plan(plan: Mapping[str, Any], partial: Path) -> list[Task]:
    """The tasks of a plan, with what an earlier run of the same plan has done."""
    if not _has_plan(partial, plan):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        replace_file(partial / PLAN, json.dumps(plan, indent=1).encode())
    for rubbish in partial.glob(".*.tmp"):
        shutil.rmtree(rubbish, ignore_errors=True)
    hashes = [
        Task(f"hash of {Path(file['path']).name}", partial / f"file_{k:06d}.json", file=file)
        for k, file in enumerate(plan["files"])
    ]
    pieces = [
        Task(plan["pieces"][a]["name"].split("|")[0], partial / f"part_{k:06d}", pieces=plan["pieces"][a:b])
        for k, (a, b) in enumerate(plan["groups"])
    ]
    return pieces + hashes


class _Stores:
    """Stores opened one after another, every time anew, so that their files do not stay open."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    def __iter__(self) -> Iterator[FrameStore]:
        return (FrameStore.open(folder, verify=False) for folder in self.folders)


class _Result(NamedTuple):
    """What the store will say of itself, and the intermediate stores it is joined from."""

    info: dict[str, Any]
    sources: bytes
    folders: list[Path]

    def is_at(self, folder: Path, cutoff: float | None) -> bool:
        """Whether ``folder`` is this result already."""
        if not is_store(folder) or not (folder / SOURCES).is_file():
            return False
        header = read_header(folder)
        same = header["info"] == json.loads(json.dumps(self.info)) and header.get("edge_cutoff") == cutoff
        return same and (folder / SOURCES).read_bytes() == self.sources


def _result(plan: Mapping[str, Any], partial: Path, notes: Mapping[str, Any]) -> _Result:
    folders = [partial / f"part_{k:06d}" for k in range(len(plan["groups"]))]
    headers = [read_header(path) for path in folders]
    info = merge_info([header["info"] for header in headers])
    first, parts = 0, []
    for (a, b), header in zip(plan["groups"], headers, strict=True):
        names = [piece["name"] for piece in plan["pieces"][a:b]]
        parts.append({"pieces": names, "first_frame": first, "frames": header["frames"]})
        first += header["frames"]
    if first == 0:
        reasons = [f"{entry['frames']} × {reason}" for reason, entry in info.get("skipped", {}).items()]
        fix = "; ".join(reasons) or "check the files"
        raise DataError("No frame was read.", where=plan["pieces"][0]["path"], fix=fix)
    if plan["reader"] == ase_any.READER.name:
        ase_any.check_info(info, plan["options"], plan["pieces"][0]["path"])
    for file in plan["files"]:
        if _file_state(Path(file["path"])) != file:
            raise DataError("The file changed while it was converted.", where=file["path"], fix="start again")
    files = [json.loads((partial / f"file_{k:06d}.json").read_text()) for k in range(len(plan["files"]))]
    names = [Path(f["path"]).name for f in files]
    sources = {
        "reader": plan["reader"],
        "options": plan["options"],
        "files": [
            {"name": name, "size": f["size"], "sha256": f["sha256"]}
            for name, f in zip(names, files, strict=True)
        ],
        "parts": parts,
    }
    text = json.dumps(sources, indent=1, ensure_ascii=False).encode()
    info |= {
        "source": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        "reader": plan["reader"],
        "options": plan["options"],
        "sources_sha256": hashlib.sha256(text).hexdigest(),
        **notes,
    }
    return _Result(info, text, folders)
