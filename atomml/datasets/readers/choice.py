"""Which reader a path needs, and reading with it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atomml.config import parse_config
from atomml.datasets.ase_files import as_paths, with_file_tag
from atomml.datasets.readers.reader import Reader
from atomml.datasets.store import FrameStore, concatenate
from atomml.datasets.store_files import is_store
from atomml.errors import DataError

__all__ = ["all_readers", "choose_reader", "load_frames", "parse_options", "read_frames"]

Paths = str | Path | Sequence[str | Path]


def all_readers() -> tuple[Reader, ...]:
    """Every reader there is, the most specific first; imported here, so that nothing is at import."""
    from atomml.datasets.readers import ase_any, deepmd, dict_lmdb, n2p2
    from atomml.datasets.readers.aselmdb import reader as aselmdb
    from atomml.datasets.readers.crystals import cif_files, csv_files
    from atomml.datasets.readers.documents import matpes, mlearn, mptrj
    from atomml.datasets.readers.hdf5 import configurations, molecules
    from atomml.datasets.readers.oc20 import lmdb_shards, raw
    from atomml.datasets.readers.parquet import reader as parquet
    from atomml.datasets.readers.pubchemqcr import reader as pubchemqcr

    return (
        raw.READER,
        pubchemqcr.READER,
        lmdb_shards.READER,
        dict_lmdb.READER,
        lmdb_shards.PICKLE_READER,
        aselmdb.READER,
        parquet.READER,
        mptrj.READER,
        matpes.READER,
        mlearn.READER,
        mlearn.ALIGNN_READER,
        molecules.SPICE_READER,
        configurations.MACE_READER,
        configurations.MLIP_READER,
        deepmd.READER,
        n2p2.READER,
        csv_files.READER,
        cif_files.READER,
        ase_any.READER,
    )


def choose_reader(paths: Sequence[Path], name: str | None = None) -> Reader:
    """The reader called ``name``, or the first that recognises all paths.

    Raises:
        DataError: an unknown name, a path that does not exist, no reader for all paths.
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
    if not paths:
        raise DataError("No data file was given.", fix="give at least one path")
    for path in paths:
        if not path.exists():
            raise DataError("The data file does not exist.", where=str(path), fix="check the path")
        if is_store(path):
            raise DataError("This is a native store already.", where=str(path), fix="use it as it is")
    chosen = next((r for r in readers if all(r.recognises(path) for path in paths)), None)
    if chosen is None:
        raise DataError(
            "No reader recognises these files together.",
            where=", ".join(map(str, paths[:3])) + (" ..." if len(paths) > 3 else ""),
            fix="name one with --reader (`atomml data formats` lists them), or read them separately",
        )
    return chosen


def parse_options(reader: Reader, options: Mapping[str, Any]) -> Any:
    """The options of ``reader``, checked.

    Raises:
        ConfigError: an unknown key or a value of the wrong kind.
    """
    return parse_config(
        reader.options,
        options,
        where=f"options of the reader {reader.name}",
        fix=f"`atomml data formats {reader.name}` prints every option",
    )


def read_frames(paths: Paths, reader: Reader | str | None = None, **options: Any) -> FrameStore:
    """All frames of foreign files in memory; for more than memory use `convert`.

    Args:
        paths: files or folders. With several files the tag ``file`` says where a frame came from.
        reader: found from the files if not given.
        **options: of the reader.

    Raises:
        DataError: no reader knows the files; whatever the reader finds wrong with them.
        ConfigError: an option that the reader does not have.
    """
    listed = as_paths(paths)
    chosen = reader if isinstance(reader, Reader) else choose_reader(listed, reader)
    parsed = parse_options(chosen, options)
    pieces = chosen.pieces(listed, parsed)
    several = len({piece.path for piece in pieces}) > 1
    parts = [chosen.read(piece, parsed) for piece in pieces]
    if several:
        parts = [with_file_tag(part, str(p.path)) for part, p in zip(parts, pieces, strict=True)]
    return concatenate(parts)


def load_frames(
    paths: Paths, *, reader: str | None = None, require_energy: bool = True, **options: Any
) -> FrameStore:
    """Open native stores (folders) or read files of any kind; several are joined in order.

    Args:
        paths: one path or several.
        reader: name of a reader; found for each path if not given.
        require_energy: refuse foreign files in which no frame has an energy.
        **options: of the readers; they do not apply to native stores, which know their units. An option of
            the reader "ase" at its default is no matter for other readers.

    Raises:
        DataError: see `read_frames` and `FrameStore.open`.
    """
    from atomml.datasets.readers.ase_any import AseOptions

    listed = as_paths(paths)
    usual = {name: field.default for name, field in AseOptions.model_fields.items()}
    parts = []
    for path in listed:
        if is_store(path):
            parts.append(FrameStore.open(path))
            continue
        chosen = choose_reader([path], reader)
        known = chosen.options.model_fields
        given = {k: v for k, v in options.items() if k in known or usual.get(k, ...) != v}
        if "require_energy" in known:
            given["require_energy"] = require_energy
        store = read_frames(path, chosen, **given)
        if require_energy and not store.label_counts()["energy"]:
            raise DataError(
                f"None of the {len(store)} frames has an energy.", where=str(path), fix="check the options"
            )
        parts.append(store)
    if len(parts) == 1:
        return parts[0]
    return concatenate([with_file_tag(part, str(p)) for part, p in zip(parts, listed, strict=True)])
