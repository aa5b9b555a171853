"""`LabelOptions`: keys, units and sign of labels, for readers of files that do not state them."""

from __future__ import annotations

from typing import Literal

from atomml.config import Config
from atomml.datasets.labels import LabelKeys

__all__ = ["LabelOptions"]


class LabelOptions(Config):
    """Where the labels are, in which units, with which sign of the stress."""

    energy_key: str | None = None
    """Name of the energy; found by itself when not given. Likewise the next two."""
    forces_key: str | None = None
    """Name of the forces."""
    stress_key: str | None = None
    """Name of the stress, or of a virial."""
    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] = "eV"
    """Unit of the energies; forces are in it per ``length_unit``."""
    length_unit: Literal["Ang", "Bohr", "nm"] = "Ang"
    """Unit of positions and cells."""
    stress_unit: Literal["eV/A^3", "GPa", "kbar"] = "eV/A^3"
    """Unit of the stress."""
    stress_sign: Literal["ase", "pressure"] = "ase"
    """``ase``: σ = (1/V) ∂E/∂ε; ``pressure``: the opposite sign, as VASP prints it."""

    def keys(self) -> LabelKeys:
        """Keys, units and sign."""
        return LabelKeys(**{name: getattr(self, name) for name in LabelKeys.__dataclass_fields__})
