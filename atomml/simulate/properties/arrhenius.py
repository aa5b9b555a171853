"""Activation energy from diffusion coefficients at several temperatures, and what it says at another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import units
from numpy.typing import NDArray

from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, ndarray
from atomml.simulate.properties.diffusion import Diffusion, nernst_einstein

__all__ = ["Arrhenius", "Extrapolated", "Measured", "arrhenius"]


class Measured(NamedTuple):
    """D and its deviation in cm²/s at a temperature in K; density of the ions in Å⁻³ and charge in e, if known."""

    temperature: float | None
    d: float
    d_std: float
    density: float | None = None
    charge: float | None = None


class Extrapolated(NamedTuple):
    """D in cm²/s at a temperature in K, and the deviation of ln D; the interval of one deviation is D·e^{±ln_d_std}.

    Conductivity in mS/cm by Nernst and Einstein, None without a charge.
    """

    temperature: float
    d: float
    ln_d_std: float
    conductivity: float | None


@dataclass(frozen=True)
class Arrhenius:
    """D = D₀ exp(−E_a / k_B T).

    Attributes:
        points: what was fitted.
        activation: E_a in eV, activation_std: its deviation.
        ln_d0: of D₀ in cm²/s.
        covariance: of (ln D₀, E_a), scaled by χ²/ν where that is above one.
        chi2_dof: χ²/ν: above about 2 the points do not lie on a line within their errors; NaN for two points.
        extrapolated: at the temperatures asked for.
    """

    points: tuple[Measured, ...]
    activation: float
    activation_std: float
    ln_d0: float
    covariance: Float64[ndarray, "2 2"]
    chi2_dof: float
    extrapolated: tuple[Extrapolated, ...]

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values with units in their names."""
        return {
            "E_a_eV": self.activation,
            "E_a_std_eV": self.activation_std,
            "D0_cm2_s": float(np.exp(self.ln_d0)),
            "ln_D0_std": float(np.sqrt(self.covariance[0, 0])),
            "chi2_per_degree_of_freedom": None if np.isnan(self.chi2_dof) else self.chi2_dof,
            "extrapolated": [
                {
                    "temperature_K": e.temperature,
                    "D_cm2_s": e.d,
                    "D_low_cm2_s": e.d * float(np.exp(-e.ln_d_std)),
                    "D_high_cm2_s": e.d * float(np.exp(e.ln_d_std)),
                    "ln_D_std": e.ln_d_std,
                    "conductivity_mS_cm": e.conductivity,
                }
                for e in self.extrapolated
            ],
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of points."""
        kelvin, d, d_std = _arrays(self.points)
        fitted = np.exp(self.ln_d0 - self.activation / (units.kB * kelvin))
        return {"temperature_K": kelvin, "D_cm2_s": d, "D_std_cm2_s": d_std, "fit_cm2_s": fitted}


def arrhenius(
    points: Sequence[Diffusion | Measured],
    *,
    extrapolate: Sequence[float] = (),
) -> Arrhenius:
    """Weighted straight line of ln D against 1/k_B T, with weights (D/σ_D)².

    Var ln D(T) = J C Jᵀ with J = (1, −1/k_B T) and C the covariance of the fit. That is the error of the line, not of
    the assumption that one mechanism holds down to T.

    Args:
        points: at two temperatures at least, better four.
        extrapolate: temperatures in K; with a conductivity where the first point has a density and a charge.

    Raises:
        DataError: a point without temperature, a D or error that is not positive, or fewer than two temperatures.
        ConfigError: a temperature to extrapolate to that is not positive.
    """
    known = tuple(sorted((_measured(p) for p in points), key=lambda p: p.temperature or 0.0))
    if len({p.temperature for p in known}) < 2:
        raise DataError(
            "An activation energy needs two temperatures at least.",
            where=", ".join(f"{p.temperature:g} K" for p in known) or "no points",
            fix="run at more temperatures",
        )
    if any(not kelvin > 0 for kelvin in extrapolate):
        raise ConfigError(f"Temperatures must be positive, not {list(extrapolate)} K.", where="extrapolate")
    kelvin, d, d_std = _arrays(known)
    design = np.stack([np.ones_like(kelvin), -1 / (units.kB * kelvin)], axis=1)
    weights = d / d_std
    solution = np.linalg.lstsq(design * weights[:, None], np.log(d) * weights, rcond=None)[0]
    covariance = np.linalg.inv((design * weights[:, None] ** 2).T @ design)
    freedom = len(known) - 2
    chi2 = float((((np.log(d) - design @ solution) * weights) ** 2).sum())
    chi2_dof = chi2 / freedom if freedom else float("nan")
    covariance *= max(1.0, chi2_dof) if freedom else 1.0
    return Arrhenius(
        points=known,
        activation=float(solution[1]),
        activation_std=float(np.sqrt(covariance[1, 1])),
        ln_d0=float(solution[0]),
        covariance=covariance,
        chi2_dof=chi2_dof,
        extrapolated=tuple(_at(t, solution, covariance, known[0]) for t in extrapolate),
    )


def _at(
    kelvin: float, solution: Float64[ndarray, " 2"], covariance: Float64[ndarray, "2 2"], ions: Measured
) -> Extrapolated:
    row = np.array([1.0, -1 / (units.kB * kelvin)])
    d = float(np.exp(row @ solution))
    known = ions.density is not None and ions.charge is not None
    sigma = nernst_einstein(d, ions.density or 0.0, ions.charge or 0.0, kelvin) if known else None
    return Extrapolated(float(kelvin), d, float(np.sqrt(row @ covariance @ row)), sigma)


def _arrays(points: Sequence[Measured]) -> tuple[NDArray[np.float64], ...]:
    """Temperatures, D and deviations."""
    return tuple(np.array([p[k] for p in points], dtype=np.float64) for k in range(3))


def _measured(point: Diffusion | Measured) -> Measured:
    """A point that can be fitted."""
    where = "a diffusion coefficient"
    if isinstance(point, Diffusion):
        where, density = point.source, point.n_ions / point.volume
        point = Measured(point.temperature, point.d, point.d_std, density, point.charge)
    if point.temperature is None or not point.temperature > 0:
        raise DataError(
            "A diffusion coefficient has no temperature.",
            where=where,
            fix="give the temperature of the run (temperature=..., --temperature)",
        )
    if not (point.d > 0 and point.d_std > 0 and np.isfinite(point.d + point.d_std)):
        raise DataError(
            f"A diffusion coefficient of {point.d:.3g} ± {point.d_std:.3g} cm²/s has no logarithm with an error.",
            where=f"{where}, {point.temperature:g} K",
            fix="leave this temperature out, or run it longer",
        )
    return point
