"""`Journal`: rows and structures appended in blocks, each of which is on the disk whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import write_extxyz

from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.training.checkpoint import differences

__all__ = ["Journal"]

_VERSION = 1


class Journal:
    """``NAME.jsonl`` and ``NAME.extxyz`` of one folder, and ``NAME.state.json``, which says how much of them counts.

    A block is flushed to the disk before the state names it. What a kill leaves behind the last block is cut off when
    the work goes on.

    Args:
        folder: created if absent.
        name: of the files.
        settings: what decides the content; work goes on only with the same.
        resume: go on with what is there, if anything is.
        overwrite: discard what is there.

    Attributes:
        done: number of rows that are on the disk.

    Raises:
        ConfigError: there are results and neither ``resume`` nor ``overwrite``, or results of other settings.
        DataError: files that are shorter than they were, or cannot be written.
    """

    def __init__(
        self, folder: Path, name: str, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self.rows, self.frames = folder / f"{name}.jsonl", folder / f"{name}.extxyz"
        self._state = folder / f"{name}.state.json"
        self._settings = json.loads(json.dumps(settings))
        found = [path for path in (self._state, self.rows, self.frames) if path.exists()]
        if found and not (resume or overwrite):
            raise ConfigError(
                "The folder already has results.",
                where=str(found[0]),
                fix="--resume goes on with them, --overwrite discards them; or choose another folder",
            )
        if found and resume and not overwrite:
            self.done, sizes = self._read_state()
            for path, size in zip((self.rows, self.frames), sizes, strict=True):
                _cut(path, size)
            return
        self.done = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._state.unlink(missing_ok=True)  # first: without it nothing counts
            for path in (self.rows, self.frames):
                path.write_bytes(b"")
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._write_state([0, 0])

    def append(self, rows: Sequence[Mapping[str, Any]], frames: Sequence[Atoms]) -> None:
        """Add a block of rows and of structures, not necessarily as many.

        Raises:
            DataError: it cannot be written; what was there before counts as before.
        """
        text = io.StringIO()
        write_extxyz(text, list(frames))
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        try:
            sizes = [_append(path, s) for path, s in ((self.rows, lines), (self.frames, text.getvalue()))]
        except OSError as error:
            raise _unwritable(self.rows.parent, error) from error
        self.done += len(rows)
        self._write_state(sizes)

    def _write_state(self, sizes: Sequence[int]) -> None:
        state = {"version": _VERSION, "done": self.done, "bytes": list(sizes), "settings": self._settings}
        write_atomically(self._state, json.dumps(state, indent=1).encode())

    def _read_state(self) -> tuple[int, list[int]]:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            done, sizes, settings, version = (state[k] for k in ("done", "bytes", "settings", "version"))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"It is not known how far these results go ({type(error).__name__}: {error}).",
                where=str(self._state),
                fix="--overwrite starts again",
            ) from error
        if version != _VERSION:
            raise DataError(
                f"The results are of version {version}, this atomml writes {_VERSION}.",
                where=str(self._state),
                fix="go on with the version that started them, or --overwrite",
            )
        changed = differences(settings, self._settings)
        if changed:
            raise ConfigError(
                "These results were made with other settings: "
                + "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
                + ".",
                where=str(self._state.parent),
                fix="give the same settings, choose another folder, or --overwrite",
            )
        return int(done), [int(size) for size in sizes]


def _append(path: Path, text: str) -> int:
    """Flush ``text`` to the disk behind the rest; returns the size of the file."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _cut(path: Path, size: int) -> None:
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise DataError(
            f"The file has {found} bytes, but {size} were written.",
            where=str(path),
            fix="restore the file, or start again with --overwrite",
        )
    os.truncate(path, size)


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"Cannot write results ({error.strerror}).",
        where=str(folder),
        fix="free some space or choose another folder; --resume keeps what is finished",
    )
