"""Calculators that drive or label sampled structures: what a configuration can name, and how each is made."""

from __future__ import annotations

import hashlib
import importlib
import io
from contextlib import redirect_stdout
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.calculators.calculator import Calculator as AseCalculator
from pydantic import Field

from atomml._optional import require
from atomml._version import __version__
from atomml.config import Config
from atomml.errors import ConfigError, DataError

__all__ = [
    "AnyCalculator",
    "AtommlCalculator",
    "CalculatorConfig",
    "ChgnetCalculator",
    "EmtCalculator",
    "ImportCalculator",
    "LennardJonesCalculator",
    "TbliteCalculator",
    "calculator_identity",
    "calculator_name",
    "located",
    "make_calculator",
]


class AtommlCalculator(Config):
    """A potential of atomml."""

    kind: Literal["atomml"] = "atomml"
    """Which calculator: atomml, chgnet, tblite, emt, lj or import."""
    model: str = "demo"
    """Model file (a compiled one too), or "demo"; looked for as it is, then beside the configuration."""
    device: str = "cpu"
    """cpu, cuda or cuda:1. On a GPU sums may come in another order each time: runs are then not repeatable bit
    for bit."""
    dtype: Literal["float32", "float64"] | None = None
    """Floating type; that of the file by default."""


class ChgnetCalculator(Config):
    """CHGNet, whose weights come with its package."""

    kind: Literal["chgnet"] = "chgnet"
    """A pretrained CHGNet; needs ``pip install chgnet``."""
    model: Literal["r2scan", "0.3.0", "0.2.0"] = "r2scan"
    """r2scan (transfer-learned on r2SCAN), 0.3.0 or 0.2.0 (PBE and PBE+U, Materials Project)."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""


class TbliteCalculator(Config):
    """Semi-empirical tight binding (xTB). It has no k-points: use cells of 10 Å and more."""

    kind: Literal["tblite"] = "tblite"
    """xTB; needs ``pip install 'tblite[ase]'``."""
    method: Literal["GFN1-xTB", "GFN2-xTB"] = "GFN1-xTB"
    """GFN1-xTB is the faster one for crystals."""


class EmtCalculator(Config):
    """Effective medium theory of ASE, for fcc metals: fast, for trials."""

    kind: Literal["emt"] = "emt"
    """ASE's EMT (Al, Cu, Ag, Au, Ni, Pd, Pt; rough for H, C, N, O)."""


class LennardJonesCalculator(Config):
    """One Lennard-Jones potential for all atoms, by ASE: fast, for trials."""

    kind: Literal["lj"] = "lj"
    """ASE's Lennard-Jones potential, with a smooth cutoff."""
    epsilon: float = Field(default=0.0104, gt=0)
    """Depth in eV (argon by default)."""
    sigma: float = Field(default=3.40, gt=0)
    """Zero of the energy in Å."""
    cutoff: float = Field(default=8.5, gt=0)
    """Cutoff in Å."""


class ImportCalculator(Config):
    """Any other ASE calculator, made by code of yours. Naming it here runs that code."""

    kind: Literal["import"] = "import"
    """A function that returns an ASE calculator."""
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", examples=["my_calculators:make"])
    """``module:function``, importable from where the command runs (PYTHONPATH). It is called once for every
    trajectory and every batch of labels, so that none depends on what was computed before."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the function."""
    version: str = ""
    """What to write down as the version. Change it when the code changes: what an earlier run finished is reused
    only for the same calculator, and the program cannot see into your code."""


AnyCalculator = (
    AtommlCalculator
    | ChgnetCalculator
    | TbliteCalculator
    | EmtCalculator
    | LennardJonesCalculator
    | ImportCalculator
)
CalculatorConfig = Annotated[AnyCalculator, Field(discriminator="kind")]


def located(config: AnyCalculator, base: Path) -> AnyCalculator:
    """The same calculator with the path of its model resolved against the folder ``base``.

    Raises:
        ConfigError: there is no such model file.
    """
    if not isinstance(config, AtommlCalculator) or config.model == "demo":
        return config
    for path in (Path(config.model).expanduser(), base / config.model):
        if path.is_file():
            return config.model_copy(update={"model": str(path.resolve())})
    raise ConfigError(
        "There is no such model file.", where=config.model, fix='give the path of a model, or "demo"'
    )


def make_calculator(config: AnyCalculator, *, skin: float = 0.5) -> AseCalculator:
    """A new calculator, without any memory of earlier structures.

    Args:
        config: which.
        skin: of the neighbour list of an atomml potential, Å; 0 forgets each structure before the next.

    Raises:
        UnsupportedError: its package is not installed; the message has the pip command.
        ConfigError: the target of an import is not a function that returns an ASE calculator.
        ModelFileError: not a model of atomml.
    """
    if isinstance(config, AtommlCalculator):
        from atomml.simulate.calculator import Calculator

        potential = _potential(config.model, config.device, config.dtype)
        return Calculator(potential, skin=skin, deviations=False)
    if isinstance(config, ChgnetCalculator):
        return _chgnet(config)
    if isinstance(config, TbliteCalculator):
        tblite = require("tblite.ase", extra="label")
        return tblite.TBLite(method=config.method, verbosity=0)
    if isinstance(config, EmtCalculator):
        from ase.calculators.emt import EMT

        return EMT()
    if isinstance(config, LennardJonesCalculator):
        from ase.calculators.lj import LennardJones

        return LennardJones(sigma=config.sigma, epsilon=config.epsilon, rc=config.cutoff, smooth=True)
    return _imported(config)


@lru_cache(maxsize=2)
def _potential(model: str, device: str, dtype: Literal["float32", "float64"] | None) -> Any:
    from atomml.uncertainty.model_file import load_model

    return load_model(model, device=device, dtype=dtype)


def _chgnet(config: ChgnetCalculator) -> AseCalculator:
    require("chgnet", extra="teachers")
    dynamics = importlib.import_module("chgnet.model.dynamics")
    with redirect_stdout(io.StringIO()):  # it prints where it runs, every time
        return dynamics.CHGNetCalculator(
            _chgnet_model(config.model, config.device), use_device=config.device, on_isolated_atoms="error"
        )


@lru_cache(maxsize=2)
def _chgnet_model(name: str, device: str) -> Any:
    model = importlib.import_module("chgnet.model.model")
    return model.CHGNet.load(model_name=name, use_device=device, verbose=False)


def _imported(config: ImportCalculator) -> AseCalculator:
    module, _, name = config.target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The calculator cannot be imported ({error}).",
            where=f"target {config.target}",
            fix="write module:function; the module must be importable, for example by PYTHONPATH=.",
        ) from error
    calculator = factory(**config.arguments)
    if not hasattr(calculator, "get_property"):
        raise ConfigError(
            f"The function returned {type(calculator).__name__}, not an ASE calculator.",
            where=f"target {config.target}",
            fix="return an object of a subclass of ase.calculators.calculator.Calculator",
        )
    return calculator


def calculator_identity(config: AnyCalculator) -> dict[str, Any]:
    """What decides the numbers of a calculator: settings, version of its code, hash of its model file.

    Raises:
        DataError: the model file cannot be read.
    """
    identity: dict[str, Any] = config.model_dump(mode="json")
    if isinstance(config, AtommlCalculator):
        identity |= {"version": __version__, "model_sha256": _model_hash(config.model)}
        identity["model"] = Path(config.model).name
        return identity
    packages = {"chgnet": "chgnet", "tblite": "tblite", "emt": "ase", "lj": "ase"}
    package = packages.get(config.kind)
    if package is not None:
        try:
            identity["version"] = version(package)
        except PackageNotFoundError:
            identity["version"] = "not installed"
    return identity


def _model_hash(model: str) -> str:
    from atomml.potentials.model_file import find_model

    path = find_model(model)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"The model cannot be read ({error.strerror}).", where=str(path)) from error


def calculator_name(config: AnyCalculator) -> str:
    """One line for headers and reports: "chgnet 0.4.2, model r2scan"."""
    identity = calculator_identity(config)
    name = f"{config.kind} {identity['version']}".strip()
    if isinstance(config, AtommlCalculator | ChgnetCalculator):
        return f"{name}, model {identity['model']}"
    if isinstance(config, TbliteCalculator):
        return f"{name}, {config.method}"
    return f"{config.target} {config.version}".strip() if isinstance(config, ImportCalculator) else name
