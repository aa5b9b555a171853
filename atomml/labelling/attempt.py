"""One attempt at one label, in a child process: the calculator is made, asked, and its answer or failure sorted."""

from __future__ import annotations

import platform
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, SCFError
from pydantic import TypeAdapter

from atomml.calculators import make_calculator
from atomml.errors import AtommlError, UnsupportedError
from atomml.labelling.answers import LabelFailureError, Labels, finite
from atomml.labelling.config import (
    AnyLabelCalculator,
    Cp2kCalculator,
    GpawCalculator,
    LabelCalculatorConfig,
    ProcessCalculator,
    PyscfCalculator,
)
from atomml.labelling.outcome import Failure
from atomml.labelling.task import atoms_of

__all__ = ["attempt"]

_CONVERGENCE = re.compile(r"(not|n't|fail\w* to|no) (be )?(\w+ )?(been )?converge|convergence", re.IGNORECASE)


class _SetupError(Exception):
    """The calculator cannot be made on this machine, whatever the structure."""


def attempt(calculator: dict[str, Any], structure: dict[str, Any], folder: Path) -> dict[str, Any]:
    """JSON values: energy, forces, stress, version and host; or failure and message; or setup.

    Args:
        calculator: settings of one kind.
        structure: see `atomml.labelling.task.task_of`.
        folder: for files; each attempt has an empty one inside.
    """
    host = platform.node()
    try:
        config: AnyLabelCalculator = TypeAdapter(LabelCalculatorConfig).validate_python(calculator)
        atoms = atoms_of(structure)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
            labels = finite(_computed(config, atoms, Path(own)), len(atoms))
    except _SetupError as error:
        return {"setup": _described(error.__cause__) | {"host": host}}
    except Exception as error:
        return {"failure": _kind_of(error), "message": _in_one_line(error), "host": host}
    return labels._asdict() | {"host": host}


def _computed(config: AnyLabelCalculator, atoms: Atoms, folder: Path) -> Labels:
    """Labels by whichever calculator."""
    if isinstance(config, PyscfCalculator):
        from atomml.labelling.molecules import pyscf_labels, pyscf_module

        _set_up(pyscf_module)
        return pyscf_labels(atoms, config)
    if isinstance(config, GpawCalculator | Cp2kCalculator | ProcessCalculator):
        from atomml.labelling import programs

        if isinstance(config, ProcessCalculator):
            return _set_up(programs.process_labels, atoms, config, folder)
        return _set_up(programs.external_labels, atoms, config, folder)
    made = _set_up(make_calculator, config, skin=0.0)
    return _by_ase(made, atoms, folder)


def _set_up(function: Any, *arguments: Any, **keywords: Any) -> Any:
    try:
        return function(*arguments, **keywords)
    except AtommlError as error:
        raise _SetupError from error


def _by_ase(calculator: AseCalculator, atoms: Atoms, folder: Path) -> Labels:
    if str(getattr(calculator, "directory", "")) == ".":  # several processes must not write the same files
        calculator.directory = str(folder)
    atoms.calc = calculator
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), None
    if atoms.pbc.all():
        with suppress(PropertyNotImplementedError):
            stress = atoms.get_stress(voigt=False)
    return Labels(energy, forces, stress)


def _kind_of(error: Exception) -> Failure:
    if isinstance(error, LabelFailureError):
        return error.kind
    if isinstance(error, SCFError) or _CONVERGENCE.search(f"{type(error).__name__} {error}"):
        return "not_converged"
    if isinstance(error, UnsupportedError | NotImplementedError | PropertyNotImplementedError):
        return "unsupported"
    return "error"


def _in_one_line(error: Exception) -> str:
    name = "" if isinstance(error, LabelFailureError) else f"{type(error).__name__}: "
    return (name + " ".join(str(error).split()))[:600]


def _described(error: BaseException | None) -> dict[str, Any]:
    assert isinstance(error, AtommlError)
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
