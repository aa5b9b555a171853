"""Potentials: from graphs to energies, forces and stress.

Imports are lazy, so that reading a model file's header or a configuration does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomml.potentials.build import build_potential as build_potential
    from atomml.potentials.config import ModelConfig as ModelConfig
    from atomml.potentials.config import PaperTDNConfig as PaperTDNConfig
    from atomml.potentials.config import TDNConfig as TDNConfig
    from atomml.potentials.model_file import load_model as load_model
    from atomml.potentials.model_file import read_header as read_header
    from atomml.potentials.model_file import save_model as save_model
    from atomml.potentials.potential import Potential as Potential
    from atomml.potentials.prediction import Prediction as Prediction

_HOMES = {
    "ModelConfig": "config",
    "PaperTDNConfig": "config",
    "Potential": "potential",
    "Prediction": "prediction",
    "TDNConfig": "config",
    "build_potential": "build",
    "load_model": "model_file",
    "read_header": "model_file",
    "save_model": "model_file",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
