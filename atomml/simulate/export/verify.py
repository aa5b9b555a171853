"""How far an exported file is from the model it came from, measured through the interface that simulations use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from atomml.errors import CheckError
from atomml.potentials.prediction import Prediction
from atomml.potentials.predictor import Predictor
from atomml.simulate.calculator import has_volume
from atomml.simulate.export.imports import import_metatomic

__all__ = ["UNITS", "measure", "refuse_above"]

UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³", "energy_uncertainty": "eV/atom"}

Differences = dict[str, dict[str, float]]


def measure(file: Path, model: Predictor, structures: Sequence[Atoms], outputs: Sequence[str]) -> Differences:
    """Load ``file`` anew, evaluate it through metatomic's ASE calculator and compare.

    With ε = max(1 eV, |E − Σ E0| / N) the differences are scaled to numbers without units: of the energy per atom by
    ε, of forces by the larger of their root mean square and ε/Å, of the stress by the larger of its largest component
    and ε N / V. What the precision of the file does to a total energy is taken off that of the energy.

    Args:
        file: the exported model.
        model: the original, in the precision to compare with.
        structures: what to evaluate; those without a volume have no stress.
        outputs: of the file; with "energy_uncertainty" those of structures and atoms are compared too.

    Returns:
        for each quantity the largest ``absolute`` difference (see `UNITS`) and the largest ``scaled`` one.
    """
    calculators = import_metatomic("metatomic_ase")
    calculator = calculators.MetatomicCalculator(
        str(file), device="cpu", check_consistency=True, uncertainty_threshold=None
    )
    truth = model.predict(structures)
    found: Differences = {}
    e0: dict[int, float] = model.e0  # type: ignore[assignment]
    precision = float(torch.finfo(getattr(torch, calculator.model().capabilities().dtype)).eps)
    for atoms, exact in zip(structures, truth, strict=True):
        isolated = sum(e0[z] for z in atoms.numbers.tolist())
        scale = max(1.0, abs(exact.energy - isolated) / len(atoms))
        for name, (difference, unit) in _differences(calculator, atoms, exact, scale, precision).items():
            _keep_largest(found, name, difference, unit)
    if "energy_uncertainty" in outputs:
        for a, b in _deviations(calculator, structures, truth):
            _keep_largest(found, "energy_uncertainty", abs(a - b), max(1.0, abs(b)))
    return found


def refuse_above(tolerance: float, found: Differences, *, where: str) -> None:
    """Stop when a scaled difference is above ``tolerance``, or is not a number.

    Raises:
        CheckError: names the quantity.
    """
    for name, value in found.items():
        if not value["scaled"] <= tolerance:
            raise CheckError(
                f"The exported model differs from the original: {name} by {value['scaled']:.1e} of its scale "
                f"({value['absolute']:.1e} {UNITS[name]}), above {tolerance:g}.",
                where=where,
                fix="export in float64, or allow a larger difference (--tolerance)",
            )


def _differences(
    calculator: Any, atoms: Atoms, exact: Prediction, scale: float, precision: float
) -> dict[str, tuple[float, float]]:
    """Difference and scale of each quantity of one structure."""
    copy = atoms.copy()
    copy.calc = calculator
    rounding = precision * abs(exact.energy) / len(atoms)
    energy = abs(copy.get_potential_energy() - exact.energy) / len(atoms)
    assert exact.forces is not None
    forces = float(np.abs(copy.get_forces() - exact.forces).max())
    rms = float(np.sqrt(np.mean(exact.forces**2)))
    found = {"energy": (max(0.0, energy - rounding), scale), "forces": (forces, max(scale, rms))}
    if exact.stress is not None and has_volume(atoms):
        stress = float(np.abs(copy.get_stress() - exact.stress).max())
        largest = float(np.abs(exact.stress).max())
        found["stress"] = (stress, max(largest, scale * len(atoms) / atoms.get_volume()))
    return found


def _deviations(
    calculator: Any, structures: Sequence[Atoms], truth: Sequence[Prediction]
) -> list[tuple[float, float]]:
    """Deviations of all structures per atom, then of all atoms, from the file in one batch and from the model."""
    metatomic = import_metatomic()
    pairs: list[tuple[float, float]] = []
    for kind in ("system", "atom"):
        request = {"energy_uncertainty": metatomic.ModelOutput(unit="eV", sample_kind=kind)}
        values = (
            calculator.run_model(list(structures), request)["energy_uncertainty"]
            .block()
            .values[:, 0]
            .detach()
        )
        if kind == "system":
            sizes = [len(atoms) for atoms in structures]
            exact = np.array([t.energy_std for t in truth]) / sizes
            pairs += zip((values.numpy() / sizes).tolist(), exact.tolist(), strict=True)
        else:
            exact = np.concatenate([t.energies_std for t in truth])  # type: ignore[arg-type]
            pairs += zip(values.tolist(), exact.tolist(), strict=True)
    return pairs


def _keep_largest(found: Differences, name: str, difference: float, scale: float) -> None:
    """NaN counts as larger than anything."""
    entry = found.setdefault(name, {"absolute": 0.0, "scaled": 0.0})
    for key, value in (("absolute", difference), ("scaled", difference / scale)):
        entry[key] = value if not value <= entry[key] else entry[key]
