"""Fingerprints as in CDVAE: order parameters of the sites (CrystalNN) and features of the composition (Magpie)."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from atomml._optional import require
from atomml.crystals.evaluate.validity import structure_validity
from atomml.errors import DataError
from atomml.files import write_atomically
from atomml.parallel import Outcome, map_structures
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["Fingerprint", "Fingerprints", "fingerprint", "fingerprints", "stack"]

FORMAT = 1
PORTION = 1000  # structures between two writings of the cache


class Fingerprint(NamedTuple):
    """Of one crystal: the mean over its sites of 61 order parameters, and 132 features of its composition."""

    structure: Float64[ndarray, " ops"]
    composition: Float64[ndarray, " magpie"]


@dataclass(frozen=True)
class Fingerprints:
    """Of a set of crystals.

    Attributes:
        structure: one row for each crystal that has a fingerprint.
        composition: of the same crystals.
        rows: which crystals of the set these are.
        total: number of all crystals of the set.
    """

    structure: Float64[ndarray, "crystals ops"]
    composition: Float64[ndarray, "crystals magpie"]
    rows: Int64[ndarray, " crystals"]
    total: int


def fingerprint(atoms: Atoms) -> Fingerprint:
    """The two vectors whose distances CDVAE's coverage is made of (Xie et al., ICLR 2022).

    structure = 1/N Σ_i CrystalNNFingerprint("ops")_i; composition = ElementProperty("magpie"), where a property that
    Magpie lacks for an element is the mean over all elements. Takes about 14 ms of a processor for each atom.

    Raises:
        DataError: the structure is not valid, which would let CrystalNN search without end; or a number is not
            finite.
        UnsupportedError: matminer is not installed.
    """
    from pymatgen.core import Lattice, Structure

    validity = structure_validity(atoms)
    if not validity.valid:
        raise DataError(f"Not a valid structure: {validity.reason}.", where=str(atoms.symbols))
    sites, elements = _featurizers()
    crystal = Structure(
        Lattice(atoms.cell.array), atoms.numbers.tolist(), atoms.positions, coords_are_cartesian=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # radii that CrystalNN has to guess
        structure = np.mean([sites.featurize(crystal, i) for i in range(len(crystal))], axis=0)
        composition = np.array(elements.featurize(crystal.composition), dtype=np.float64)
    if not (np.isfinite(structure).all() and np.isfinite(composition).all()):
        raise DataError("The fingerprint is not finite.", where=str(atoms.symbols))
    return Fingerprint(structure, composition)


@cache
def _featurizers() -> tuple[Any, Any]:
    site = require("matminer.featurizers.site.fingerprint", extra="crystals")
    composition = require("matminer.featurizers.composition.composite", extra="crystals")
    elements = composition.ElementProperty.from_preset("magpie", impute_nan=True)
    return site.CrystalNNFingerprint.from_preset("ops"), elements


def fingerprints(
    structures: Sequence[Atoms],
    *,
    cache_file: Path | None = None,
    workers: int = 1,
    timeout: float | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome[Fingerprint]]:
    """`fingerprint` of each structure, with errors as outcomes; see `map_structures` for the other arguments.

    Args:
        structures: crystals.
        cache_file: an ``.npz`` file with fingerprints of earlier calls, by a hash of elements, cell and positions;
            written after every thousand new ones and at the end. Failures are not kept, and neither are fingerprints
            by other versions of matminer or pymatgen.
        workers: processes.
        timeout: seconds for one structure.
        executor: where to work instead.
        progress: called with (structures done, all structures).

    Raises:
        DataError: ``cache_file`` is not such a file, or cannot be written.
        UnsupportedError: matminer is not installed.
    """
    _featurizers()
    keys = [_key(atoms) for atoms in structures]
    known = {} if cache_file is None else _read(cache_file)
    done = {key: Outcome(known[key], None, 0.0) for key in keys if key in known}
    new = {key: atoms for key, atoms in zip(keys, structures, strict=True) if key not in known}
    size = max(len(new), 1) if cache_file is None else PORTION
    for start in range(0, len(new), size):
        portion = list(new)[start : start + size]
        found = map_structures(
            fingerprint,
            [new[key] for key in portion],
            workers=workers,
            timeout=timeout,
            executor=executor,
            progress=_after(progress, len(done), len(done) + len(new) - start),
        )
        done |= zip(portion, found, strict=True)
        known |= {key: out.value for key, out in zip(portion, found, strict=True) if out.value is not None}
        if cache_file is not None:
            _write(cache_file, known)
    return [done[key] for key in keys]


def stack(outcomes: Sequence[Outcome[Fingerprint]]) -> Fingerprints:
    """Those that have a fingerprint, in matrices; the others are counted in ``total`` only."""
    rows = [k for k, outcome in enumerate(outcomes) if outcome.value is not None]
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    structure, composition = (
        np.array([pair[part] for pair in found], dtype=np.float64).reshape(len(found), -1 if found else 0)
        for part in (0, 1)
    )
    return Fingerprints(structure, composition, np.array(rows, dtype=np.int64), len(outcomes))


def _after(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, _: progress(before + done, total)


def _key(atoms: Atoms) -> str:
    digest = hashlib.sha256()
    for array in (atoms.numbers.astype("<i8"), atoms.cell.array.astype("<f8"), atoms.positions.astype("<f8")):
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def _versions() -> str:
    return f"{FORMAT}, matminer {metadata.version('matminer')}, pymatgen {metadata.version('pymatgen')}"


def _read(path: Path) -> dict[str, Fingerprint]:
    if not path.exists():
        return {}
    try:
        with np.load(path) as file:
            if str(file["versions"]) != _versions():
                return {}
            arrays = [file[name] for name in ("keys", "structure", "composition")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"The file of fingerprints cannot be read ({error}).", where=str(path), fix="delete it"
        ) from error
    return {str(key): Fingerprint(*pair) for key, *pair in zip(*arrays, strict=True)}


def _write(path: Path, known: dict[str, Fingerprint]) -> None:
    file = io.BytesIO()
    np.savez(
        file,
        versions=np.array(_versions()),
        keys=np.array(list(known)),
        structure=np.array([pair.structure for pair in known.values()]),
        composition=np.array([pair.composition for pair in known.values()]),
    )
    write_atomically(path, file.getvalue())
