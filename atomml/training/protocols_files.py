"""Prediction files for the OC20 and OC22 leaderboards: one ``.npz`` with the arrays of every split."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from atomml.datasets import FrameStore
from atomml.errors import ConfigError, DataError
from atomml.files import replace_file
from atomml.shapes import Bool, Float64, Int64, ndarray

__all__ = ["SplitName", "read_predictions", "require_split", "submission_ids", "write_predictions"]

SplitName = Literal["id", "ood", "ood_ads", "ood_cat", "ood_both"]
SPLITS = get_args(SplitName)
SUFFIXES = ("ids", "energy", "forces", "chunk_idx")


def require_split(name: str) -> SplitName:
    """``name`` if it is a split of OC20 (id, ood_ads, ood_cat, ood_both) or OC22 (id, ood).

    Raises:
        ConfigError: it is none.
    """
    for split in SPLITS:
        if name == split:
            return split  # type: ignore[no-any-return]
    raise ConfigError(f"{name!r} is not a split.", where="--split", fix=f"use {', '.join(SPLITS)}")


def submission_ids(store: FrameStore, *, forces: bool) -> list[str]:
    """Names of the systems on the leaderboard: ``SID_FID`` for S2EF, ``SID`` for IS2RE, else the frames' own.

    Raises:
        DataError: two systems have the same name.
    """
    sid, fid = store.tags.get("sid"), store.tags.get("fid")
    if sid is not None and fid is not None and forces:
        ids = [f"{s}_{f}" for s, f in zip(sid.tolist(), fid.tolist(), strict=True)]
    elif sid is not None and not forces:
        ids = [str(s) for s in sid.tolist()]
    else:
        ids = [str(name) for name in store.ids]
    names, counts = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        raise DataError(
            f"{int((counts > 1).sum())} systems have the same name, such as {str(names[counts > 1][0])!r}.",
            where=str(store.info.get("source", "the data set")),
            fix="predict for one split, with its sid and fid",
        )
    return ids


def write_predictions(
    path: Path,
    split: SplitName,
    ids: Sequence[str],
    energy: Float64[ndarray, " systems"],
    *,
    n_atoms: Int64[ndarray, " systems"] | None = None,
    forces: Float64[ndarray, "atoms 3"] | None = None,
    free: Bool[ndarray, " atoms"] | None = None,
) -> list[str]:
    """Add a split to a prediction file and return the splits that it holds now.

    Arrays: ``{split}_ids`` [systems], ``{split}_energy`` [systems] in eV; with forces ``{split}_forces`` [atoms, 3]
    in eV/Å, float32, and ``{split}_chunk_idx`` [systems − 1], where to cut them into systems.

    Args:
        path: the file; other splits in it are kept.
        split: which split this is.
        ids: names of the systems.
        energy: eV.
        n_atoms: atoms of each system, for S2EF.
        forces: of all atoms, eV/Å, for S2EF.
        free: atoms to write (all by default): EvalAI took the forces on free atoms only.

    Raises:
        DataError: there is a file which is not such a file, or it cannot be written.
        ConfigError: predictions that are not finite.
    """
    new: dict[str, ndarray] = {f"{split}_ids": np.array(ids), f"{split}_energy": np.asarray(energy)}
    if forces is not None and n_atoms is not None:
        counts = n_atoms
        if free is not None:
            starts = np.cumsum(n_atoms) - n_atoms
            counts, forces = np.add.reduceat(free.astype(np.int64), starts), forces[free]
        new[f"{split}_forces"] = forces.astype(np.float32)
        new[f"{split}_chunk_idx"] = np.cumsum(counts)[:-1]
    for name, array in new.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConfigError(
                f"{int((~np.isfinite(array)).sum())} numbers of {name} are not finite.", where=str(path)
            )
    before = read_predictions(path) if path.exists() else {}
    kept = {name: array for name, array in before.items() if _split_of(name) != split}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast(Any, kept | new))
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"The predictions cannot be written ({error.strerror}).", where=str(path)) from error
    return sorted({_split_of(name) for name in [*kept, *new]})


def read_predictions(path: Path) -> dict[str, ndarray]:
    """Arrays of a prediction file.

    Raises:
        DataError: it is not one, or it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name in arrays:
            _split_of(name)
        return arrays
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"This is not a file of predictions ({error}).", where=str(path), fix="choose another file name"
        ) from error


def _split_of(name: str) -> str:
    for split in SPLITS:
        if name.removeprefix(f"{split}_") in SUFFIXES:
            return str(split)
    raise ValueError(f"the array {name!r} belongs to no split")
