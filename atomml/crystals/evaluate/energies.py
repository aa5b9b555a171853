"""Energies of crystals by a potential, or those that they bring along."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from atomml.config import parse_config
from atomml.crystals.evaluate.equality import structure_of
from atomml.errors import AtommlError
from atomml.shapes import Float64, ndarray

__all__ = ["Energies", "energies_of", "given_energies"]

EnergyFunction = Callable[[Atoms], tuple[float, float]]


@dataclass(frozen=True)
class Energies:
    """Of n crystals, in eV/atom; NaN: unknown.

    Attributes:
        per_atom: energy.
        std: its standard deviation, NaN where the potential has none.
        errors: why an energy is unknown, or None.
    """

    per_atom: Float64[ndarray, " crystals"]
    std: Float64[ndarray, " crystals"]
    errors: tuple[str | None, ...]


def energies_of(
    structures: Sequence[Atoms | None],
    potential: str | Path | Calculator | Any,
    *,
    device: str = "cpu",
    notify: Callable[[int, int], None] | None = None,
) -> Energies:
    """Energies per atom, of structures as they are (nothing is relaxed here).

    Args:
        structures: None: unknown.
        potential: "chgnet" (version 0.3.0, or "chgnet:r2scan"), a model file of atomml or "demo", a loaded
            potential, or any ASE calculator.
        device: of chgnet and of model files.
        notify: called with (crystals done, all).

    Raises:
        UnsupportedError: chgnet is not installed.
        ModelFileError: no such model.
        ConfigError: no such CHGNet.
    """
    function = _energy_function(potential, device)
    per_atom, std = np.full(len(structures), np.nan), np.full(len(structures), np.nan)
    errors: list[str | None] = ["no structure"] * len(structures)
    for k, atoms in enumerate(structures):
        if atoms is not None:
            try:
                energy, deviation = function(atoms)
                errors[k] = None if np.isfinite(energy) else "the energy is not finite"
            except (
                Exception
            ) as problem:  # an element that the potential does not know, overlapping atoms, ...
                errors[k] = problem.what if isinstance(problem, AtommlError) else repr(problem)
            if errors[k] is None:
                per_atom[k], std[k] = energy / len(atoms), deviation / len(atoms)
        if notify is not None:
            notify(k + 1, len(structures))
    return Energies(per_atom, std, tuple(errors))


def _energy_function(potential: Any, device: str) -> EnergyFunction:
    """Energy and its deviation (NaN: none) in eV."""
    if isinstance(potential, Calculator):
        return lambda atoms: (float(potential.get_potential_energy(atoms)), float("nan"))
    name, _, version = str(potential).partition(":")
    if name == "chgnet":
        from atomml.calculators import ChgnetCalculator, make_calculator

        settings = {"model": version or "0.3.0", "device": device}
        chgnet: Any = make_calculator(parse_config(ChgnetCalculator, settings, where=str(potential)))

        def predict(atoms: Atoms) -> tuple[float, float]:
            per_atom = chgnet.model.predict_structure(structure_of(atoms), task="e")["e"]
            return float(per_atom) * len(atoms), float("nan")

        return predict
    model = _loaded(potential, device) if isinstance(potential, str | Path) else potential

    def of_model(atoms: Atoms) -> tuple[float, float]:
        (prediction,) = model.predict([atoms], forces=False, stress=False)
        return prediction.energy, np.nan if prediction.energy_std is None else prediction.energy_std

    return of_model


def _loaded(potential: str | Path, device: str) -> Any:
    from atomml.uncertainty.model_file import load_model

    return load_model(potential, device=device)


def given_energies(
    structures: Sequence[Atoms | None], records: Sequence[Mapping[str, Any]] | None = None
) -> Energies:
    """Energies and deviations that are known already.

    Args:
        structures: with the energy of a calculator, as labelled files have it, or ``energy`` and ``energy_std`` (eV)
            in ``atoms.info``.
        records: ``energy_per_atom`` and ``energy_std_per_atom`` (eV/atom) of each structure, which go first.
    """
    given = records or [{}] * len(structures)
    rows = np.array([_given(a, r) for a, r in zip(structures, given, strict=True)]).reshape(-1, 2)
    errors = tuple(None if np.isfinite(energy) else "no energy is given" for energy in rows[:, 0])
    return Energies(rows[:, 0], rows[:, 1], errors)


def _given(atoms: Atoms | None, record: Mapping[str, Any]) -> list[float]:
    if atoms is None:
        return [np.nan, np.nan]
    found = {**atoms.info, **(atoms.calc.results if atoms.calc is not None else {})}
    values = []
    for name in ("energy", "energy_std"):
        known = record.get(f"{name}_per_atom")
        values.append(float(found.get(name, np.nan)) / len(atoms) if known is None else float(known))
    return values
