"""Relaxation of generated crystals by a potential, many together where it can; it can be interrupted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from pydantic import ValidationError

from atomml.calculators import (
    AtommlCalculator,
    ChgnetCalculator,
    calculator_identity,
    make_calculator,
)
from atomml.crystals.evaluate.equality import structure_of
from atomml.crystals.evaluate.matching import PREDICTION
from atomml.crystals.outputs.cif import write_cifs
from atomml.crystals.outputs.describe import SYMPREC, description_of
from atomml.crystals.outputs.folder import RELAXED, Row, iterate_generated, iterate_records
from atomml.crystals.outputs.journal import Journal
from atomml.errors import ConfigError
from atomml.graph.neighbors import SkinnedNeighbors
from atomml.simulate.batched import relax_batched
from atomml.simulate.calculator import Calculator, refuse_nan
from atomml.simulate.progress import progress_bar
from atomml.simulate.relax import RelaxResult, relax

__all__ = ["Relaxed", "relax_crystals", "relax_folder"]

Model: TypeAlias = str | Path | AseCalculator
T = TypeVar("T")

TOGETHER = 64
"""Crystals that a potential of atomml relaxes in one graph, and that are then written as one block."""


class Relaxed(NamedTuple):
    """What became of one crystal: its row, and the structure unless it failed."""

    row: Row
    atoms: Atoms | None


def relax_crystals(
    structures: Iterable[Atoms],
    model: Model,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    cell: bool = True,
    device: str = "cpu",
) -> Iterator[Relaxed]:
    """Relax crystals, `TOGETHER` at a time by a potential of atomml, else one by one; none that fails stops others.

    A row has ``valid`` and ``reason`` (of a failure); ``converged``; ``steps``; ``energy_per_atom_first``,
    ``energy_per_atom`` and, of a potential with an uncertainty, ``energy_std_per_atom`` in eV/atom; ``fmax`` in eV/Å;
    ``stress_max`` in GPa; ``volume_change`` V/V₀ − 1; ``rms_displacement`` in Å, without the common translation;
    ``rms_matched`` over (V/N)^(1/3), None for another structure; formula, space group and density at the end.

    Args:
        structures: crystals; ``atoms.info["index"]`` is kept, if there is one.
        model: "chgnet" (version 0.3.0; or "chgnet:r2scan"), a model file of atomml, "demo", or any ASE calculator.
        fmax: largest force at the end, eV/Å.
        steps: most steps for each.
        cell: relax the cell too.
        device: of chgnet and of model files.

    Raises:
        ConfigError: there is no such CHGNet.
        UnsupportedError: chgnet is not installed.
        ModelFileError: there is no such model.
    """
    calculator = _calculator(model, device)
    settings = {"fmax": fmax, "steps": steps, "cell": cell}
    for chunk in _chunks(enumerate(structures), _together(model)):
        results = _results([atoms for _, atoms in chunk], calculator, settings)
        for (number, given), result in zip(chunk, results, strict=True):
            start: Row = {"index": int(given.info.get("index", number)), "n_atoms": len(given)}
            if isinstance(result, str):
                yield Relaxed(start | _failed(result), None)
            else:
                yield _relaxed(start, given, result)


def relax_folder(
    folder: str | Path,
    model: Model,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    cell: bool = True,
    device: str = "cpu",
    symmetrize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Relax the valid crystals of a folder: relaxed.extxyz, relaxed.jsonl and relaxed_cif/ beside what is there.

    Args:
        folder: written by `generate_folder`.
        model: see `relax_crystals`, likewise ``fmax``, ``steps``, ``cell`` and ``device``.
        fmax: largest force at the end, eV/Å.
        steps: most steps for each.
        cell: relax the cell too.
        device: of chgnet and of model files.
        symmetrize: CIFs with the symmetry found within 0.1 Å, instead of P1.
        resume: go on with what is relaxed.
        overwrite: discard what is relaxed.
        progress: show a bar.

    Returns:
        How many were relaxed, converged, failed and why; medians of energy gain (eV/atom) and of ``rms_matched``.

    Raises:
        ConfigError: a folder relaxed otherwise, or no such CHGNet.
        DataError: no generated crystals, or a file that cannot be written.
        AtommlError: the potential cannot be loaded.
    """
    folder = Path(folder)
    total = sum(row["valid"] for row in iterate_records(folder))
    settings = {"model": _identity(model, device), "fmax": fmax, "steps": steps, "cell": cell}
    journal = Journal(folder, RELAXED, settings, resume=resume, overwrite=overwrite)
    left = islice((atoms for atoms, _ in iterate_generated(folder)), journal.done, None)
    with progress_bar(total, "relaxation", show=progress) as advance:
        advance(journal.done)
        relaxed = relax_crystals(left, model, fmax=fmax, steps=steps, cell=cell, device=device)
        # whole blocks, so that crystals are relaxed together with the same ones after an interruption
        for block in _chunks(relaxed, _together(model)):
            journal.append([row for row, _ in block], [atoms for _, atoms in block if atoms is not None])
            advance(len(block))
    unsymmetric = write_cifs(
        iterate_generated(folder, RELAXED), folder / "relaxed_cif", symprec=SYMPREC if symmetrize else None
    )
    summary = _summary(list(iterate_records(folder, RELAXED)))
    return summary | ({"without_symmetry": unsymmetric} if symmetrize else {})


def _together(model: Model) -> int:
    """How many crystals are relaxed at a time."""
    foreign = type(model) is not Calculator if isinstance(model, AseCalculator) else _chgnet(model, "cpu")
    return 1 if foreign else TOGETHER


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _results(
    given: Sequence[Atoms], calculator: Calculator, settings: dict[str, Any]
) -> list[RelaxResult | str]:
    """Outcomes of crystals that are relaxed together; a string is why one failed."""
    plain = [atoms.copy() for atoms in given]
    for atoms in plain:
        atoms.info = {}
    if len(plain) > 1:
        try:
            return [*relax_batched(plain, calculator, **settings)]
        except Exception:  # out of memory, for example: one at a time it may be possible
            return [result for atoms in plain for result in _results([atoms], calculator, settings)]
    try:
        relaxation = relax_batched if type(calculator) is Calculator else relax
        return [*relaxation(plain, calculator, **settings)]
    except Exception as problem:  # whatever a foreign calculator raises is a failure of this crystal
        return [f"{type(problem).__name__}: {problem}"]


class _Foreign(Calculator):
    """Another ASE calculator, with the shortest distance that `relax` watches."""

    def __init__(self, inner: AseCalculator) -> None:
        AseCalculator.__init__(self)  # ours would ask for a potential
        self.inner, self.implemented_properties = inner, list(inner.implemented_properties)
        self._uncertain, self._neighbors = False, SkinnedNeighbors(1.0)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Energy, forces and stress of the other calculator.

        Raises:
            SimulationError: one of them is not finite.
        """
        AseCalculator.calculate(self, atoms, properties, system_changes)
        self.results = {}
        wanted = [name for name in ("energy", "forces", "stress") if name in self.implemented_properties]
        self._neighbors.pairs(self.atoms.positions, self.atoms.cell.array, self.atoms.pbc)
        self.inner.calculate(self.atoms, wanted, list(all_changes))
        results: dict[str, Any] = {
            name: np.asarray(self.inner.results[name], dtype=np.float64) for name in wanted
        }
        refuse_nan(results, self.atoms, where="relaxation")
        self.results = results | {"energy": float(results["energy"])}


def _calculator(model: Model, device: str) -> Calculator:
    if isinstance(model, AseCalculator):
        return model if isinstance(model, Calculator) else _Foreign(model)
    chgnet = _chgnet(model, device)
    if chgnet is not None:
        return _Foreign(make_calculator(chgnet))
    from atomml.uncertainty.model_file import load_model

    return Calculator(load_model(model, device=device))


def _chgnet(model: str | Path, device: str) -> ChgnetCalculator | None:
    """The settings that "chgnet" (0.3.0, with the energies of the Materials Project) or "chgnet:VERSION" means.

    Raises:
        ConfigError: there is no such version.
    """
    name, _, version = str(model).partition(":")
    if name != "chgnet":
        return None
    try:
        return ChgnetCalculator.model_validate({"device": device, "model": version or "0.3.0"})
    except ValidationError as error:
        raise ConfigError(
            f"There is no CHGNet {version!r}.", fix="use chgnet:r2scan, chgnet:0.3.0 or chgnet:0.2.0"
        ) from error


def _identity(model: Model, device: str) -> dict[str, Any]:
    if isinstance(model, AseCalculator):
        return {"kind": type(model).__name__}
    return calculator_identity(_chgnet(model, device) or AtommlCalculator(model=str(model), device=device))


def _relaxed(start: Row, given: Atoms, result: RelaxResult) -> Relaxed:
    if result.error is not None:
        return Relaxed(start | _failed(result.error.splitlines()[0]) | {"steps": result.steps}, None)
    atoms, figures, n = result.atoms, result.row(), len(given)
    row = {
        **start,
        **description_of(atoms),
        "valid": True,
        "reason": None,
        "converged": result.converged,
        "steps": result.steps,
        "energy_per_atom_first": result.energy_first / n,
        "energy_per_atom": result.energy_last / n,
        **{name: figures[name] for name in ("energy_std_per_atom", "max_force_std", "fmax", "stress_max")},
        "volume_change": result.volume_last / result.volume_first - 1,
        "rms_displacement": _displacement(given, atoms),
        "rms_matched": _matched(given, atoms),
    }
    kept = ("index", "formula", "spacegroup", "spacegroup_number", "converged", "log_probability")
    found = given.info | row
    atoms.info |= {name: found[name] for name in kept if found.get(name) is not None}
    return Relaxed(row, atoms)


def _failed(reason: str) -> Row:
    return {"valid": False, "reason": reason, "converged": False}


def _displacement(before: Atoms, after: Atoms) -> float:
    """√⟨|Δr|²⟩ in Å: differences of fractional positions, less their mean, in the mean of both cells."""
    d = after.get_scaled_positions() - before.get_scaled_positions()
    d -= np.round(d)
    d -= d.mean(axis=0)
    return float(np.sqrt(np.mean(np.sum((d @ (before.cell.array + after.cell.array) / 2) ** 2, axis=1))))


def _matched(before: Atoms, after: Atoms) -> float | None:
    """Root mean square distance of paired sites over (V/N)^(1/3); None: another structure, or not comparable.

    Both cells stay as they are: a crystal that became more symmetric would otherwise have a smaller cell.

    Source: `StructureMatcher.get_rms_dist` of pymatgen, with the tolerances of structure prediction.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**asdict(PREDICTION), primitive_cell=False)
    try:
        found = matcher.get_rms_dist(structure_of(before), structure_of(after))
    except Exception:
        return None
    return None if found is None else float(found[0])


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    good = [row for row in rows if row["valid"]]
    matched = [row["rms_matched"] for row in good if row["rms_matched"] is not None]
    gains = [row["energy_per_atom_first"] - row["energy_per_atom"] for row in good]
    reasons = Counter(row["reason"] for row in rows if not row["valid"])
    return {
        "n": len(rows),
        "relaxed": len(good),
        "converged": sum(row["converged"] for row in good),
        "failed": dict(reasons.most_common()),
        "same_structure": len(matched),
        "median_rms_matched": float(np.median(matched)) if matched else None,
        "median_energy_gain_per_atom": float(np.median(gains)) if gains else None,
    }
