"""From the explorers of a configuration to the units of one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from atomml.active.config import needs_model
from atomml.active.explore.config import (
    AnyExplorer,
    CrystalsExplorer,
    FilesExplorer,
    MDExplorer,
    RattleExplorer,
    RelaxExplorer,
    Strain,
    StrainExplorer,
)
from atomml.active.explore.md import MDUnit
from atomml.active.explore.moves import FilesUnit, RattleUnit, StrainUnit
from atomml.active.explore.relaxing import CrystalsUnit, RelaxUnit
from atomml.active.explore.units import Unit, potential_at, unit_folder
from atomml.active.history import ModelFile
from atomml.simulate.calculator import has_volume
from atomml.simulate.sampling.config import StrainConfig
from atomml.simulate.sampling.structures import draw_strain, random_stream, strained

__all__ = ["Exploration", "Plan", "plan_units"]

LABELLED_STARTS = 8


class Exploration(NamedTuple):
    """What the units of a round depend on.

    Attributes:
        round: its number.
        seed: of the run.
        folder: of the units.
        model: of the round; None: explorers that need one do nothing.
        structures: of the start, by name.
        labelled: training frames, by name.
        stop_above: default of MD's limit of the deviation, eV/Å.
    """

    round: int
    seed: int
    folder: Path
    model: ModelFile | None
    structures: Sequence[tuple[str, Atoms]]
    labelled: Sequence[tuple[str, Atoms]]
    stop_above: float | None


class Plan(NamedTuple):
    """Units of a round, and what could not become one: (name, reason)."""

    units: list[Unit]
    left_out: list[tuple[str, str]]


def plan_units(explorers: Sequence[AnyExplorer], given: Exploration) -> Plan:
    """Units of all explorers, in order; structures with elements that the model does not know are left out."""
    units: list[Unit] = []
    left_out: list[tuple[str, str]] = []
    for number, explorer in enumerate(explorers):
        if needs_model(explorer) and given.model is None:
            left_out.append((f"{explorer.kind} {number + 1}", "there is no model yet"))
            continue
        where = f"{given.round:02d}_{explorer.kind}{number + 1}"
        if isinstance(explorer, CrystalsExplorer):
            units += _crystals(explorer, given, where)
            continue
        if isinstance(explorer, FilesExplorer):
            folder = unit_folder(given.folder, where, explorer.model_dump(mode="json"), given.seed)
            units.append(FilesUnit(where, folder, given.seed, explorer, {"kind": "files"}))
            continue
        for name, atoms in _starts(explorer, given, where):
            unknown = _unknown(atoms, given.model) if needs_model(explorer) else ""
            if unknown:
                left_out.append((name, f"the model does not know {unknown}"))
                continue
            units += _of_structure(explorer, given, f"{where}_{name}", name, atoms)
    return Plan(units, left_out)


def _starts(
    explorer: MDExplorer | RattleExplorer | StrainExplorer | RelaxExplorer, given: Exploration, where: str
) -> list[tuple[str, Atoms]]:
    """The structures that an explorer begins with in this round, in a fixed order."""
    from_labels = explorer.begin == "labelled"
    pool = list(given.labelled if from_labels else given.structures)
    most = explorer.starts or (LABELLED_STARTS if from_labels else len(pool))
    if len(pool) <= most:
        return pool
    rng = random_stream(given.seed, "starts", where)
    return [pool[k] for k in sorted(rng.permutation(len(pool))[:most].tolist())]


def _of_structure(
    explorer: MDExplorer | RattleExplorer | StrainExplorer | RelaxExplorer,
    given: Exploration,
    unit: str,
    name: str,
    atoms: Atoms,
) -> Iterator[Unit]:
    tags = {"kind": explorer.kind, "start": name}
    if isinstance(explorer, MDExplorer):
        yield from _runs(explorer, given, unit, name, atoms)
        return
    model = given.model if isinstance(explorer, RelaxExplorer) else None
    folder = unit_folder(
        given.folder, unit, explorer.model_dump(mode="json"), given.seed, atoms, model and model.fingerprint
    )
    if isinstance(explorer, RattleExplorer):
        yield RattleUnit(unit, folder, given.seed, atoms, explorer, tags)
    elif isinstance(explorer, StrainExplorer):
        yield StrainUnit(unit, folder, given.seed, atoms, explorer, tags)
    elif model is not None:
        yield RelaxUnit(unit, folder, given.seed, model, atoms, explorer, tags)


def _runs(explorer: MDExplorer, given: Exploration, unit: str, name: str, atoms: Atoms) -> Iterator[Unit]:
    """A run for each temperature, pressure or none, strain and replica."""
    if given.model is None:
        return
    limits = explorer.limits
    if limits.stop_above is None:
        limits = limits.model_copy(update={"stop_above": given.stop_above})
    explorer = explorer.model_copy(update={"limits": limits})
    settings = explorer.model_dump(mode="json", exclude={"temperatures", "pressures", "strains", "replicas"})
    pressures: list[float | None] = [*explorer.pressures] or [None]
    conditions = product(explorer.temperatures, pressures, explorer.strains, range(explorer.replicas))
    for k, (kelvin, pressure, strain, _) in enumerate(conditions):
        cell = strained(atoms, _tensor(strain)) if has_volume(atoms) else atoms
        run = f"{unit}_{k}"
        tags = {
            "kind": "md",
            "start": name,
            "T": float(kelvin),
            "strain": float(np.trace(_tensor(strain))) / 3.0,
        }
        if pressure is not None:
            tags["pressure"] = float(pressure)
        seed = int(random_stream(given.seed, run).integers(2**31))
        folder = unit_folder(
            given.folder, run, settings, seed, kelvin, pressure, cell, given.model.fingerprint
        )
        yield MDUnit(run, folder, seed, given.model, cell, explorer, kelvin, pressure, tags)


def _tensor(strain: Strain) -> np.ndarray:
    return draw_strain(StrainConfig(values=[strain]), 0, np.random.default_rng(0))


def _crystals(explorer: CrystalsExplorer, given: Exploration, where: str) -> Iterator[Unit]:
    formulas: list[str | None] = [*explorer.formulas] or [None]
    for formula in formulas:
        name = f"{where}_{formula or explorer.chemical_system or 'any'}"
        model = given.model if explorer.relax is not None else None
        settings = explorer.model_dump(mode="json", exclude={"formulas"})
        folder = unit_folder(given.folder, name, settings, given.seed, model and model.fingerprint)
        yield CrystalsUnit(name, folder, given.seed, model, explorer, formula, {"kind": "crystals"})


def _unknown(atoms: Atoms, model: ModelFile | None) -> str:
    """Elements of a structure that the model does not know."""
    if model is None:
        return ""
    known = set(potential_at(model).elements)
    return ", ".join(chemical_symbols[z] for z in np.unique(atoms.numbers).tolist() if z not in known)
