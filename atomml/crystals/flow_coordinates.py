"""Bayesian flows of fractional coordinates, which are angles.

A `Belief` about an angle is the von Mises distribution vM(m, c). It is the plane vector z = c e^{im}, and both flows
add vectors to it, one for every sample i = 1..n of the true angle x:

- `VonMisesFlow`: z += α_i e^{iy} with y ~ vM(x, α_i), since Π_j vM(y_j | x, α_j) ∝ exp(c cos(m − x)).
- `AdditiveFlow`: z += α_i y with y ~ N(u(x), 1/α_i) in the plane and u(x) = (cos x, sin x). A Gaussian belief about u
  with mean μ and precision ρ is, on the unit circle, exp(−ρ|u(x) − μ|²/2) ∝ exp(ρ μ·u(x)): von Mises with
  z = ρ μ. Precisions add, so z after i samples is N(ρ_i u(x), ρ_i) with ρ_i = Σ_{j≤i} α_j.

A concentration of 0 means that nothing is known; the mean is then a uniform random angle.

Everything is drawn where the generator lives and then moved, so that a CPU generator gives the same numbers on every
device. Wu et al., A Periodic Bayesian Flow for Material Generation, ICLR 2025; Graves et al., Bayesian Flow Networks,
arXiv:2308.07037.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from atomml.crystals.circle import angle_of, mean_length, von_mises, wrap
from atomml.crystals.schedule import accuracy_schedule
from atomml.errors import ConfigError
from atomml.shapes import Bool, Float, Float64, Int64, Tensor

__all__ = [
    "AdditiveFlow",
    "Belief",
    "CoordinateFlow",
    "TrajectoryBank",
    "TrajectoryBanks",
    "VonMisesFlow",
    "cosine_loss",
    "fit_at_any_origin",
    "mean_target",
    "square_loss",
    "update",
]

Angles = Float[Tensor, "*shape"]
Accuracies = Float64[Tensor, " steps"]
Counts = Int64[Tensor, "*#shape"]

_SMALL = 1e-7  # concentration that the feature takes for nothing


class Belief(NamedTuple):
    """von Mises distributions vM(mean, concentration) of angles in radians, both tensors of one shape."""

    mean: Angles
    concentration: Angles


@runtime_checkable
class CoordinateFlow(Protocol):
    """What training and sampling ask of a flow.

    Raises:
        ConfigError: β₁ that is not positive and finite.
    """

    @property
    def beta1(self) -> float:
        """Concentration at the end."""

    def accuracies(self, steps: int) -> Accuracies:
        """α_1..α_n."""

    def loss_weights(self, steps: int) -> Accuracies:
        """Weight w_i of 1 − cos(x − x̂) such that the mean over steps is the sum of the KL divergences."""

    def after(self, x: Angles, done: Counts, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after ``done`` (0..steps) samples of x, independently for every angle."""

    def add(self, belief: Belief, x_hat: Angles, i: int, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after one more sample, number i = 1..steps, drawn around x̂."""

    def __post_init__(self) -> None:
        if not (0 < self.beta1 < math.inf):
            raise ConfigError(f"A flow cannot end at the concentration {self.beta1}.", fix="choose beta1 > 0")

    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Belief:
        """Nothing known: uniform random means, concentration 0; on the device of the generator if none is given."""
        u = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
        mean = angle_of(u if device is None else u.to(device))
        return Belief(mean, torch.zeros_like(mean))

    def feature(self, concentration: Angles) -> Angles:
        """(ln(c + ε) − ln ε) / (ln β₁ − ln ε) with ε = 1e-7, at most 1: what the network is told of c."""
        return (torch.log1p(concentration / _SMALL) / math.log(self.beta1 / _SMALL)).clamp(max=1.0)


@dataclass(frozen=True)
class TrajectoryBank:
    """Beliefs about the angle 0 after 0..n samples, many independent trajectories.

    The law of m − x and c does not depend on x, so a belief about any x after any number of samples is a random row,
    turned by x. 8 B (n + 1) bytes for B rows.
    """

    belief: Belief

    @classmethod
    def simulate(
        cls, flow: CoordinateFlow, steps: int, size: int, generator: torch.Generator
    ) -> TrajectoryBank:
        """``size`` trajectories of a flow, summed in float64 and kept in float32."""
        belief = flow.prior((size,), generator=generator, dtype=torch.float64)
        mean, concentration = [belief.mean.float()], [belief.concentration.float()]
        x = torch.zeros_like(belief.mean)
        for i in range(1, steps + 1):
            belief = flow.add(belief, x, i, steps, generator=generator)
            mean.append(belief.mean.float())
            concentration.append(belief.concentration.float())
        return cls(Belief(torch.stack(mean, dim=1), torch.stack(concentration, dim=1)))

    def to(self, device: torch.device | str) -> TrajectoryBank:
        """The same bank elsewhere."""
        return TrajectoryBank(Belief(*(x.to(device) for x in self.belief)))

    def draw(self, x: Angles, done: Counts, *, generator: torch.Generator) -> Belief:
        """Belief about x after ``done`` samples: a row for every angle."""
        rows = len(self.belief.mean)
        row = torch.randint(rows, x.shape, generator=generator, device=generator.device).to(x.device)
        offset, concentration = (values[row, done].to(x) for values in self.belief)
        return Belief(wrap(x + offset), concentration)


@dataclass
class TrajectoryBanks:
    """Banks of one flow, made when first asked for and kept.

    Attributes:
        size: rows of a bank; 8192 rows of 1000 steps take 66 MB and about two seconds.
        seed: of the trajectories.
    """

    size: int = 8192
    seed: int = 0
    _banks: dict[tuple[float, int, str], TrajectoryBank] = field(default_factory=dict, init=False, repr=False)

    def get(self, flow: CoordinateFlow, steps: int, device: torch.device) -> TrajectoryBank:
        """The bank of a flow with this number of steps, on the device."""
        key = (flow.beta1, steps, str(device))
        if key not in self._banks:
            generator = torch.Generator().manual_seed(self.seed)
            bank = TrajectoryBank.simulate(flow, steps, self.size, generator)
            self._banks[key] = bank.to(device)
        return self._banks[key]

    def refresh(self, seed: int) -> None:
        """Forget all trajectories; the next ones come from ``seed``."""
        self.seed = seed
        self._banks.clear()


@dataclass(frozen=True)
class VonMisesFlow(CoordinateFlow):
    """z += α_i e^{iy}, y ~ vM(x, α_i), with accuracies that make the entropy fall linearly (`accuracy_schedule`).

    The concentration |z| is random and can fall. ``banks`` holds simulated trajectories that make `after` cheap;
    None simulates every draw.
    """

    beta1: float = 1000.0
    banks: TrajectoryBanks | None = field(default_factory=TrajectoryBanks, compare=False, repr=False)

    def accuracies(self, steps: int) -> Accuracies:
        """α_1..α_n; see `accuracy_schedule` for what is refused."""
        return torch.tensor(accuracy_schedule(steps, self.beta1).accuracies)

    def loss_weights(self, steps: int) -> Accuracies:
        """Weights n α_i A(α_i), since KL(vM(x, α) ‖ vM(x̂, α)) = α A(α) (1 − cos(x − x̂))."""
        return torch.tensor(accuracy_schedule(steps, self.beta1).weights)

    def after(self, x: Angles, done: Counts, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after ``done`` (0..steps) samples of x: a row of the bank, or a simulation where there is none."""
        done = done.to(x.device)
        if self.banks is not None:
            return self.banks.get(self, steps, x.device).draw(x, done, generator=generator)
        belief = self.prior(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        for i in range(1, int(done.max()) + 1):
            belief = _where(done >= i, self.add(belief, x, i, steps, generator=generator), belief)
        return belief

    def add(self, belief: Belief, x_hat: Angles, i: int, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after sample number i = 1..steps, y ~ vM(x̂, α_i)."""
        alpha = self.accuracies(steps)[i - 1]
        return update(belief, von_mises(x_hat, alpha, generator=generator), alpha)


@dataclass(frozen=True)
class AdditiveFlow(CoordinateFlow):
    """z += α_i y, y ~ N(u(x), 1/α_i), with precisions ρ(t) = (1 + β₁)^t − 1 and α_i = ρ(i/n) − ρ((i−1)/n).

    The end is that of a Gaussian flow with σ₁² = 1/(1 + β₁).
    """

    beta1: float = 999.0

    def accuracies(self, steps: int) -> Accuracies:
        """α_1..α_n.

        Raises:
            ConfigError: fewer than one step.
        """
        return torch.diff(self._precision(torch.arange(steps + 1), steps))

    def loss_weights(self, steps: int) -> Accuracies:
        """Weights n α_i, since α |u(x) − u(x̂)|²/2 = α (1 − cos(x − x̂))."""
        return steps * self.accuracies(steps)

    def after(self, x: Angles, done: Counts, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after ``done`` (0..steps) samples of x, which are worth one sample of precision ρ."""
        rho = self._precision(done, steps).to(x)
        unknown = self.prior(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return _where(rho > 0, _add_gaussian(unknown, x, rho, generator), unknown)

    def add(self, belief: Belief, x_hat: Angles, i: int, steps: int, *, generator: torch.Generator) -> Belief:
        """Belief after sample number i = 1..steps, y ~ N(u(x̂), 1/α_i)."""
        return _add_gaussian(belief, x_hat, self.accuracies(steps)[i - 1].to(x_hat), generator)

    def _precision(self, done: Int64[Tensor, "*done"], steps: int) -> Float64[Tensor, "*done"]:
        """ρ(t) at t = done/steps."""
        if steps < 1:
            raise ConfigError(f"A flow of {steps} steps.", fix="ask for at least one step")
        return torch.expm1(done.to(torch.float64) / steps * math.log1p(self.beta1))


def update(belief: Belief, y: Angles, accuracy: Float[Tensor, "*#shape"] | float) -> Belief:
    """Posterior after one sample y ~ vM(x, α): c' e^{im'} = c e^{im} + α e^{iy}."""
    alpha = torch.as_tensor(accuracy).to(y)
    cosine, sine = _vector(belief)
    return _from_vector(cosine + alpha * torch.cos(y), sine + alpha * torch.sin(y))


def cosine_loss(x: Angles, x_hat: Angles, length: Float[Tensor, "*#shape"] | float = 1.0) -> Angles:
    """1 − length · cos(x − x̂); a length below 1 is that of an average of e^{ix} (`mean_target`)."""
    return 1 - length * torch.cos(x - x_hat)


def square_loss(x: Angles, x_hat: Angles) -> Angles:
    """Squared distance wrap(x − x̂)² on the circle: twice `cosine_loss` near 0."""
    return wrap(x - x_hat) ** 2


def mean_target(
    belief: Belief, x: Float[Tensor, "crystals atoms 3"], mask: Bool[Tensor, "crystals atoms"]
) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 1 3"]]:
    """Angle and length of E[e^{ix} | belief] when a crystal may as well lie elsewhere in its cell.

    A crystal moved by τ along an axis is the same crystal. With τ uniform before, the beliefs about its atoms say

        τ ~ vM(arg S, |S|),   S = Σ_atoms c e^{i(m − x)},   so E[e^{i(x + τ)}] = A(|S|) e^{i(x + arg S)}.

    `cosine_loss` of the two is the mean of the loss over τ: the same gradient on average, with less noise.
    """
    weight = belief.concentration * mask[..., None]
    cosine = (weight * torch.cos(belief.mean - x)).sum(dim=1, keepdim=True)
    sine = (weight * torch.sin(belief.mean - x)).sum(dim=1, keepdim=True)
    shift = _from_vector(cosine, sine)
    return wrap(x + shift.mean), mean_length(shift.concentration)


def fit_at_any_origin(
    x: Float[Tensor, "crystals atoms 3"],
    x_hat: Float[Tensor, "crystals atoms 3"],
    mask: Bool[Tensor, "crystals atoms"],
) -> Float[Tensor, "crystals 1 3"]:
    """max_τ mean over the atoms of cos(x̂ − x − τ) = |mean e^{i(x̂ − x)}|: 1 for the same crystal, moved."""
    weight = mask[..., None] / mask.sum(1)[:, None, None].to(x)
    cosine = (weight * torch.cos(x_hat - x)).sum(dim=1, keepdim=True)
    sine = (weight * torch.sin(x_hat - x)).sum(dim=1, keepdim=True)
    return (cosine**2 + sine**2 + 1e-14).sqrt()  # the root alone has no derivative at 0


def _add_gaussian(
    belief: Belief, x: Angles, precision: Float[Tensor, "*#shape"], generator: torch.Generator
) -> Belief:
    """Posterior after a sample N(u(x), 1/ρ) in the plane: z + ρ u(x) + √ρ ε."""
    noise = torch.randn((2, *x.shape), generator=generator, device=generator.device, dtype=x.dtype)
    noise = noise.to(x.device)
    cosine, sine = _vector(belief)
    return _from_vector(
        cosine + precision * torch.cos(x) + torch.sqrt(precision) * noise[0],
        sine + precision * torch.sin(x) + torch.sqrt(precision) * noise[1],
    )


def _vector(belief: Belief) -> tuple[Angles, Angles]:
    return belief.concentration * torch.cos(belief.mean), belief.concentration * torch.sin(belief.mean)


def _from_vector(cosine: Angles, sine: Angles) -> Belief:
    return Belief(wrap(torch.atan2(sine, cosine)), torch.hypot(cosine, sine))


def _where(condition: Bool[Tensor, "*#shape"], a: Belief, b: Belief) -> Belief:
    return Belief(*(torch.where(condition, *pair) for pair in zip(a, b, strict=True)))
