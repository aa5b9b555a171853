"""The units of work of a conversion, in this process or in several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from atomml.datasets.ase_files import with_file_tag
from atomml.datasets.conversion_info import merge_info
from atomml.datasets.index import count_edges
from atomml.datasets.readers.choice import choose_reader, parse_options
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.store import FrameStore, concatenate
from atomml.errors import DataError
from atomml.files import replace_file
from atomml.processes import completed, worker_pool

__all__ = ["Job", "Task", "files_under", "run_tasks"]

AHEAD = 4  # tasks handed out per process before the first returns
BLOCK = 2**22


class Job(NamedTuple):
    """What all pieces have in common."""

    reader: str
    options: dict[str, Any]
    cutoff: float | None


@dataclass(frozen=True)
class Task:
    """One file to hash or some pieces to read; complete when ``out`` exists.

    Attributes:
        title: for the progress bar.
        out: a JSON file or the folder of a store.
        file, pieces: what to do, as in the plan.
    """

    title: str
    out: Path
    file: Mapping[str, Any] | None = None
    pieces: Sequence[Mapping[str, Any]] = ()

    def done(self) -> bool:
        """Whether an earlier run has completed it."""
        return self.out.exists()


def files_under(path: Path) -> list[Path]:
    """The file itself, or all files of a folder in the order of their names."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def run_tasks(job: Job, tasks: Sequence[Task], workers: int) -> Iterator[Task]:
    """Tasks as they complete; the first error stops the rest.

    Raises:
        DataError: of a reader; or a worker process that died.
    """
    if workers <= 1 or len(tasks) < 2:
        for task in tasks:
            _run(job, task)
            yield task
        return
    with worker_pool(min(workers, len(tasks))) as pool:
        try:
            yield from completed(pool, partial(_run, job), tasks, ahead=AHEAD * workers, died=_died)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _died(task: Task) -> DataError:
    return DataError(
        "A reading process died (out of memory, or killed).",
        where=task.title,
        fix="run the same command again, it goes on where it stopped; use fewer workers if memory is short",
    )


def _run(job: Job, task: Task) -> None:
    if task.file is not None:
        digest = hashlib.sha256()
        for path in files_under(Path(task.file["path"])):
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        replace_file(task.out, json.dumps({**task.file, "sha256": digest.hexdigest()}).encode())
        return
    reader = choose_reader([], job.reader)
    options = parse_options(reader, job.options)
    store = _concatenated([_read(reader, piece, options) for piece in task.pieces])
    if job.cutoff is not None:
        index = replace(store.index, n_edges=count_edges(store, job.cutoff), edge_cutoff=job.cutoff)
        store.__dict__["index"] = index
    store.save(task.out)


def _read(reader: Reader, piece: Mapping[str, Any], options: Any) -> FrameStore:
    where = Piece(Path(piece["path"]), piece["start"], piece["stop"], piece["member"], piece["first"])
    store = reader.read(where, options)
    return with_file_tag(store, piece["path"]) if piece["file_tag"] else store


def _concatenated(parts: Sequence[FrameStore]) -> FrameStore:
    return replace(concatenate(parts), info=merge_info([part.info for part in parts]))
