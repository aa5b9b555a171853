"""Configuration of the methods that say how uncertain a potential is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from atomml.config import Config

__all__ = [
    "DiagonalLaplaceConfig",
    "EnsembleConfig",
    "HeadsOnlyConfig",
    "IVONConfig",
    "LLPRConfig",
    "SWAGConfig",
    "UncertaintyConfig",
]

Samples = Annotated[int, Field(ge=2, le=1000)]


class _MethodConfig(Config):
    """What all methods have in common."""

    calibrate: Literal["nll", "crps", "robust", "coverage", "affine", "none"] = "nll"
    """How the deviations are scaled on the validation frames at the end: so that they have the best likelihood
    (``nll``) or CRPS, by typical errors (``robust``), by the fractions inside all intervals (``coverage``), with a
    floor as well (``affine``), or not at all. `atomml calibrate` does it again on other frames."""
    by_element: bool = False
    """One scale of the force deviations for each element."""


class HeadsOnlyConfig(_MethodConfig):
    """Only what the network itself predicts: ``model.noise``, and the spread of ``model.heads``."""

    kind: Literal["heads"] = "heads"
    """Which method: ``heads`` (this one), ``ensemble``, ``swag``, ``ivon``, ``llpr`` or ``laplace_diagonal``."""


class EnsembleConfig(_MethodConfig):
    """Deep ensemble: several trainings that differ in their seed, each in ``run_dir/members``."""

    kind: Literal["ensemble"] = "ensemble"
    """Which method."""
    members: Samples = 4
    """Number of trainings; the seeds are ``seed``, ``seed`` + 1, …"""


class SWAGConfig(_MethodConfig):
    """Gaussian fitted to the path of the optimiser: after the training, epochs at a constant or cyclic rate."""

    kind: Literal["swag"] = "swag"
    """Which method."""
    epochs: PositiveInt = 20
    """Epochs after the training, in which weights are collected."""
    lr: PositiveFloat | None = None
    """Learning rate of these epochs; by default half of ``optimizer.lr``. The spread grows with it."""
    rate: Literal["constant", "cyclic"] = "constant"
    """``cyclic``: within each epoch from ``lr`` down to a hundredth of it."""
    rank: PositiveInt = 20
    """Number of last snapshots that make the low-rank part of the covariance."""
    samples: Samples = 16
    """Number of weight samples that a prediction averages."""


class IVONConfig(_MethodConfig):
    """Variational Gaussian over all weights, learned in place of Adam; needs ``loss.normalization: structure``.

    With ``loss.balance: likelihood``, ``beta: 0``, ``feedback: 1`` and ``warmup: 0`` it approximates the Bayesian
    posterior for a Gaussian likelihood, otherwise one for the loss that is minimised (a generalised posterior).
    """

    kind: Literal["ivon"] = "ivon"
    """Which method."""
    ess: PositiveFloat | None = None
    """Effective number of training structures; by default their number. Larger is colder."""
    std_init: PositiveFloat = 0.01
    """Deviation of every weight at the start, which decides the first value of the diagonal Hessian."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's average."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99999
    """Decay of the Hessian's average. Its estimates scatter by √(ess · h) times the gradient, a hundred times h and
    more; an average over too few of them comes near zero sooner or later, and the training diverges."""
    prior_precision: PositiveFloat = 1.0
    """Precision of the Gaussian prior of each weight; positive, or flat directions would spread without end."""
    clip_radius: PositiveFloat = 1.0
    """Largest change of a weight in units of ``optimizer.lr``."""
    samples: Samples = 16
    """Number of weight samples that a prediction averages."""


class LLPRConfig(_MethodConfig):
    """Last-layer prediction rigidity: the exact Gaussian posterior of the last linear layer, after the training."""

    kind: Literal["llpr"] = "llpr"
    """Which method."""
    force_frames: int = Field(default=100, ge=0)
    """Training frames whose forces enter the covariance besides all energies; each costs one backward pass per
    feature. 0: energies only, as published."""


class DiagonalLaplaceConfig(_MethodConfig):
    """Diagonal Gauss–Newton Laplace approximation over the weights of the body from the energies; for comparison.

    The predictions are those of the network linearised in its weights.
    """

    kind: Literal["laplace_diagonal"] = "laplace_diagonal"
    """Which method."""
    samples: Samples = 16
    """Number of weight samples that a prediction averages."""


UncertaintyConfig = Annotated[
    HeadsOnlyConfig | EnsembleConfig | SWAGConfig | IVONConfig | LLPRConfig | DiagonalLaplaceConfig,
    Field(discriminator="kind"),
]
