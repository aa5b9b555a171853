"""Files of crystal models: one safetensors file with weights and a JSON header; nothing in it is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from atomml._version import __version__
from atomml.crystals.config import CrystalModelConfig
from atomml.crystals.model import CrystalModel
from atomml.errors import ConfigError, ModelFileError
from atomml.files import write_atomically
from atomml.potentials.devices import find_device
from atomml.potentials.model_file import CRYSTAL_FORMAT, KEY, find_model, read_header

__all__ = ["load_crystal_model", "model_facts", "save_crystal_model"]

FORMAT_VERSION = 1
UNITS = {"length": "Å", "density": "g/cm³"}
WEIGHTS = "weights."


def model_facts(model: CrystalModel) -> dict[str, Any]:
    """What was computed from the training data, as JSON."""
    return {
        "elements": list(model.elements),
        "lattice_scale": model.lattice_scale,
        "atom_counts": {str(n): share for n, share in model.atom_counts.items()},
        "property_scales": {name: list(pair) for name, pair in model.property_scales.items()},
    }


def save_crystal_model(
    model: CrystalModel,
    path: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str = "not stated",
) -> Path:
    """Write a model; a file already there is replaced only when the new one is complete.

    Args:
        model: what to save.
        path: a name ending in ``.safetensors``.
        training: resolved training configuration.
        data: fingerprint and description of the training data.
        metrics: losses at the end of training.
        licence: terms under which the model may be used.

    Raises:
        ModelFileError: the file cannot be written.
    """
    header = {
        "format": CRYSTAL_FORMAT,
        "format_version": FORMAT_VERSION,
        "atomml": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": model.config.model_dump(mode="json"),
        "units": UNITS,
        **model_facts(model),
        "training": dict(training or {}),
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "licence": licence,
    }
    tensors = {WEIGHTS + k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_atomically(Path(path), save(tensors, {KEY: json.dumps(header)}), error=ModelFileError)
    return Path(path)


def load_crystal_model(path: str | Path, *, device: str = "cpu") -> CrystalModel:
    """Load a model from its file, or the bundled one by the name ``demo``.

    Raises:
        ModelFileError: no such file, not a crystal model of ours, truncated, of a newer version, or inconsistent.
        ConfigError: there is no such device.
    """
    where = find_device(device)
    path = find_model(path, "crystals")
    header = read_header(path, CRYSTAL_FORMAT)
    if header["format_version"] > FORMAT_VERSION:
        raise ModelFileError(
            f"The file has format {header['format_version']}; this version of atomml reads up to {FORMAT_VERSION}.",
            where=str(path),
            fix="install a newer atomml",
        )
    try:
        model = crystal_model_of(CrystalModelConfig.model_validate(header["config"]), header)
        tensors = load_file(path)
        model.load_state_dict({k.removeprefix(WEIGHTS): v for k, v in tensors.items()})
    except (KeyError, ValueError, TypeError, RuntimeError, ConfigError, SafetensorError) as error:
        raise ModelFileError(
            f"The model file is inconsistent: {error}", where=str(path), fix="get a fresh copy of the file"
        ) from error
    model.metadata = header
    return model.to(where).eval()


def crystal_model_of(config: CrystalModelConfig, facts: Mapping[str, Any]) -> CrystalModel:
    """A model with new weights from its configuration and `model_facts`."""
    return CrystalModel(
        config,
        elements=facts["elements"],
        lattice_scale=facts["lattice_scale"],
        atom_counts={int(n): float(share) for n, share in facts["atom_counts"].items()},
        property_scales={name: (pair[0], pair[1]) for name, pair in facts["property_scales"].items()},
    )
