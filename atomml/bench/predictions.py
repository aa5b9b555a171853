"""Predicted beside measured times on a GPU, from the model of bytes and arithmetic of the kernels."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from atomml.bench.kernel_cases import LocalCase

__all__ = ["predicted_seconds"]

MODEL = "atomml.kernels.cost_model"


def predicted_seconds(case: LocalCase, lmax: int, mode: str, channels: int, edges: int) -> float | None:
    return None
