"""Negative log-likelihood of energies, forces and stress under Gaussian noise of predicted width.

Every function gives, for each graph or atom and without reduction, a bracket

    w · ½ [λ dᵀ Σ⁻¹ d + log det Σ],

for the residual d = prediction − label, where the constant ½ k log 2π of k components is added only with
``constant``. A weight belongs before the whole bracket: it then changes how much a term counts, not which Σ fits
best. Energies, forces and stress, and the forces on different atoms, are independent given the structure.

Options that all of them share:

- ``lambda_``: λ, see `tempered`.
- ``beta``: w = (σ̄²)^β / mean (σ̄²)^β over the values of this call, without gradient, where σ̄² = tr Σ / k is the
  mean variance of a component (β-NLL, Seitzer et al., ICLR 2022). 0 is the likelihood; with 1 the gradient with
  respect to the prediction is that of the squared error; 0.5 is what the authors recommend. The division by the
  mean keeps weights of terms what they were.
- ``detach``: no gradient to the prediction d, so that only Σ is fitted.
- ``constant``: add ½ k log 2π.
- ``mask``: values that exist. A label that is absent (NaN) makes a NaN here: whoever knows the labels must say by
  the mask where they are. Where it is False the result is 0 and has no gradient, whatever d and Σ are.
"""

from __future__ import annotations

import math

import torch

from atomml.nn.covariance import traceless_basis
from atomml.shapes import Bool, Float64, Tensor

__all__ = ["energy_nll", "force_nll", "stress_nll", "stress_parts", "tempered", "voigt_var"]


def energy_nll(
    d: Float64[Tensor, " graphs"],
    var: Float64[Tensor, " graphs"],
    *,
    lambda_: float = 1.0,
    beta: float = 0.0,
    detach: bool = False,
    constant: bool = False,
    mask: Bool[Tensor, " graphs"] | None = None,
) -> Float64[Tensor, " graphs"]:
    """½ [λ d²/σ² + log σ²] of total energies: residual ``d`` in eV, variance ``var`` in eV²."""
    d, var = _kept(d.detach() if detach else d, mask, 0.0), _kept(var, mask, 1.0)
    return _bracket(d.square() / var, var.log(), var, 1, lambda_, beta, constant, mask)


def force_nll(
    d: Float64[Tensor, "atoms 3"],
    precision: Float64[Tensor, "atoms 3 3"],
    log_det: Float64[Tensor, " atoms"],
    *,
    lambda_: float = 1.0,
    beta: float = 0.0,
    detach: bool = False,
    constant: bool = False,
    mask: Bool[Tensor, " atoms"] | None = None,
) -> Float64[Tensor, " atoms"]:
    """½ [λ dᵀ Σ⁻¹ d + log det Σ] of the force on each atom: ``d`` in eV/Å, ``precision`` Σ⁻¹ in (Å/eV)².

    An atom with one component of its label missing has no label: its ``mask`` is False.
    """
    d, log_det = _kept(d.detach() if detach else d, mask, 0.0), _kept(log_det, mask, 0.0)
    precision = _kept(precision, mask, 0.0)
    quadratic = torch.einsum("ni,nij,nj->n", d, precision, d)
    return _bracket(quadratic, log_det, _mean_variance(precision, log_det), 3, lambda_, beta, constant, mask)


def stress_nll(
    d: Float64[Tensor, "graphs 3 3"],
    var: Float64[Tensor, "graphs 2"],
    *,
    lambda_: float = 1.0,
    beta: float = 0.0,
    detach: bool = False,
    constant: bool = False,
    mask: Bool[Tensor, " graphs"] | None = None,
) -> Float64[Tensor, " graphs"]:
    """½ [λ (h²/σ_h² + Σ_m q_m²/σ_d²) + log σ_h² + 5 log σ_d²] of the stress, h and q from `stress_parts`.

    The most general covariance of a symmetric matrix that is the same in every direction, hence invariant under
    rotations. ``d`` in eV/Å³; ``var`` [B, 2] in (eV/Å³)²: hydrostatic, and each deviatoric component.
    """
    d, var = _kept(d.detach() if detach else d, mask, 0.0), _kept(var, mask, 1.0)
    hydrostatic, deviatoric = stress_parts(d)
    quadratic = hydrostatic.square() / var[:, 0] + deviatoric.square().sum(1) / var[:, 1]
    log_det = var[:, 0].log() + 5 * var[:, 1].log()
    return _bracket(quadratic, log_det, (var[:, 0] + 5 * var[:, 1]) / 6, 6, lambda_, beta, constant, mask)


def tempered(
    quadratic: Float64[Tensor, "*shape"], log_det: Float64[Tensor, "*shape"], lambda_: float
) -> Float64[Tensor, "*shape"]:
    """½ [λ dᵀ Σ⁻¹ d + log det Σ], with λ on the quadratic part only as in arXiv 2510.03046, eq. 24.

    λ does not weight the term: the best Σ becomes λ ⟨d dᵀ⟩, and after substitution of Σ/λ the bracket is the
    likelihood plus a constant. `NoiseHeads.untemper` divides λ out again.
    """
    return 0.5 * (lambda_ * quadratic + log_det)


def stress_parts(
    stress: Float64[Tensor, "graphs 3 3"],
) -> tuple[Float64[Tensor, " graphs"], Float64[Tensor, "graphs 5"]]:
    """Hydrostatic component h = tr σ / √3 and deviatoric components q_m = tr(Q_m σ), both in the unit of σ.

    σ = h 1/√3 + Σ_m q_m Q_m for symmetric σ, with the Q_m of `atomml.nn.covariance.traceless_basis`. The six are
    a rotated Mandel vector (σ_xx, σ_yy, σ_zz, √2 σ_yz, √2 σ_xz, √2 σ_xy): h² + Σ_m q_m² = ‖σ‖². A rotation of
    the structure leaves h as it is and turns q. The pressure is −h/√3.
    """
    basis = torch.as_tensor(traceless_basis(), device=stress.device)
    return torch.einsum("bii->b", stress) / math.sqrt(3), torch.einsum("mij,bij->bm", basis, stress)


def voigt_var(var: Float64[Tensor, "graphs 2"]) -> Float64[Tensor, "graphs 6"]:
    """Variances of σ_xx, σ_yy, σ_zz, σ_yz, σ_xz, σ_xy from the hydrostatic and the deviatoric one.

    var σ_aa = (σ_h² + 2 σ_d²)/3, var σ_ab = σ_d²/2; components on the diagonal are correlated with each other.
    """
    diagonal, rest = (var[:, :1] + 2 * var[:, 1:]) / 3, var[:, 1:] / 2
    return torch.cat([diagonal.expand(-1, 3), rest.expand(-1, 3)], 1)


def _bracket(
    quadratic: Tensor,
    log_det: Tensor,
    mean_var: Tensor,
    components: int,
    lambda_: float,
    beta: float,
    constant: bool,
    mask: Tensor | None,
) -> Tensor:
    """The bracket of the module's docstring, 0 where ``mask`` is False."""
    value = tempered(quadratic, log_det, lambda_)
    if constant:
        value = value + 0.5 * components * math.log(2 * math.pi)
    if beta != 0:
        weight = mean_var.detach() ** beta
        kept = torch.ones_like(weight) if mask is None else mask.to(weight.dtype)
        mean = (weight * kept).sum() / kept.sum()
        # without any label the mean is 0/0, whose NaN would enter the gradient although the value is dropped
        value = value * torch.where(kept.any(), weight / mean, 0.0)
    return _kept(value, mask, 0.0)


def _mean_variance(precision: Float64[Tensor, "atoms 3 3"], log_det: Float64[Tensor, " atoms"]) -> Tensor:
    """The mean tr Σ / 3 from P = Σ⁻¹: the trace of the adjugate, ½ ((tr P)² − tr P²), over the determinant of P."""
    p = precision.detach()
    trace = p.diagonal(dim1=1, dim2=2).sum(1)
    return (trace.square() - p.square().sum((1, 2))) / 6 * log_det.detach().exp()


def _kept(x: Tensor, mask: Tensor | None, otherwise: float) -> Tensor:
    """``x`` where ``mask`` is True, a number without gradient elsewhere."""
    if mask is None:
        return x
    return torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise)
