"""Learning rate as a pure function of the position in the training, and the plateau rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from atomml.training.loop_config import ScheduleConfig

__all__ = ["Plateau", "after_validation", "learning_rate_factor"]


@dataclass(frozen=True)
class Plateau:
    """Memory of the plateau rule.

    Attributes:
        factor: present factor of the learning rate.
        best: lowest validation loss so far.
        waited: epochs since then.
    """

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0


def learning_rate_factor(
    config: ScheduleConfig, step: int, progress: float, steps_per_epoch: int, plateau: Plateau
) -> float:
    """Factor of ``optimizer.lr`` for the step with number ``step`` (from 0).

    With w warm-up steps the factor is (step + 1)/w below w. Above, cosine is
    m + (1 − m)(1 + cos πt)/2 with m = ``min_factor`` and t = (p − p_w)/(1 − p_w), where p is
    ``progress``, the fraction of the training done, and p_w = p·w/step its value at the end of the warm-up;
    plateau and constant are flat pieces; cyclic is the cosine over each epoch, t = step / steps per epoch modulo 1.

    Args:
        config: the schedule.
        step: optimiser steps done so far.
        progress: fraction of the training done, 0 to 1.
        steps_per_epoch: number of steps of the first epoch, for a warm-up in epochs.
        plateau: memory of the plateau rule.
    """
    warmup = config.warmup_steps + round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if config.kind == "constant":
        return 1.0
    if config.kind == "plateau":
        return max(plateau.factor, config.min_factor)
    if config.kind == "cyclic":
        return _cosine((step % steps_per_epoch) / steps_per_epoch, config.min_factor)
    start = progress * warmup / step if step else 0.0
    t = min(max((progress - start) / (1.0 - start), 0.0), 1.0) if start < 1.0 else 1.0
    return _cosine(t, config.min_factor)


def _cosine(t: float, lowest: float) -> float:
    """The factor m + (1 − m)(1 + cos πt)/2."""
    return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * t))


def after_validation(config: ScheduleConfig, plateau: Plateau, loss: float) -> Plateau:
    """Plateau memory after a validation: the factor falls when ``patience`` epochs brought no improvement."""
    if loss < plateau.best:
        return replace(plateau, best=loss, waited=0)
    waited = plateau.waited + 1
    if waited < config.patience:
        return replace(plateau, waited=waited)
    return replace(plateau, factor=max(plateau.factor * config.factor, config.min_factor), waited=0)
