"""The cells that runs start from: sources, substitution, duplicates, supercells; and strain."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, ndarray
from atomml.simulate.calculator import has_volume
from atomml.simulate.sampling.config import CellConfig, SampleConfig, StrainConfig
from atomml.simulate.sampling.prototypes import prototype
from atomml.simulate.sampling.substitution import check_species, variants

__all__ = ["Start", "Starts", "draw_strain", "make_starts", "random_stream", "strained", "supercell"]


@dataclass(frozen=True)
class Start:
    """A cell that runs start from.

    Attributes:
        name: unique in the run: formula and origin.
        atoms: the repeated cell.
        provenance: "prototype rocksalt" or file and frame.
        substitution, halide: see `Variant`.
        repeat: how often the crystal was repeated.
    """

    name: str
    atoms: Atoms
    provenance: str
    substitution: str
    halide: bool
    repeat: tuple[int, int, int] = (1, 1, 1)

    def tags(self) -> dict[str, Any]:
        """What every frame made from it says about its origin."""
        return {
            "system": self.name,
            "provenance": self.provenance,
            "substitution": self.substitution,
            "halide_substitution": self.halide,
        }


class Starts(NamedTuple):
    """The cells, and what was left out: (name, reason)."""

    kept: list[Start]
    dropped: list[tuple[str, str]]


def random_stream(seed: int, *name: object) -> np.random.Generator:
    """The random stream of something named; no two names share one, and none depends on another."""
    text = "\x1f".join(map(str, name)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, key])))


def make_starts(config: SampleConfig, base: Path = Path()) -> Starts:
    """All cells of a run, in a fixed order.

    Args:
        config: the run.
        base: folder of the configuration, where files are looked for too.

    Raises:
        ConfigError: an impossible substitution, no such file.
        DataError: a file that cannot be read; nothing is left.
    """
    sub = config.substitution
    check_species(sub.species, sub.charges)
    number = None if sub.variants == "all" else int(sub.variants)
    starts: list[Start] = []
    for label, origin, atoms in _sources(config, base):
        rng = random_stream(config.seed, "substitution", origin)
        versions = variants(atoms, sub.species, sub.charges, number=number, mixed=sub.mixed, rng=rng)
        starts += [
            Start(f"{_formula(v.atoms)}_{label}", v.atoms, origin, v.substitution, v.halide) for v in versions
        ]
    dropped: list[tuple[str, str]] = []
    if sub.duplicates == "drop":
        starts = _without_duplicates(starts, dropped)
    kept = []
    for start in _with_unique_names(starts):
        if len(start.atoms) > config.cell.max_atoms:
            dropped.append((start.name, f"has {len(start.atoms)} atoms, more than cell.max_atoms"))
            continue
        atoms, repeat = supercell(start.atoms, config.cell)
        kept.append(replace(start, atoms=atoms, repeat=repeat))
    if not kept:
        reasons = "; ".join(f"{name} {reason}" for name, reason in dropped[:3])
        raise DataError("No structure is left to sample from.", where=reasons, fix="raise cell.max_atoms")
    return Starts(kept, dropped)


def supercell(atoms: Atoms, config: CellConfig) -> tuple[Atoms, tuple[int, int, int]]:
    """Repeat along the thinnest direction until large enough, or until the next would have too many atoms."""
    repeat = [1, 1, 1]
    if not has_volume(atoms):
        return atoms.copy(), (1, 1, 1)
    thickness = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    while True:
        count = len(atoms) * int(np.prod(repeat))
        widths = thickness * repeat
        if widths.min() >= config.min_length - 1e-9 and count >= config.min_atoms:
            break
        thinnest = int(np.argmin(np.round(widths, 6)))
        if count // repeat[thinnest] * (repeat[thinnest] + 1) > config.max_atoms:
            break
        repeat[thinnest] += 1
    chosen = (repeat[0], repeat[1], repeat[2])
    return atoms.repeat(chosen), chosen


def draw_strain(config: StrainConfig, run: int, rng: np.random.Generator) -> Float64[ndarray, "3 3"]:
    """The symmetric strain of the run with that number: from the list, else random in its part of the range."""
    if config.values:
        value = config.values[run]
        xx, yy, zz, yz, xz, xy = value if isinstance(value, tuple) else (value, value, value, 0.0, 0.0, 0.0)
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], dtype=np.float64)
    low, high = config.isotropic
    width = (high - low) / config.runs
    linear = rng.uniform(low + run * width, low + (run + 1) * width)
    # a sample far out in the tail would turn the cell inside out
    shear = np.clip(rng.standard_normal((3, 3)), -3, 3) * config.shear
    shear = np.triu(shear) + np.triu(shear, 1).T
    shear -= np.trace(shear) / 3 * np.eye(3)  # the volume is that of the isotropic part, to first order
    return linear * np.eye(3) + shear


def strained(atoms: Atoms, strain: Float64[ndarray, "3 3"]) -> Atoms:
    """A copy with cell (1 + ε), atoms moving along.

    Raises:
        ConfigError: a strain of a structure that has no volume.
    """
    new = atoms.copy()
    if not np.any(strain):
        return new
    if not has_volume(atoms):
        raise ConfigError(
            "A structure without three periodic directions cannot be strained.",
            where=atoms.get_chemical_formula(),
            fix="set strain.values to [0.0], or leave the structure out",
        )
    new.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True, apply_constraint=False)
    return new


def _formula(atoms: Atoms) -> str:
    from pymatgen.core import Composition

    return str(Composition(atoms.get_chemical_formula()).reduced_formula)


def _sources(config: SampleConfig, base: Path) -> list[tuple[str, str, Atoms]]:
    """Label, origin and structure of everything the configuration names."""
    named: list[str] = list(config.structures.prototypes)
    found = [(name, f"prototype {name}", prototype(name)) for name in named]
    for text in config.structures.files:
        path, rows = _path_and_rows(text, base)
        found += [(path.stem.split(".")[0], f"{path.name}#{k}", atoms) for k, atoms in _read(path, rows)]
    return found


def _path_and_rows(text: str, base: Path) -> tuple[Path, slice | int]:
    name, at, index = text.rpartition("@")
    for candidate, rows in ((text, ":"), (name, index if at else ":")):
        for path in (Path(candidate).expanduser(), base / candidate):
            if candidate and path.exists():
                return path, _rows(rows, text)
    raise ConfigError("There is no such file.", where=text, fix="check structures.files")


def _rows(index: str, where: str) -> slice | int:
    parts = index.split(":")
    try:
        numbers = [int(p) if p else None for p in parts]
        if len(parts) == 1:
            return int(index)
        return slice(*numbers)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{index!r} is not an index.", where=where, fix="write @0, @-1, @2:10 or @::5"
        ) from error


def _read(path: Path, rows: slice | int) -> list[tuple[int, Atoms]]:
    from atomml.datasets import load_frames

    store = load_frames(path, require_energy=False)
    if isinstance(rows, int) and not -len(store) <= rows < len(store):
        raise ConfigError(f"There is no frame {rows} of {len(store)}.", where=str(path))
    chosen = range(len(store))[rows]
    frames = []
    for k in [chosen] if isinstance(chosen, int) else chosen:
        atoms = store[k]
        atoms.calc = None
        atoms.info = {}
        frames.append((k, atoms))
    return frames


def _with_unique_names(starts: Sequence[Start]) -> list[Start]:
    seen: dict[str, int] = defaultdict(int)
    named = []
    for start in starts:
        seen[start.name] += 1
        number = seen[start.name]
        named.append(start if number == 1 else replace(start, name=f"{start.name}_{number}"))
    return named


def _without_duplicates(starts: Sequence[Start], dropped: list[tuple[str, str]]) -> list[Start]:
    """The first of every crystal; the others go to ``dropped``. Structures without a volume are all kept."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    groups: dict[str, list[tuple[Start, Any]]] = defaultdict(list)
    matcher, kept = StructureMatcher(), []
    for start in starts:
        if not has_volume(start.atoms):
            kept.append(start)
            continue
        structure = AseAtomsAdaptor.get_structure(start.atoms)
        same = next((s for s, known in groups[_formula(start.atoms)] if matcher.fit(structure, known)), None)
        if same is not None:
            made = f"{start.provenance} {start.substitution}".strip()
            dropped.append((start.name, f"({made}) is the same crystal as {same.name} ({same.provenance})"))
            continue
        groups[_formula(start.atoms)].append((start, structure))
        kept.append(start)
    return kept
