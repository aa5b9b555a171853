"""Training: data and a configuration to a model file.

Imports are lazy, so that checking a configuration does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomml.training.config import FinetuneConfig as FinetuneConfig
    from atomml.training.config import TrainConfig as TrainConfig
    from atomml.training.evaluation import Evaluation as Evaluation
    from atomml.training.evaluation import evaluate as evaluate
    from atomml.training.finetuning import finetune as finetune
    from atomml.training.report import write_evaluation as write_evaluation
    from atomml.training.run import TrainResult as TrainResult
    from atomml.training.run import train as train

_HOMES = {
    "Evaluation": "evaluation",
    "FinetuneConfig": "config",
    "TrainConfig": "config",
    "TrainResult": "run",
    "evaluate": "evaluation",
    "finetune": "finetuning",
    "train": "run",
    "write_evaluation": "report",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
