"""Which reader a path needs, and reading with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atomml.config import parse_config
from atomml.datasets.readers.reader import Reader
from atomml.datasets.store import FrameStore, concatenate
from atomml.errors import DataError

__all__ = ["all_readers", "choose_reader", "parse_options", "read_frames"]


def all_readers() -> tuple[Reader, ...]:
    """Every reader there is, the most specific first; imported here, so that nothing is at import."""
    return ()


def choose_reader(paths: Sequence[Path], name: str | None = None) -> Reader | None:
    """The reader called ``name``, or the first that recognises all paths; None if ASE has to try.

    Raises:
        DataError: an unknown name, a path that does not exist.
    """
    readers = all_readers()
    if name is not None:
        found = next((r for r in readers if r.name == name), None)
        if found is None:
            names = [r.name for r in readers]
            near = difflib.get_close_matches(name, names, n=1)
            raise DataError(
                f"There is no reader {name!r}.",
                fix=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}",
            )
        return found
    for path in paths:
        if not path.exists():
            raise DataError("The data file does not exist.", where=str(path), fix="check the path")
    return next((r for r in readers if all(r.recognises(path) for path in paths)), None)


def parse_options(reader: Reader, options: dict[str, Any]) -> Any:
    """The options of ``reader``, checked.

    Raises:
        ConfigError: an unknown key or a value of the wrong kind.
    """
    return parse_config(
        reader.options,
        options,
        where=f"options of the reader {reader.name}",
        fix="`atomml data formats` prints every option",
    )


def read_frames(
    paths: str | Path | Sequence[str | Path], reader: Reader | str | None = None, **options: Any
) -> FrameStore:
    """All frames of foreign files in memory; for more than memory use `convert`.

    Args:
        paths: files or folders.
        reader: found from the files if not given.
        **options: of the reader.

    Raises:
        DataError: no reader knows the files; whatever the reader finds wrong with them.
        ConfigError: an option that the reader does not have.
    """
    listed = [Path(p).expanduser() for p in ([paths] if isinstance(paths, str | Path) else paths)]
    chosen = reader if isinstance(reader, Reader) else choose_reader(listed, reader)
    if chosen is None:
        raise DataError(
            "No reader recognises these files.",
            where=", ".join(map(str, listed)),
            fix="name one of `atomml data formats`, or read them with ASE: `load_frames`",
        )
    parsed = parse_options(chosen, options)
    return concatenate([chosen.read(piece, parsed) for piece in chosen.pieces(listed, parsed)])
