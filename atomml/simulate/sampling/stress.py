"""Whether labelled stresses have ASE's sign and unit: by the energy's derivative, and by how they follow volume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from atomml.datasets.frame import Frame
from atomml.datasets.statistics import stress_sign_test
from atomml.datasets.store import FrameStore
from atomml.simulate.calculator import has_volume

__all__ = ["stress_by_temperature", "stress_check"]

STRAIN = 0.004
FLOOR = 0.002  # eV/Å³ (0.3 GPa): below it neither number says anything


def stress_check(frame: Frame, calculator: Any) -> dict[str, Any]:
    """Mean normal stress of a labelled frame beside (E(+ε) − E(−ε)) / (6 ε V), ε = 0.004 isotropic.

    Returns:
        frame, label and difference quotient in eV/Å³, and a verdict: "agrees" (within 10 % and 0.3 GPa), "opposite
        sign", "differs" (a unit, or a basis that changes with the cell), "too small", "no stress".
    """
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    if frame.stress is None or not np.isfinite(frame.stress).all() or not has_volume(atoms):
        return {"verdict": "no stress"}
    energies = []
    for strain in (STRAIN, -STRAIN):
        other = atoms.copy()
        other.set_cell(atoms.cell.array * (1.0 + strain), scale_atoms=True)
        other.calc = calculator
        energies.append(float(other.get_potential_energy()))
    label = float(np.trace(frame.stress)) / 3.0
    quotient = (energies[0] - energies[1]) / (6.0 * STRAIN * atoms.get_volume())
    near = FLOOR + 0.1 * abs(quotient)
    if abs(quotient) <= FLOOR and abs(label) <= FLOOR:
        verdict = "too small"
    elif abs(label - quotient) <= near:
        verdict = "agrees"
    else:
        verdict = "opposite sign" if abs(label + quotient) <= near else "differs"
    return {"frame": frame.id, "label": label, "from_energy": quotient, "verdict": verdict}


def stress_by_temperature(store: FrameStore) -> dict[str, Any]:
    """`stress_sign_test` within each temperature, joined: heat raises the pressure at a given volume."""
    kelvin = np.asarray(store.tags["T"])
    total, frames = 0.0, 0
    verdicts = set()
    for level in np.unique(kelvin):
        part = store.subset(np.flatnonzero(kelvin == level))
        result = stress_sign_test(replace(part, tags={}))
        verdicts.add(result["verdict"])
        if result["correlation"] is not None:
            total += result["correlation"] * result["frames"]
            frames += result["frames"]
    if not frames:
        verdict = "no stress" if verdicts == {"no stress"} else "too few volumes"
        return {"verdict": verdict, "correlation": None, "frames": 0}
    mean = total / frames
    verdict = "ase" if mean > 0.3 else "pressure" if mean < -0.3 else "unclear"
    return {"verdict": verdict, "correlation": mean, "frames": frames}
