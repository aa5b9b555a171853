"""Self-diffusion from mean square displacements, with an error bar that does not take atoms for independent.

MSD(τ) = ⟨|r(t + τ) − r(t)|²⟩ over atoms and time origins = c + 6 D τ in the diffusive window (A. Einstein, Ann. Phys.
322, 549, 1905); c is what vibration adds. The run is cut into blocks. In each D is fitted by generalised least
squares with the covariance that the MSD of a random walk has between lags (H. Qian et al., Biophys. J. 60, 910, 1991;
Bullerjahn, von Bülow and Hummer, J. Chem. Phys. 153, 024116, 2020). The scatter of the blocks, not that of the fit,
gives the error of their mean (H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461, 1989): motion that ions make
together counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.stats import t as student

from atomml.errors import ConfigError, DataError
from atomml.shapes import Float64, ndarray
from atomml.simulate.properties.trajectory import Trajectory, read_trajectory

__all__ = ["Diffusion", "diffusion", "mean_square_displacement", "nernst_einstein"]

CM2_S = 0.1  # Å²/fs in cm²/s
MOST_LAGS = 12
SMALL_BLOCK = 12
SLOPE_TOLERANCE = 0.2
ONE_SIGMA = 0.6826894921370859


@dataclass(frozen=True)
class Diffusion:
    """Self-diffusion of one element.

    Attributes:
        element: symbol.
        n_ions: how many.
        d: cm²/s, the mean over blocks; not cut off at zero.
        d_std: half the interval that holds the true value with 68.3 % probability, by Student's t.
        d_95: likewise with 95 %: half its width.
        blocks: D of each block, cm²/s.
        exponent: slope of ln MSD against ln τ in the window: 1 diffusive, 2 ballistic, 0 bound.
        window: lags of the fit, ps.
        temperature: K, None if unknown.
        conductivity, conductivity_std: Nernst-Einstein, mS/cm, without a Haven ratio; None without charge or
            temperature.
        charge: of an ion, e, or None.
        lags: ps [L], msd: of the whole run, Å² [L].
        time: analysed, ps.
        volume: Å³.
        warnings: why the number should not be trusted.
        source: of the trajectory.
    """

    element: str
    n_ions: int
    d: float
    d_std: float
    d_95: float
    blocks: Float64[ndarray, " blocks"]
    exponent: float
    window: tuple[float, float]
    temperature: float | None
    conductivity: float | None
    conductivity_std: float | None
    charge: float | None
    lags: Float64[ndarray, " lags"]
    msd: Float64[ndarray, " lags"]
    time: float
    volume: float
    warnings: tuple[str, ...]
    source: str

    @property
    def summary(self) -> dict[str, Any]:
        """JSON values with units in their names."""
        return {
            "element": self.element,
            "n_ions": self.n_ions,
            "temperature_K": self.temperature,
            "D_cm2_s": self.d,
            "D_std_cm2_s": self.d_std,
            "D_95_cm2_s": self.d_95,
            "conductivity_mS_cm": self.conductivity,
            "conductivity_std_mS_cm": self.conductivity_std,
            "charge_e": self.charge,
            "loglog_slope": self.exponent,
            "window_ps": list(self.window),
            "blocks_D_cm2_s": self.blocks.tolist(),
            "time_ps": self.time,
            "volume_A3": self.volume,
            "warnings": list(self.warnings),
            "trajectory": self.source,
        }

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The table of the MSD."""
        return {"lag_ps": self.lags, "msd_A2": self.msd}


def diffusion(
    trajectory: Trajectory | str | Path,
    element: str,
    *,
    blocks: int = 5,
    window: tuple[float, float] | None = None,
    charge: float | None = None,
    temperature: float | None = None,
) -> Diffusion:
    """Self-diffusion coefficient of an element.

    Args:
        trajectory: or the folder of a run.
        element: which atoms.
        blocks: parts of the run, at least 3, whose scatter is the error.
        window: shortest and longest lag of the fit in ps; by default a fifth and half of a block.
        charge: of an ion in e, for the conductivity.
        temperature: K; that of the trajectory by default.

    Raises:
        DataError: the element is not there, or the run is too short for so many blocks.
        ConfigError: fewer than 3 blocks, or an impossible window or temperature.
    """
    run = trajectory if isinstance(trajectory, Trajectory) else read_trajectory(trajectory)
    moved = run.displacements[:, _chosen(run, element)]
    kelvin = run.temperature if temperature is None else temperature
    if kelvin is not None and not kelvin > 0:
        raise ConfigError(f"The temperature must be positive, not {kelvin!r} K.", where=run.source)
    size = _block_size(len(moved) - 1, blocks, run.source)
    lags = _lags(size, window, run.interval)
    weights = _slope_weights(lags, size + 1) / (6 * run.interval) * CM2_S
    cut = [moved[k * size : (k + 1) * size + 1] for k in range(blocks)]
    parts = np.array([weights @ mean_square_displacement(block)[lags] for block in cut])
    d, error = float(parts.mean()), float(parts.std(ddof=1) / np.sqrt(blocks))
    d_std, d_95 = (error * float(student.ppf((1 + p) / 2, blocks - 1)) for p in (ONE_SIGMA, 0.95))
    all_lags = np.arange(1, (len(moved) - 1) // 2 + 1)
    msd = mean_square_displacement(moved)[all_lags]
    exponent = _slope(np.log(lags), np.log(msd[lags - 1])) if (msd[lags - 1] > 0).all() else 0.0
    known = charge is not None and kelvin is not None
    sigma = [
        nernst_einstein(x, moved.shape[1] / run.volume, charge or 0.0, kelvin or 1.0) if known else None
        for x in (d, d_std)
    ]
    return Diffusion(
        element=element,
        n_ions=moved.shape[1],
        d=d,
        d_std=d_std,
        d_95=d_95,
        blocks=parts,
        exponent=exponent,
        window=(float(lags[0] * run.interval / 1000), float(lags[-1] * run.interval / 1000)),
        temperature=kelvin,
        conductivity=sigma[0],
        conductivity_std=sigma[1],
        charge=charge,
        lags=all_lags * run.interval / 1000,
        msd=msd,
        time=(len(moved) - 1) * run.interval / 1000,
        volume=run.volume,
        warnings=_warnings(exponent, d, d_95),
        source=run.source,
    )


def mean_square_displacement(
    moved: Float64[ndarray, "frames atoms 3"],
) -> Float64[ndarray, " frames"]:
    """MSD at every lag in Å², mean over atoms and all time origins.

    |r(t+τ) − r(t)|² = r²(t+τ) + r²(t) − 2 r(t+τ)·r(t): the first two by cumulative sums, the last, an
    autocorrelation, by Fourier transforms (Calandrini et al., Collection SFN 12, 201, 2011).
    """
    frames = len(moved)
    centred = moved - moved.mean(axis=0)  # smaller numbers, less rounding
    spectrum = np.fft.rfft(centred, n=2 * frames, axis=0)
    correlation = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=(1, 2)), n=2 * frames)[:frames]
    squares = np.einsum("tnj,tnj->t", centred, centred)
    ahead = np.cumsum(squares[::-1])[::-1]  # Σ_{t ≥ τ}
    behind = np.cumsum(squares)[::-1]  # Σ_{t < T − τ}
    origins = np.arange(frames, 0, -1) * moved.shape[1]
    msd: NDArray[np.float64] = np.maximum((ahead + behind - 2 * correlation) / origins, 0.0)
    msd[0] = 0.0
    return msd


def nernst_einstein(d: float, density: float, charge: float, kelvin: float) -> float:
    """σ = n q² D / (k_B T) in mS/cm; D in cm²/s, density n in 1/Å³, charge in e, temperature in K.

    No Haven ratio: the ions are taken to move independently.
    """
    volts = units.kB * kelvin  # k_B T / e
    coulombs_per_cm3 = density * 1e24 * charge**2 * units._e
    return 1000 * coulombs_per_cm3 * d / volts


def random_walk_covariance(lags: NDArray[np.int64], frames: int) -> Float64[ndarray, "lags lags"]:
    """Covariance between lags of the time-averaged squared displacement of one walk in one dimension, unit steps.

    Displacements over [i, i+n] and [j, j+m] share o steps; the covariance of their squares is 2 o². It is averaged
    over all i ≤ frames − 1 − n and j ≤ frames − 1 − m, by the difference k = j − i.
    """
    found = np.zeros((len(lags), len(lags)))
    for a, n in enumerate(lags.tolist()):
        for b, m in enumerate(lags.tolist()[a:], start=a):  # n ≤ m
            origins_n, origins_m = frames - n, frames - m
            k = np.arange(-m, n + 1)
            shared = np.minimum(n, k + m) - np.maximum(0, k)
            pairs = np.minimum(origins_n, origins_m - k) - np.maximum(0, -k)
            total = 2 * (np.maximum(pairs, 0) * shared.astype(np.float64) ** 2).sum()
            found[a, b] = found[b, a] = total / (origins_n * origins_m)
    return found


def _slope_weights(lags: NDArray[np.int64], frames: int) -> Float64[ndarray, " lags"]:
    """Weights w of a generalised least squares slope with intercept, Σ w MSD, per frame."""
    design = np.stack([np.ones(len(lags)), lags.astype(np.float64)], axis=1)
    whitening = np.linalg.inv(np.linalg.cholesky(random_walk_covariance(lags, frames)))
    weights: NDArray[np.float64] = (np.linalg.pinv(whitening @ design) @ whitening)[1]
    return weights


def _chosen(run: Trajectory, element: str) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = run.numbers == atomic_numbers.get(element, -1)
    if not chosen.any():
        known = ", ".join(chemical_symbols[z] for z in sorted(set(run.numbers.tolist())))
        raise DataError(
            f"There is no {element} in this trajectory.", where=run.source, fix=f"choose from {known}"
        )
    return chosen


def _block_size(steps: int, blocks: int, source: str) -> int:
    if blocks < 3:
        raise ConfigError(f"An error needs 3 blocks at least, not {blocks}.", where="blocks")
    size = steps // blocks
    if size < SMALL_BLOCK:
        raise DataError(
            f"{steps + 1} frames are too few for {blocks} blocks of {SMALL_BLOCK} frames at least.",
            where=source,
            fix="run longer, write frames more often, or take fewer blocks (3 at least)",
        )
    return size


def _lags(size: int, window: tuple[float, float] | None, interval: float) -> NDArray[np.int64]:
    """At most 12 lags in frames, evenly over the window."""
    first, last = max(1, size // 5), size // 2
    if window is not None:
        first, last = (round(1000 * edge / interval) for edge in window)
    if not 1 <= first < last - 1 or last >= size:
        step = interval / 1000
        raise ConfigError(
            f"The window must lie between {step:g} ps and the length of a block, {size * step:g} ps, and hold three "
            f"lags, not {window}.",
            where="window",
            fix="choose another window, or fewer blocks",
        )
    return np.unique(np.linspace(first, last, min(MOST_LAGS, last - first + 1)).round().astype(np.int64))


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.polyfit(x - x.mean(), y - y.mean(), 1)[0])


def _warnings(exponent: float, d: float, d_95: float) -> tuple[str, ...]:
    found = []
    if abs(exponent - 1) > SLOPE_TOLERANCE:
        what = (
            "superdiffusive, as in ballistic motion"
            if exponent > 1
            else "subdiffusive: ions rattle in place or jump back"
        )
        found.append(
            f"Not diffusive in the window: MSD ~ τ^{exponent:.2f}, {what}. D may change with "
            "the window; take longer lags, a longer run or a higher temperature."
        )
    if d - d_95 <= 0:
        found.append(
            f"D is not distinguishable from zero: with 95 % probability below {max(d + d_95, 0.0):.2g} "
            "cm²/s. Run longer or hotter."
        )
    return tuple(found)
