"""Any potential or ASE calculator, asked for many structures at once, and structures brought to rest with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS
from torch import nn

from atomml._version import __version__
from atomml.calculators import (
    CalculatorConfig,
    calculator_identity,
    make_calculator,
)
from atomml.config import Config, parse_config
from atomml.errors import AtommlError, DataError, SimulationError
from atomml.potentials.compile import weights_sha256
from atomml.shapes import Float64, ndarray
from atomml.simulate.calculator import Calculator, has_volume
from atomml.simulate.interface import PotentialLike

__all__ = ["AnyModel", "Evaluated", "Model", "at_rest", "model_of", "refuse_without_volume", "residual"]

AnyModel: TypeAlias = PotentialLike | AseCalculator | str | Path
Moving: TypeAlias = Literal["ions", "shape", "cell"]
NAMED = {"emt": "version", "lj": "version", "chgnet": "model", "tblite": "method"}
COARSE_FMAX = 0.05


class Evaluated(NamedTuple):
    """Energy in eV, forces in eV/Å, stress in eV/Å³ (xx yy zz yz xz xy; None if not asked for)."""

    energy: float
    forces: Float64[ndarray, "atoms 3"]
    stress: Float64[ndarray, " 6"] | None


class _Choice(Config):
    calculator: CalculatorConfig


class Model:
    """A potential or a calculator, in one form.

    Args:
        calculator: of ASE. Structures are computed one by one, except by potentials of atomml, in batches.
        identity: what decides its numbers, for the provenance.
    """

    def __init__(self, calculator: AseCalculator, identity: Mapping[str, Any]) -> None:
        self.calculator, self.identity = calculator, dict(identity)

    @property
    def dtype(self) -> str:
        """Floating type of a potential of atomml, "float64" for foreign calculators, which do not say."""
        own = isinstance(self.calculator, Calculator) and self.calculator.potential.dtype != torch.float64
        return "float32" if own else "float64"

    @property
    def provenance(self) -> dict[str, Any]:
        """Version of atomml and what the model is."""
        return {"atomml": __version__, "model": self.identity, "dtype": self.dtype}

    def __call__(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[Evaluated]:
        """Energies, forces and, if asked for, stresses of all structures.

        Raises:
            SimulationError: a number that is not finite, or the calculator has no stress.
            AtommlError: whatever the potential refuses.
        """
        plain = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in structures]
        if isinstance(self.calculator, Calculator):
            found = self.calculator.potential.predict(plain, forces=True, stress=stress)
            values = [(p.energy, p.forces, p.stress) for p in found]
        else:
            values = [self._one(atoms, stress) for atoms in plain]
        return [_checked(v, atoms, stress) for v, atoms in zip(values, plain, strict=True)]

    def _one(self, atoms: Atoms, stress: bool) -> tuple[float, Any, Any]:
        atoms.calc = self.calculator
        try:
            tension = atoms.get_stress() if stress else None
            return atoms.get_potential_energy(), atoms.get_forces(), tension
        except PropertyNotImplementedError:
            return atoms.get_potential_energy(), atoms.get_forces(), None


def model_of(
    model: AnyModel | Model,
    *,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = "float64",
) -> Model:
    """The model that a path, a name or an object means.

    Args:
        model: a potential, an ASE calculator, a model file, "demo", or a calculator by name: "emt", "lj", "chgnet"
            (or "chgnet:0.3.0"), "tblite" (or "tblite:GFN2-xTB").
        device: of model files and chgnet.
        dtype: of model files; a potential or calculator is taken as it is.

    Raises:
        ConfigError: no such version or method.
        ModelFileError: no such file, or not a model.
        UnsupportedError: its package is not installed.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        name, _, version = str(model).partition(":")
        settings: dict[str, Any] = {"kind": "atomml", "model": str(model), "device": device, "dtype": dtype}
        if name in NAMED:
            settings = {"kind": name} | ({"device": device} if name == "chgnet" else {})
            settings |= {NAMED[name]: version} if version else {}
        chosen = parse_config(
            _Choice, {"calculator": settings}, where=str(model), fix="see `atomml property eos --help`"
        ).calculator
        return Model(make_calculator(chosen), calculator_identity(chosen))
    if isinstance(model, AseCalculator) and not isinstance(model, Calculator):
        return Model(model, {"kind": type(model).__name__})
    calculator = Calculator(model.potential if isinstance(model, Calculator) else model, deviations=False)
    potential: Any = calculator.potential
    weights = {"weights_sha256": weights_sha256(potential)} if isinstance(potential, nn.Module) else {}
    return Model(calculator, {"kind": type(potential).__name__, **weights})


def at_rest(
    atoms: Atoms, model: Model, *, moving: Moving = "ions", fmax: float = 1e-3, steps: int = 1000
) -> Atoms:
    """A copy at a minimum of the energy.

    Args:
        atoms: left unchanged; constraints are not used.
        model: see `model_of`.
        moving: "ions" alone, also the "shape" of the cell at its volume, or the whole "cell".
        fmax: largest force, and largest component of the cell's gradient in the units of ASE's FrechetCellFilter.
        steps: most steps of the optimiser.

    Raises:
        SimulationError: not at rest after ``steps``; says how far it was.
    """
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.calc = model.calculator
    target: Any = copy
    if moving != "ions":
        target = FrechetCellFilter(copy, constant_volume=moving == "shape")
    try:
        # FIRE survives a bad start, LBFGS converges quickly from a good one
        FIRE(target, logfile=None).run(fmax=max(fmax, COARSE_FMAX), steps=steps)
        done = LBFGS(target, logfile=None, maxstep=0.05).run(fmax=fmax, steps=steps)
    except AtommlError:
        raise
    except Exception as error:  # whatever a foreign calculator raises
        raise SimulationError(
            f"The relaxation failed ({type(error).__name__}: {error}).", where=atoms.get_chemical_formula()
        ) from error
    left = float(np.linalg.norm(target.get_forces(), axis=1).max())
    if not (done and np.isfinite(left)):
        precision = (
            "; float32 cannot go below about 1e-3 eV/Å, load the model in float64"
            if model.dtype != "float64"
            else ""
        )
        raise SimulationError(
            f"The structure is not at rest after {steps} steps: fmax is {left:.2g} eV/Å, not {fmax:g}.",
            where=f"{atoms.get_chemical_formula()}, moving {moving}",
            fix=f"allow more steps or a larger fmax, or start nearer to a minimum{precision}",
        )
    copy.calc = None
    return copy


def residual(atoms: Atoms, model: Model, *, stress: bool) -> tuple[float, float]:
    """Largest force norm in eV/Å and largest stress component in eV/Å³ (0 if not asked for)."""
    (found,) = model([atoms], stress=stress)
    tension = 0.0 if found.stress is None else float(np.abs(found.stress).max())
    return float(np.linalg.norm(found.forces, axis=1).max()), tension


def refuse_without_volume(atoms: Atoms, what: str) -> None:
    """Crystals only.

    Raises:
        DataError: not periodic in three directions.
    """
    if len(atoms) == 0 or not has_volume(atoms):
        raise DataError(
            f"{what} need a crystal: a structure that is periodic in three directions.",
            where=f"{atoms.get_chemical_formula()}, pbc {atoms.pbc.tolist()}, cell {atoms.cell.lengths().tolist()}",
            fix="give the structure a cell, and pbc = True in all three directions",
        )


def _checked(values: tuple[float, Any, Any], atoms: Atoms, stress: bool) -> Evaluated:
    energy, forces, tension = values
    if stress and tension is None:
        raise SimulationError(
            "This model has no stress.",
            where=atoms.get_chemical_formula(),
            fix="use a model whose forces and stress are derivatives of its energy",
        )
    if not all(np.isfinite(x).all() for x in (energy, forces, *([] if tension is None else [tension]))):
        raise SimulationError(
            "The model returned a number that is not finite.", where=atoms.get_chemical_formula()
        )
    arrays = [None if x is None else np.array(x, dtype=np.float64) for x in (forces, tension)]
    return Evaluated(float(energy), cast(Any, arrays[0]), arrays[1])
