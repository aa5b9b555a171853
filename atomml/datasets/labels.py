"""Where a file keeps its labels, in which unit and with which sign."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.stress import voigt_6_to_full_3x3_stress

from atomml.errors import DataError
from atomml.shapes import Float64, ndarray

__all__ = ["KNOWN_KEYS", "LabelKeys", "candidates", "choose_sources", "to_energy", "to_forces", "to_stress"]

Label = Literal["energy", "forces", "stress"]
LABELS: tuple[Label, ...] = ("energy", "forces", "stress")

KNOWN_KEYS: dict[str, tuple[str, ...]] = {
    "energy": (
        "energy",
        "Energy",
        "REF_energy",
        "ref_energy",
        "dft_energy",
        "DFT_energy",
        "energy_dft",
        "total_energy",
        "TotEnergy",
        "potential_energy",
    ),
    "forces": (
        "forces",
        "force",
        "Forces",
        "REF_forces",
        "ref_forces",
        "dft_forces",
        "DFT_forces",
        "forces_dft",
    ),
    "stress": (
        "stress",
        "Stress",
        "REF_stress",
        "ref_stress",
        "dft_stress",
        "DFT_stress",
        "virial",
        "virials",
        "Virial",
        "REF_virial",
        "ref_virial",
        "REF_virials",
        "dft_virial",
        "DFT_virial",
    ),
}
ENERGY_UNITS = {
    "eV": 1.0,
    "Hartree": units.Hartree,
    "Ry": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
LENGTH_UNITS = {"Ang": 1.0, "Bohr": units.Bohr, "nm": 10.0}
STRESS_UNITS = {"eV/A^3": 1.0, "GPa": units.GPa, "kbar": 0.1 * units.GPa}


@dataclass(frozen=True)
class LabelKeys:
    """Label keys, units and signs of a source; a key of None is looked for.

    Attributes:
        energy_key, forces_key, stress_key: a calculator result, or a key of ``info`` or ``arrays``. A stress
            key with "virial" in its name is a virial W = −σV in the energy unit.
        energy_unit: eV, Hartree, Ry, kcal/mol or kJ/mol; forces are in energy unit per length unit.
        length_unit: Ang, Bohr or nm, of positions and cell.
        stress_unit: eV/A^3, GPa or kbar.
        stress_sign: "ase" for σ = (1/V) ∂E/∂ε, "pressure" for its negative (as VASP prints it).
    """

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "Ang"
    stress_unit: str = "eV/A^3"
    stress_sign: str = "ase"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("energy_unit", self.energy_unit, ENERGY_UNITS),
            ("length_unit", self.length_unit, LENGTH_UNITS),
            ("stress_unit", self.stress_unit, STRESS_UNITS),
            ("stress_sign", self.stress_sign, ("ase", "pressure")),
        ):
            if value not in known:
                raise DataError(f"{name} {value!r} is not known.", fix=f"use one of {', '.join(known)}")

    def stated(self, label: str) -> str | None:
        """The key the user stated for ``label``."""
        return getattr(self, f"{label}_key")

    @property
    def energy_scale(self) -> float:
        """Factor to eV."""
        return ENERGY_UNITS[self.energy_unit]

    @property
    def length_scale(self) -> float:
        """Factor to Å."""
        return LENGTH_UNITS[self.length_unit]


def candidates(atoms: Atoms, keys: LabelKeys) -> dict[str, dict[str, Any]]:
    """Per label, every place of this frame that could hold it: {"energy": {"calculator:energy": value}}.

    Forces are the calculator's raw results: ``get_forces()`` would zero those of constrained atoms.
    """
    results = {} if atoms.calc is None else dict(getattr(atoms.calc, "results", {}))
    places: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("calculator", results),
        ("info", atoms.info),
        ("arrays", atoms.arrays),
    )
    found: dict[str, dict[str, Any]] = {}
    for label in LABELS:
        stated = keys.stated(label)
        names = KNOWN_KEYS[label] if stated is None else (stated,)
        found[label] = {
            f"{place}:{name}": values[name]
            for name in names
            for place, values in places
            if name in values and values[name] is not None
        }
    return found


def choose_sources(
    found: Sequence[dict[str, dict[str, Any]]],
    keys: LabelKeys,
    names: Counter[str],
    where: str,
    *,
    whole: bool = True,
) -> dict[str, dict[str, Any]]:
    """One source per label for a whole file, and what else was there.

    Args:
        found: `candidates` of every frame.
        keys: the user's options.
        names: every key that occurs in the file, for messages.
        where: the file.
        whole: these are all frames of the file, so that a stated key must occur.

    Raises:
        DataError: a stated key that no frame has, or frames that keep a label under different keys.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for label in LABELS:
        counts = Counter(source for frame in found for source in frame[label])
        stated = keys.stated(label)
        if stated is not None and not counts and whole:
            raise DataError(
                f"No frame has the {label} key {stated!r}.",
                where=where,
                fix=f"state one of the keys that the file has: {', '.join(sorted(names)) or 'none'}",
            )
        first = _first(counts, label, stated)
        stray = next((k for k, frame in enumerate(found) if frame[label] and first not in frame[label]), None)
        if stray is not None:
            raise DataError(
                f"Frames keep the {label} under different keys: {first} in some, "
                f"{', '.join(found[stray][label])} in frame {stray}.",
                where=where,
                fix=f"state the key to use ({label}_key), or split the file",
            )
        chosen[label] = {
            "key": first,
            "found": counts[first] if first else 0,
            "of": len(found),
            "also": [source for source in counts if source != first],
        }
    return chosen


def _first(counts: Counter[str], label: str, stated: str | None) -> str | None:
    order = KNOWN_KEYS[label] if stated is None else (stated,)
    ranked = [f"{place}:{name}" for name in order for place in ("calculator", "info", "arrays")]
    return next((source for source in ranked if source in counts), None)


def to_energy(value: Any, keys: LabelKeys, where: str) -> float:
    """A finite energy in eV.

    Raises:
        DataError: not one number, or NaN or infinite.
    """
    array = _numbers(value, "energy", where)
    if array.size != 1:
        raise DataError(
            f"The energy is not one number but has shape {array.shape}.", where=where, fix="state energy_key"
        )
    return float(_finite(array, "energy", where).reshape(())) * keys.energy_scale


def to_forces(value: Any, n_atoms: int, keys: LabelKeys, where: str) -> Float64[ndarray, "atoms 3"]:
    """Finite forces [N, 3] in eV/Å.

    Raises:
        DataError: another shape, NaN or infinite.
    """
    array = _numbers(value, "forces", where)
    if array.shape != (n_atoms, 3):
        raise DataError(
            f"The forces have shape {array.shape}, not ({n_atoms}, 3).",
            where=where,
            fix="correct the column in the file (Properties=...:forces:R:3), or state forces_key",
        )
    return _finite(array, "forces", where) * (keys.energy_scale / keys.length_scale)


def to_stress(value: Any, volume: float, source: str, keys: LabelKeys, where: str) -> Float64[ndarray, "3 3"]:
    """A finite symmetric stress [3, 3] in eV/Å³ and ASE sign, from a stress or a virial W = −σV.

    Args:
        value: 6 numbers (xx yy zz yz xz xy), 9 numbers or 3×3.
        volume: of the cell, Å³.
        source: where it was found; "virial" in the name makes it a virial.
        keys: the user's options.
        where: file and frame.

    Raises:
        DataError: another shape, NaN or infinite, not symmetric.
    """
    array = _finite(_numbers(value, "stress", where), "stress", where)
    if array.shape == (6,):
        array = voigt_6_to_full_3x3_stress(array)
    elif array.size == 9:
        array = array.reshape(3, 3)
    else:
        raise DataError(
            f"The stress has shape {array.shape}, not 6 numbers (xx yy zz yz xz xy), 9 numbers or 3×3.",
            where=where,
            fix="correct the file, or state stress_key",
        )
    asymmetry = np.abs(array - array.T).max()
    if asymmetry > 0.02 * np.abs(array).max() + 1e-6:
        raise DataError(
            f"The stress is not symmetric (largest difference {asymmetry:.3g}).",
            where=where,
            fix="check that these nine numbers are a stress tensor",
        )
    symmetric = 0.5 * (array + array.T)
    sign = 1.0 if keys.stress_sign == "ase" else -1.0
    if "virial" in source.lower():
        return -sign * symmetric * keys.energy_scale / volume
    return sign * symmetric * STRESS_UNITS[keys.stress_unit]


def _numbers(value: Any, label: str, where: str) -> ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The {label} is not numeric: {str(value)[:60]!r}.", where=where, fix=f"state {label}_key"
        ) from error


def _finite(array: ndarray, label: str, where: str) -> ndarray:
    if not np.isfinite(array).all():
        raise DataError(
            f"The {label} {'is' if label != 'forces' else 'are'} NaN or infinite.",
            where=where,
            fix="remove the frame or the label (a label may be absent, but not NaN)",
        )
    return array
