"""atomml: fast equivariant potentials with honest uncertainty, and crystal generation.

The names below are imported when first used; ``import atomml`` alone is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atomml._version import __version__

if TYPE_CHECKING:
    from atomml.crystals.generate import generate as generate
    from atomml.graph.atom_graph import AtomGraph as AtomGraph
    from atomml.potentials.prediction import Prediction as Prediction
    from atomml.simulate.calculator import Calculator as Calculator
    from atomml.training.run import train as train
    from atomml.uncertainty.model_file import load_model as load

_HOMES = {
    "AtomGraph": ("graph.atom_graph", "AtomGraph"),
    "Calculator": ("simulate.calculator", "Calculator"),
    "Prediction": ("potentials.prediction", "Prediction"),
    "generate": ("crystals.generate", "generate"),
    "load": ("uncertainty.model_file", "load_model"),
    "train": ("training.run", "train"),
}

__all__ = ["AtomGraph", "Calculator", "Prediction", "__version__", "generate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
