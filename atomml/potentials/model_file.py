"""Model files: one safetensors file with weights, coupling factors, reference energies and a JSON header.

Reading a header needs neither torch nor the tensors. Nothing in a model file is ever executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atomml._version import __version__
from atomml.errors import ModelFileError
from atomml.files import write_atomically

if TYPE_CHECKING:
    from numpy import ndarray

    from atomml.kernels.cp_factors import CPFactors
    from atomml.potentials.compiled import CompiledPotential
    from atomml.potentials.potential import Potential
    from atomml.shapes import Float64, Tensor

__all__ = [
    "FORMAT_VERSION",
    "bundled_models",
    "find_model",
    "load_model",
    "potential_of",
    "read_header",
    "read_model",
    "save_model",
]

FORMAT, CRYSTAL_FORMAT = "atomml-model", "atomml-crystal-model"
"""Potentials, which this module writes, and `atomml.crystals.model_file`."""
FORMAT_VERSION = 3
"""The newest version that is read. A file states the oldest one that describes it: 3 with an uncertainty, 2 for a
compiled model, else 1."""
KEY = "atomml"
UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å³ (ASE sign, Voigt order)"}
FACTOR_FACTS = ("lmax", "kind", "rank", "error", "grouping", "conditioning", "seed", "method")

Tensors = dict[str, Any]
Upgrade = Callable[[dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]
UPGRADES: dict[int, Upgrade] = dict.fromkeys((1, 2), lambda header, tensors: (header, tensors))
"""Functions that bring the header and the tensors of version n to version n + 1. 2 only adds compiled models, 3
what is known about the uncertainty."""


def save_model(
    potential: Potential,
    path: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str = "not stated",
    uncertainty: Mapping[str, Any] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``potential`` to ``path``; a file already there is replaced only when the new one is complete.

    Args:
        potential: what to save; for a compiled one its tables are written in place of the radial networks.
        path: a name ending in ``.safetensors``.
        training: resolved training configuration.
        data: fingerprint and description of the training data.
        metrics: errors measured at the end of training.
        licence: terms under which the model may be used.
        uncertainty: the entry of that name in the header; `atomml.uncertainty.save_model` makes it.
        extra: tensors to add, or to put in place of the weights.

    Raises:
        ModelFileError: the file cannot be written (no space, no permission).
    """
    from safetensors.torch import save

    from atomml.potentials.compiled import CompiledPotential

    tensors = {f"weights.{k}": v.detach().cpu().contiguous() for k, v in potential.state_dict().items()}
    tensors |= _tensors_of_factors(potential.factors)
    header = _header(potential)
    if isinstance(potential, CompiledPotential):
        tensors |= _tensors_of_tables(potential)
        header |= {"format_version": 2, "compiled": potential.compilation | {"offsets": potential.offsets}}
    if uncertainty is not None:
        header |= {"format_version": 3, "uncertainty": dict(uncertainty)}
    tensors |= extra or {}
    header |= {
        "training": dict(training or {}),
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "licence": licence,
    }
    write_atomically(Path(path), save(tensors, {KEY: json.dumps(header)}), error=ModelFileError)
    return Path(path)


def load_model(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] | None = None,
) -> Potential:
    """Load a potential from a model file, or a bundled one by its name ("demo"), without its uncertainty.

    The file of a compiled model gives a `CompiledPotential`. With deviations: `atomml.uncertainty.load_model`, which
    is also `atomml.load`.

    Args:
        path: a file, or the name of a model in the package.
        device: where to put the weights: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.
        dtype: precision; that of the file by default.

    Raises:
        ModelFileError: no such file, not a model file, truncated, of a newer version, or inconsistent; several
            members.
        ConfigError: there is no such device.
    """
    from atomml.potentials.devices import find_device

    where = find_device(device)
    header, tensors = read_model(path)
    if header.get("uncertainty", {}).get("members", 1) > 1:
        raise ModelFileError(
            f"The file holds {header['uncertainty']['members']} members, not one potential.",
            where=str(path),
            fix="load it by atomml.load; train or compile a single model",
        )
    return potential_of(header, tensors, path, dtype=dtype).to(where).eval()


def read_model(path: str | Path) -> tuple[dict[str, Any], Tensors]:
    """Header and tensors of a model file, brought to the newest version.

    Raises:
        ModelFileError: no such file, not a model file, truncated, or of a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = find_model(path)
    header = read_header(path)
    try:
        return _upgrade(header, load_file(path), path)
    except SafetensorError as error:
        raise _inconsistent(error, path) from error


def potential_of(
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: str | Path,
    *,
    dtype: Literal["float32", "float64"] | None = None,
) -> Potential:
    """The potential that a header and its tensors describe, on the CPU.

    Args:
        header: of a model file.
        tensors: with the weights as ``weights.<name>``.
        path: named in errors.
        dtype: precision; that of the file by default.

    Raises:
        ModelFileError: header and tensors do not fit together.
    """
    import torch
    from pydantic import TypeAdapter

    from atomml.potentials.build import build_potential
    from atomml.potentials.config import ModelConfig

    try:
        potential = build_potential(
            TypeAdapter(ModelConfig).validate_python(header["config"]),
            elements=header["elements"],
            e0={int(z): e for z, e in header["e0"].items()},
            average_neighbors=header["average_neighbors"],
            scale=header["scale"],
            seed=0,
            factors=_factors_of_tensors(header["factors"], tensors),
        )
        if "compiled" in header:
            potential = _with_tables(potential, header["compiled"], dict(tensors))
        potential = potential.to(dtype=getattr(torch, dtype or header["dtype"]))
        potential.load_state_dict(
            {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        )
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _inconsistent(error, path) from error
    potential.metadata = dict(header)
    return potential


def _inconsistent(error: Exception, path: str | Path) -> ModelFileError:
    return ModelFileError(
        f"The model file is inconsistent: {error}", where=str(path), fix="get a fresh copy of the file"
    )


def read_header(path: str | Path, *kinds: str) -> dict[str, Any]:
    """The JSON header of a model file: configuration, elements, units, data fingerprint, metrics.

    Args:
        path: a file, or the name of a model in the package.
        kinds: formats that the file may have; by default that of a potential.

    Raises:
        ModelFileError: no such file, not a model file of ours, or truncated.
    """
    path = find_model(path)
    foreign = {
        "where": str(path),
        "fix": "atomml reads its own .safetensors files; `atomml train` writes them",
    }
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise ModelFileError("This is not a model file, or it is truncated.", **foreign)
        try:
            table = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelFileError("This is not a model file.", **foreign) from error
    text = table.get("__metadata__", {}).get(KEY) if isinstance(table, dict) else None
    if text is None:
        raise ModelFileError("A safetensors file, but not one of atomml.", **foreign)
    end = max((t["data_offsets"][1] for k, t in table.items() if k != "__metadata__"), default=0)
    if size != 8 + length + end:
        raise ModelFileError(
            f"The model file is truncated: {size} of {8 + length + end} bytes.",
            where=str(path),
            fix="copy or download it again",
        )
    header: dict[str, Any] = json.loads(text)
    kinds = kinds or (FORMAT,)
    if header.get("format") not in kinds or not isinstance(header.get("format_version"), int):
        needed = " or ".join(repr(kind) for kind in kinds)
        raise ModelFileError(f"The file is {header.get('format')!r}, where {needed} is needed.", **foreign)
    return header


def bundled_models(folder: str = "") -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.stem for p in (_assets() / folder).glob("*.safetensors"))


def _header(potential: Potential) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": 1,
        "atomml": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("torch", "e3nn")},
        "config": potential.config.model_dump(mode="json"),
        "elements": list(potential.elements),
        "e0": {str(z): e for z, e in potential.e0.items()},
        "units": UNITS,
        "scale": potential.scale,
        "average_neighbors": potential.average_neighbors,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in potential.parameters()),
        "conservative": potential.conservative,
        "factors": {
            role: {name: getattr(f, name) for name in FACTOR_FACTS} | {"groups": list(f.groups)}
            for role, f in potential.factors.items()
        },
    }


def _tensors_of_factors(factors: Mapping[str, CPFactors]) -> Tensors:
    import torch

    return {
        f"factors.{role}.{name}": torch.tensor(getattr(f, name))
        for role, f in factors.items()
        for name in ("a", "b", "d")
    }


def _factors_of_tensors(table: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, CPFactors]:
    from atomml.kernels.cp_factors import CPFactors

    def matrix(role: str, name: str) -> Float64[ndarray, "dim rank"]:
        return tensors[f"factors.{role}.{name}"].numpy()

    return {
        role: CPFactors(
            a=matrix(role, "a"),
            b=matrix(role, "b"),
            d=matrix(role, "d"),
            **(entry | {"groups": tuple(entry["groups"])}),
        )
        for role, entry in table.items()
    }


def _tensors_of_tables(potential: CompiledPotential) -> Tensors:
    import torch

    return {
        f"tables.{k}.{name}": torch.tensor(master)
        for k, table in enumerate(potential.tables)
        for name, master in zip(("values", "slopes"), table.masters(), strict=True)
    }


def _with_tables(source: Potential, compilation: Mapping[str, Any], tensors: Tensors) -> CompiledPotential:
    from atomml.nn.radial_table import RadialTable
    from atomml.potentials.compiled import CompiledPotential

    facts = dict(compilation)
    tables = [
        RadialTable(
            tensors[f"tables.{k}.values"].numpy(), tensors[f"tables.{k}.slopes"].numpy(), source.cutoff
        )
        for k in range(len(facts["knots"]))
    ]
    return CompiledPotential(source, tables, offsets=facts.pop("offsets"), compilation=facts)


def _upgrade(header: dict[str, Any], tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    version = header["format_version"]
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"The file has format version {version}; this atomml reads up to {FORMAT_VERSION}.",
            where=str(path),
            fix="update atomml",
        )
    for step in range(version, FORMAT_VERSION):
        header, tensors = UPGRADES[step](header, tensors)
    return header, tensors


def _assets() -> Path:
    return Path(__file__).parent.parent / "assets"


def find_model(path: str | Path, folder: str = "") -> Path:
    """A file as given, or the bundled model of that name; those of crystals are in the ``folder`` crystals.

    Raises:
        ModelFileError: neither.
    """
    given = Path(path)
    bundled = _assets() / folder / f"{path}.safetensors"
    if given.is_file():
        return given
    if bundled.is_file():
        return bundled
    raise ModelFileError(
        "There is no such model file.",
        where=str(path),
        fix=f"give a file, or one of the bundled models: {', '.join(bundled_models(folder)) or 'none installed'}",
    )
