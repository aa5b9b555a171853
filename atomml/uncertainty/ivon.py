"""IVON: a Gaussian posterior with independent weights, learned by an optimiser in the place of Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from atomml.errors import ConfigError, TrainingError
from atomml.shapes import Tensor
from atomml.uncertainty.diagonal import normal_like

__all__ = ["IVON"]


class IVON(Optimizer):
    """Improved variational online Newton: q(θ) = N(m, diag s²) with s = (λ(h + δ))^(−1/2).

    The parameters hold the mean m. A step with S samples θ = m + s ∘ ε, ε ~ N(0, 1), is

        ĝ = mean_S ∇ℓ(θ),   ĥ = λ (h + δ) mean_S (θ − m) ∇ℓ(θ)
        g ← β₁ g + (1 − β₁) ĝ
        h ← h + u + u²/(2(h + δ)),   u = (1 − β₂)(ĥ − h)              (h + δ stays positive)
        m ← m − lr (h₀ + δ) clip((g/(1 − β₁ᵗ) + δ m)/(h + δ), ±ξ)

    with λ = ``ess`` and δ = ``prior_precision``/λ. For q to be the posterior of a model with the prior
    N(0, 1/prior_precision), **ℓ must be the mean over training structures of the negative log-likelihood of
    one structure** (with its factor ½, and summed over the atoms of the structure) and λ their number. A loss
    that is a multiple c of it gives the posterior of the likelihood to the power c; so do a mean over atoms
    and weights of loss terms.

    One step:

        optimizer.zero_grad()
        for _ in range(samples):
            with optimizer.sampled(generator):
                loss(model).backward()
        optimizer.step()

    Clipping the gradient's norm between ``sampled`` and ``step`` is allowed, but shrinks ĥ along with ĝ, and
    with it widens the posterior: prefer ``clip_radius``, and keep a norm limit for rare spikes. On several
    processes draw the same samples on each (generators of one seed) and sum their gradients before ``step``
    or the next ``sampled``.

    A parameter without a gradient in a step, or frozen, keeps its mean and its deviation; frozen ones are
    never perturbed. The state of a parameter is three tensors: ``step``, ``momentum`` g and ``hessian`` h.

    Args:
        params: parameters or groups of them; a group may have settings of its own.
        lr: learning rate.
        ess: λ, effective sample size: the number of training structures.
        prior_precision: inverse variance of the prior, > 0: flat directions would spread without it.
        hess_init: h₀, curvature per structure to begin with; the first deviation is (λ(h₀ + δ))^(−1/2).
        beta1: memory of the gradient.
        beta2: memory of the curvature.
        clip_radius: ξ, greatest step per weight before it is multiplied by lr (h₀ + δ).

    Raises:
        ConfigError: a setting outside its range.

    Source: Shen et al., "Variational learning is effective for large deep networks" (2024), algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        ess: float,
        prior_precision: float,
        hess_init: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.99999,
        clip_radius: float = math.inf,
    ) -> None:
        settings = {
            "lr": lr,
            "ess": ess,
            "prior_precision": prior_precision,
            "hess_init": hess_init,
            "beta1": beta1,
            "beta2": beta2,
            "clip_radius": clip_radius,
        }
        super().__init__(params, settings)
        for group in self.param_groups:
            _require_settings(group)
        self._inside = False
        self._forget()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._inside = False
        self._forget()

    def _forget(self) -> None:
        """Drop the samples since the last step."""
        self._shifts: dict[Tensor, Tensor] = {}  # θ − m of the sample whose gradient is still in .grad
        self._sums: dict[Tensor, tuple[Tensor, Tensor]] = {}  # Σ ∇ℓ and Σ (θ − m) ∇ℓ of the earlier ones
        self._samples = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients and all samples since the last step."""
        self._forget()
        super().zero_grad(set_to_none)

    def _free(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    yield p, group

    def _deviation(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """(λh + prior precision)^(−1/2) of a parameter."""
        hessian = self.state[p]["hessian"] if p in self.state else torch.full_like(p, group["hess_init"])
        return (group["ess"] * hessian + group["prior_precision"]).rsqrt()

    def posterior_std(self) -> dict[Tensor, Tensor]:
        """Standard deviation s of every parameter that is not frozen."""
        return {p: self._deviation(p, group).detach() for p, group in self._free()}

    @contextmanager
    def sampled(self, generator: torch.Generator | None = None) -> Iterator[None]:
        """Run a block with a sample of the posterior in the parameters; the means come back bit for bit.

        The backward pass belongs inside the block; what was in the gradients before is dropped. Without a
        backward pass, the block is an evaluation of a sample and has no effect on ``step``. A block left by
        an exception counts for nothing.

        Args:
            generator: source of ε; None takes torch's global one of the parameter's device.

        Raises:
            TrainingError: the block is inside another one.
        """
        if self._inside:
            raise TrainingError("The parameters are a sample already.", fix="leave the first sampled() block")
        self._collect()
        means = {p: p.detach().clone() for p, _ in self._free()}
        shifts: dict[Tensor, Tensor] = {}
        self._inside = True
        try:
            with torch.no_grad():
                for p, group in self._free():
                    p.grad = None
                    shifts[p] = self._deviation(p, group) * normal_like(p, generator)
                    p.add_(shifts[p])
            yield
            self._shifts = shifts
        finally:
            with torch.no_grad():
                for p, mean in means.items():
                    p.copy_(mean)
            self._inside = False

    @torch.no_grad()
    def _collect(self) -> None:
        """Add the gradients of the last sample to the sums."""
        found = [(p, shift) for p, shift in self._shifts.items() if p.grad is not None]
        self._samples += bool(found)
        self._shifts = {}
        for p, shift in found:
            gradient, p.grad = cast(Tensor, p.grad), None
            product = shift * gradient
            if p in self._sums:
                self._sums[p][0].add_(gradient)
                self._sums[p][1].add_(product)
            else:
                self._sums[p] = gradient, product

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update means and deviations from the samples since the last step.

        Args:
            closure: computes the loss and its gradients; it is called with one sample.

        Raises:
            TrainingError: there was no gradient inside a ``sampled`` block.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), self.sampled():
                loss = closure()
        self._collect()
        if not self._samples:
            raise TrainingError(
                "IVON has no gradient of a sample.", fix="call backward() inside `with optimizer.sampled():`"
            )
        with torch.no_grad():
            for p, group in self._free():
                if p in self._sums:
                    gradient, product = (total / self._samples for total in self._sums[p])
                    self._update(p, group, gradient, product)
        self._forget()
        return loss

    def _update(self, p: Tensor, group: dict[str, Any], gradient: Tensor, product: Tensor) -> None:
        """One step of a parameter from mean_S ∇ℓ and mean_S (θ − m) ∇ℓ."""
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(p)
            state["hessian"] = torch.full_like(p, group["hess_init"])
        delta = group["prior_precision"] / group["ess"]
        momentum, hessian = state["momentum"], state["hessian"]
        state["step"] += 1
        momentum.lerp_(gradient, 1.0 - group["beta1"])
        curvature = group["ess"] * (hessian + delta) * product
        change = (1.0 - group["beta2"]) * (curvature - hessian)
        hessian.add_(change + change**2 / (2.0 * (hessian + delta)))
        unbiased = momentum / (1.0 - group["beta1"] ** state["step"].item())
        direction = (unbiased + delta * p) / (hessian + delta)
        radius = group["clip_radius"]
        p.sub_(group["lr"] * (group["hess_init"] + delta) * direction.clamp_(-radius, radius))


def _require_settings(group: dict[str, Any]) -> None:
    """Check the ranges of the settings of a group."""
    for name in ("ess", "prior_precision", "hess_init", "clip_radius"):
        if not group[name] > 0.0:
            fix = "use 1e-6 to 1e-4 times ess for a weak prior" if name == "prior_precision" else None
            raise ConfigError(f"{name} must be positive, not {group[name]}.", where="IVON", fix=fix)
    for name in ("beta1", "beta2"):
        if not 0.0 <= group[name] < 1.0:
            raise ConfigError(f"{name} must be at least 0 and below 1, not {group[name]}.", where="IVON")
    if not 0.0 <= group["lr"] < math.inf:
        raise ConfigError(f"lr must not be negative, not {group['lr']}.", where="IVON")
