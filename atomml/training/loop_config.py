"""Configuration of the training loop, whatever is trained: optimiser, schedule, limits, precision, checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from atomml.config import Config

__all__ = ["Fraction", "LoopConfig", "OptimizerConfig", "ScheduleConfig"]

Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """Adam or AdamW."""

    kind: Literal["adam", "adamw"] = "adamw"
    """``adamw`` decouples the weight decay from the gradient."""
    lr: PositiveFloat = 2e-3
    """Highest learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Applied to matrices only, never to biases or other one-dimensional parameters."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the first and second moments."""
    eps: PositiveFloat = 1e-8
    """Term that keeps the division by the second moment finite."""
    amsgrad: bool = True
    """Use the largest second moment seen so far."""


class ScheduleConfig(Config):
    """Learning rate as a factor of ``optimizer.lr``: a linear warm-up, then constant, cosine, cyclic or plateau."""

    kind: Literal["cosine", "plateau", "constant", "cyclic"] = "cosine"
    """``cosine`` falls to ``min_factor`` over ``epochs`` or ``max_steps``, whichever ends first; ``plateau``
    multiplies by ``factor`` when the validation loss has not improved for ``patience`` epochs; ``cyclic`` is the
    cosine over every single epoch."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    warmup_epochs: NonNegativeFloat = 0.0
    """The same in epochs (of the first epoch's length); the two are added."""
    min_factor: Fraction = 0.01
    """Lowest factor."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Plateau: factor of each reduction."""
    patience: PositiveInt = 10
    """Plateau: epochs without improvement before a reduction."""


class LoopConfig(Config):
    """What every training has in common."""

    run_dir: str = Field(examples=["runs/first"])
    """Folder for all results; it must be empty or absent unless ``--resume`` or ``--overwrite`` is given."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning-rate schedule."""
    epochs: PositiveInt | None = Field(default=None, examples=[100])
    """Passes over the training set. At least one of epochs, max_steps and max_minutes is needed."""
    max_steps: PositiveInt | None = None
    """Optimiser steps."""
    max_minutes: PositiveFloat | None = None
    """Wall time of the training loop, resumed time included; it then ends with the usual final evaluation."""
    ema: Fraction = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0 turns it off."""
    clip_norm: PositiveFloat | None = 10.0
    """Largest norm of the gradient; null for no clipping."""
    early_stop: PositiveInt | None = None
    """Stop after this many epochs without a lower validation loss."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Precision of the network; energies are always float64. ``bfloat16``: autocast over float32 weights."""
    device: str = "auto"
    """``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:1``."""
    seed: int = 0
    """Seed of the initial weights and of the order of the batches."""
    threads: PositiveInt | None = None
    """Threads of torch during the training; the former number is restored afterwards."""
    checkpoint_minutes: PositiveFloat | None = 10.0
    """Minutes between checkpoints inside an epoch."""
    checkpoint_steps: PositiveInt | None = None
    """Steps between checkpoints inside an epoch. There is always one after each epoch's validation."""
    log_every: PositiveInt = 50
    """Steps between lines of ``log.jsonl`` inside an epoch."""

    @model_validator(mode="after")
    def _limits(self) -> LoopConfig:
        if self.epochs is None and self.max_steps is None:
            if self.max_minutes is None:
                raise ValueError("give at least one of epochs, max_steps, max_minutes")
            if self.schedule.kind == "cosine":
                raise ValueError("a cosine schedule needs epochs or max_steps to know its end")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as written to ``config.yaml``."""
        return self.model_dump(mode="json")
