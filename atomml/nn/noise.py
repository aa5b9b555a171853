"""Heads that predict the deviations of energy, forces and stress of a structure (aleatoric noise, or misfit)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from atomml.errors import ConfigError
from atomml.nn.covariance import (
    ForceNoise,
    bounded,
    cholesky_noise,
    exponential_noise,
    isotropic_noise,
    outer_noise,
)
from atomml.nn.radial import SILU_GAIN, mlp
from atomml.shapes import Float, Float64, Int64, Tensor

__all__ = ["EnergyNoiseKind", "ForceNoiseKind", "NoiseHeads", "NoiseOutput"]

ForceNoiseKind = Literal["expm", "outer", "isotropic", "cholesky"]
EnergyNoiseKind = Literal["sum", "mean"]

QUIET_START = 0.1
"""Factor of the last weights: an untrained head then gives its typical deviations, nearly the same everywhere."""
TYPICAL = {"forces": 1.0, "energy": 0.2, "stress": 0.1}
"""Deviations at the start in units of the scale of the forces: component, atomic energy in Å, stress in Å⁻².

About the errors of an untrained network, and rather more: a deviation that is too large is unlearned with a gradient
of (1 − d²/σ²)/2 < 1/2, one that is ten times too small with one of a hundred, which the moments of the optimiser
remember for long and a clipped norm takes from the rest of the network."""
SMALLEST_SQUARE = 1e-3
"""Added to the mean square of a channel before its logarithm: an atom without neighbours has none."""
_ATOMIC = ("forces", "energy", "hydrostatic", "deviatoric")


class NoiseOutput(NamedTuple):
    """Predicted variances, all float64.

    ``energies_var`` [N] eV², ``energy_var`` [B] eV², ``forces`` in (eV/Å)², ``stress_var`` [B, 2] (eV/Å³)²: of
    the hydrostatic and of each of the five deviatoric Mandel components, see
    `atomml.uncertainty.likelihood.stress_parts`.
    """

    energies_var: Float64[Tensor, " atoms"]
    energy_var: Float64[Tensor, " graphs"]
    forces: ForceNoise
    stress_var: Float64[Tensor, "graphs 2"]


class NoiseHeads(nn.Module):
    """Variances of energy, forces and stress from the features of all layers of a body.

    The invariants of all layers, scalars and log(mean square + 10⁻³) of each channel of l > 0, standardised, feed one
    small network N; every logarithm of a variance is

        log σ² = 2 log σ₀[species] + b(N(invariants)),       b(x) = x / √(1 + x²/5²),

    with learned typical deviations σ₀ that cover any range, around which the network moves within e^±2.5.

    - Atomic energies: σ_i² as above. Energy, ``sum``: σ² = Σ_i σ_i², independent atoms, σ ~ √N; ``mean``:
      σ² is the geometric mean of the σ_i², which does not grow with the structure.
    - Forces, with s = log σ²: ``expm`` Σ = exp(s 1 + Σ_m t_m Q_m), t from l = 2 features; ``outer``
      Σ = e^s (1 + Σ_k v_k v_kᵀ), v_k from l = 1 features; ``isotropic`` Σ = e^s 1; ``cholesky`` the published
      lab-frame matrix, which does not turn with the structure. The features of all layers are mixed linearly
      (t = Σ_k g_k (x W)_k / √K, v_k = g_k (x W)_k) with gates g from N, and their lengths are bounded by b.
      An atom without neighbours has no features of l > 0, hence an isotropic Σ.
    - Stress, intensive: exponential of the mean over the atoms of log σ², hydrostatic and deviatoric.

    Args:
        forces: kind of the covariance of forces.
        energy: how atomic variances make that of the energy.
        lmax: highest degree of the features.
        widths: number of channels of each layer.
        n_species: number of species.
        scale: root mean square of a force component in eV/Å; σ₀ starts at `TYPICAL` times it.
        hidden: width of the hidden layer; also the number K of mixed l = 2 features.
        vectors: number of vectors of the ``outer`` head.

    Raises:
        ConfigError: the features lack the degree that the covariance is made of.
    """

    def __init__(
        self,
        forces: ForceNoiseKind,
        energy: EnergyNoiseKind,
        lmax: int,
        widths: Sequence[int],
        n_species: int,
        scale: float,
        *,
        hidden: int = 32,
        vectors: int = 4,
    ) -> None:
        super().__init__()
        self.kind, self.energy = forces, energy
        degree, extra = {"expm": (2, hidden), "outer": (1, vectors), "cholesky": (0, 6)}.get(forces, (0, 0))
        _check(forces, degree, lmax)
        self.components = slice(degree**2, (degree + 1) ** 2)
        self.lmax, self.extra, channels = lmax, extra, sum(widths)
        self.network = mlp([channels * (lmax + 1), hidden, len(_ATOMIC) + extra])
        self.mix = nn.Parameter(torch.empty(channels, extra)) if degree else None
        self.log_std = nn.Parameter(torch.empty(n_species, len(_ATOMIC)))
        self.center: Tensor
        self.width: Tensor
        self.register_buffer("center", torch.zeros(channels * (lmax + 1)))
        self.register_buffer("width", torch.ones(channels * (lmax + 1)))
        self.reset()
        self.set_typical(**{name: factor * scale for name, factor in TYPICAL.items()})

    @torch.no_grad()
    def reset(self) -> None:
        """Draw all weights anew from torch's global generator; σ₀ stays."""
        first, last = (p for p in self.network.parameters())
        nn.init.normal_(first, std=1 / math.sqrt(first.shape[1]))
        nn.init.normal_(last, std=QUIET_START * SILU_GAIN / math.sqrt(last.shape[1]))
        if self.mix is not None:
            nn.init.normal_(self.mix, std=1 / math.sqrt(len(self.mix)))

    @torch.no_grad()
    def standardise(self, layers: Sequence[Float[Tensor, "atoms dim _"]]) -> None:
        """Take mean and width of every invariant from these features; the weights then mean something else."""
        self.center.zero_()
        self.width.fill_(1.0)
        invariants = self.invariants(layers)
        self.center.copy_(invariants.mean(0))
        self.width.copy_(invariants.std(0, correction=0).clamp(min=1e-3))

    def invariants(self, layers: Sequence[Float[Tensor, "atoms dim _"]]) -> Float[Tensor, "atoms invariants"]:
        """Scalars and logarithms of the mean squares of l > 0, standardised."""
        found = [x[:, 0] for x in layers]
        for degree in range(1, self.lmax + 1):
            block = slice(degree**2, (degree + 1) ** 2)
            found += [(x[:, block].square().mean(1) + SMALLEST_SQUARE).log() for x in layers]
        return (torch.cat(found, 1) - self.center) / self.width

    def set_typical(self, *, forces: float, energy: float, stress: float) -> None:
        """Set σ₀ of every species: of a force component in eV/Å, of an atomic energy in eV, of stress in eV/Å³.

        After a warm-up with fixed weights these are the root mean squares of the residuals (of the energy:
        divided by √N for ``sum``).
        """
        typical = torch.tensor([forces, energy, stress, stress], dtype=torch.float64)
        if not bool((typical > 0).all() & typical.isfinite().all()):
            raise ConfigError(
                f"Typical deviations must be positive: forces {forces}, energy {energy}, stress {stress}.",
                fix="a residual of zero means that there is nothing to learn from; give a small number instead",
            )
        with torch.no_grad():
            self.log_std.copy_(typical.log().expand_as(self.log_std))

    @torch.no_grad()
    def untemper(self, *, energy: float, forces: float) -> None:
        """Divide the variances by λ, which a loss with λ on its quadratic part has multiplied them by."""
        self.log_std[:, 0] -= 0.5 * math.log(forces)
        self.log_std[:, 1] -= 0.5 * math.log(energy)

    def forward(
        self,
        layers: Sequence[Float[Tensor, "atoms dim _"]],
        species: Int64[Tensor, " atoms"],
        batch: Int64[Tensor, " atoms"],
        n_graphs: int,
    ) -> NoiseOutput:
        """Variances for features [N, (L+1)², C] of each layer; ``batch`` [N] is the graph of each atom."""
        raw = self.network(self.invariants(layers)).double()
        # with variances as exponentials the gradient of the likelihood is (1 − d²/σ²)/2 in every unit, where a
        # softplus would weight it by σ; the bound keeps the network from overflow, and saturates gently
        log_var = 2 * self.log_std.double()[species] + bounded(raw[:, : len(_ATOMIC), None]).squeeze(-1)
        extra = raw[:, len(_ATOMIC) :]
        mean = _mean(log_var[:, 1:], batch, n_graphs).exp()
        energies_var, energy_var = log_var[:, 1].exp(), mean[:, 0]
        if self.energy == "sum":
            energy_var = torch.zeros_like(energy_var).index_add(0, batch, energies_var)
        return NoiseOutput(energies_var, energy_var, self._forces(log_var[:, 0], extra, layers), mean[:, 1:])

    def _forces(
        self,
        log_var: Float64[Tensor, " atoms"],
        extra: Float64[Tensor, "atoms extra"],
        layers: Sequence[Float[Tensor, "atoms _ _"]],
    ) -> ForceNoise:
        """Covariances from log σ² and the remaining numbers of the network."""
        if self.kind == "cholesky":
            return cholesky_noise(log_var, bounded(extra[..., None]).squeeze(-1))
        if self.mix is None:
            return isotropic_noise(log_var)
        mixed = torch.cat([x[:, self.components] for x in layers], 2) @ self.mix
        gated = mixed.double() * extra[:, None]
        if self.kind == "outer":
            return outer_noise(log_var, bounded(gated.transpose(1, 2)).transpose(1, 2))
        return exponential_noise(log_var, bounded(gated.sum(2) / math.sqrt(extra.shape[1])))


def _mean(
    x: Float64[Tensor, "atoms n"], batch: Int64[Tensor, " atoms"], n_graphs: int
) -> Float64[Tensor, "graphs n"]:
    """Mean over the atoms of each graph."""
    n_atoms = torch.bincount(batch, minlength=n_graphs).clamp(min=1)
    return x.new_zeros(n_graphs, x.shape[1]).index_add(0, batch, x) / n_atoms[:, None]


def _check(kind: str, degree: int, lmax: int) -> None:
    if degree > lmax:
        fits = "outer or isotropic" if lmax == 1 else "isotropic"
        raise ConfigError(
            f"The covariance of forces {kind!r} is made of l = {degree} features; this network has lmax = {lmax}.",
            where="noise.forces",
            fix=f"set lmax to {degree} or more, or noise.forces to {fits}",
        )
    if kind == "cholesky":
        warnings.warn(
            "noise.forces = 'cholesky' is not equivariant: the predicted covariance of forces does not turn with "
            "the structure. It is meant for reproduction; use 'expm', 'outer' or 'isotropic' for anything else.",
            UserWarning,
            stacklevel=3,
        )
