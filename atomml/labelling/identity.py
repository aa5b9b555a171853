"""What a labeller is: everything that decides its numbers, its name, and where its files are."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from atomml.calculators import calculator_identity, calculator_name, located
from atomml.labelling.config import (
    AnyLabelCalculator,
    Cp2kCalculator,
    GpawCalculator,
    LabellerConfig,
    ProcessCalculator,
    PyscfCalculator,
)

__all__ = ["labeller_identity", "labeller_name", "located_labeller"]

_HOW = ("command", "environment", "shell")  # where a program is and how it is started


def labeller_identity(calculator: AnyLabelCalculator) -> dict[str, Any]:
    """What decides the numbers: settings, version, hash of a model file; not where a program is installed.

    Raises:
        DataError: the model file cannot be read.
    """
    if isinstance(calculator, GpawCalculator | Cp2kCalculator):
        settings = calculator.model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in _HOW}
    if isinstance(calculator, ProcessCalculator):
        words = [Path(word).name for word in calculator.command]
        return calculator.model_dump(mode="json") | {"command": words}
    if isinstance(calculator, PyscfCalculator):
        try:
            installed = version("pyscf")
        except PackageNotFoundError:
            installed = "not installed"
        return calculator.model_dump(mode="json") | {"version": installed}
    return calculator_identity(calculator)


def labeller_name(calculator: AnyLabelCalculator) -> str:
    """One line for headers and reports: "pyscf 2.14.0, r2scan/def2-svp"."""
    if isinstance(calculator, PyscfCalculator):
        identity = labeller_identity(calculator)
        return f"pyscf {identity['version']}, {calculator.functional}/{calculator.basis}"
    if isinstance(calculator, GpawCalculator | Cp2kCalculator):
        return f"{calculator.kind} {calculator.version}".strip() + f", {calculator.xc}"
    if isinstance(calculator, ProcessCalculator):
        return f"{calculator.name} {calculator.version}".strip()
    return calculator_name(calculator)


def located_labeller(labeller: LabellerConfig, base: Path) -> LabellerConfig:
    """The same labeller with the files it names (a model, a script) as full paths, looked for in ``base``.

    Raises:
        ConfigError: there is no such model file.
    """
    calculator = labeller.calculator
    if isinstance(calculator, ProcessCalculator):
        words = [_full_path(word, base) for word in calculator.command]
        return labeller.model_copy(update={"calculator": calculator.model_copy(update={"command": words})})
    if isinstance(calculator, PyscfCalculator | GpawCalculator | Cp2kCalculator):
        return labeller
    return labeller.model_copy(update={"calculator": located(calculator, base)})


def _full_path(word: str, base: Path) -> str:
    return str((base / word).absolute()) if (base / word).is_file() else word
