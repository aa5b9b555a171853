"""Predicted beside measured times on a GPU, from the model of bytes and arithmetic of the kernels."""

from __future__ import annotations

from atomml.bench.kernel_cases import LocalCase

__all__ = ["predicted_seconds"]

MODEL = "atomml.kernels.cost_model"


def predicted_seconds(case: LocalCase, lmax: int, mode: str, channels: int, edges: int) -> float | None:
    """Seconds of the model in `atomml.kernels.cost_model`; None where it has no answer."""
    return None
