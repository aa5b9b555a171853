"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from atomml.shapes import Tensor

__all__ = ["ema_decay", "start_ema", "swapped_weights", "update_ema"]


def ema_decay(decay: float, step: int) -> float:
    """Decay at update ``step`` (from 0): min(decay, (1 + step)/(10 + step)), to forget the start."""
    return min(decay, (1.0 + step) / (10.0 + step))


def start_ema(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@torch.no_grad()
def update_ema(average: Mapping[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    """Average ← d · average + (1 − d) · weights, in place, with d of `ema_decay`; frozen weights stay."""
    pairs = [(average[name], p) for name, p in module.named_parameters() if p.requires_grad]
    if pairs:
        torch._foreach_lerp_(
            [a for a, _ in pairs], [p.detach() for _, p in pairs], 1.0 - ema_decay(decay, step)
        )


@contextmanager
def swapped_weights(module: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Run a block with ``weights`` in place of the parameters; the parameters come back bit for bit.

    The tensors are exchanged, not copied. None leaves the module as it is.
    """
    if weights is None:
        yield
        return
    own = {name: p.data for name, p in module.named_parameters()}
    try:
        for name, p in module.named_parameters():
            p.data = weights[name]
        yield
    finally:
        for name, p in module.named_parameters():
            p.data = own[name]
