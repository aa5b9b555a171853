"""One figure for each kind of property."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import units
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomml.simulate.properties.arrhenius import Arrhenius
from atomml.simulate.properties.diffusion import Diffusion
from atomml.simulate.properties.elastic import ElasticConstants
from atomml.simulate.properties.eos import EquationOfState, birch_murnaghan
from atomml.simulate.properties.phonons import Phonons
from atomml.simulate.properties.rdf import RadialDistribution

__all__ = [
    "arrhenius_figure",
    "diffusion_figure",
    "draw_arrhenius",
    "draw_bands",
    "elastic_figure",
    "eos_figure",
    "phonon_figure",
    "rdf_figure",
]

GREEK = {"G": "Γ"}
VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


def eos_figure(result: EquationOfState) -> Figure:
    """Energies and the fitted curve."""
    figure, axes = _single()
    table = result.columns
    volume, lowest = table["volume_A3_per_atom"], result.e0 / result.n_atoms
    x = np.linspace(result.volumes[0], result.volumes[-1], 200)
    fit = birch_murnaghan(x, result.e0, result.v0, result.b0 * units.GPa, result.b0_prime)
    axes.plot(x / result.n_atoms, 1000 * (fit / result.n_atoms - lowest), color="0.6", lw=1.2)
    axes.plot(volume, 1000 * (table["energy_eV_per_atom"] - lowest), "o", ms=4, color="tab:blue")
    axes.axvline(result.v0 / result.n_atoms, color="0.7", ls=":", lw=1)
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("energy − E₀ (meV/atom)")
    axes.set_title(
        f"{result.formula}: V₀ {result.v0 / result.n_atoms:.3f} Å³/atom, B₀ {result.b0:.1f} GPa, "
        f"B₀' {result.b0_prime:.2f}",
        fontsize=9,
    )
    return figure


def elastic_figure(result: ElasticConstants) -> Figure:
    """The matrix of constants, and the stresses along each strain that it came from."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = float(np.abs(result.c).max())
    left.imshow(result.c, cmap="RdBu_r", vmin=-largest, vmax=largest)
    for i in range(6):
        for j in range(6):
            dark = abs(result.c[i, j]) > 0.6 * largest
            left.text(
                j,
                i,
                f"{round(result.c[i, j]) + 0:d}",
                ha="center",
                va="center",
                fontsize=8,
                color="w" if dark else "k",
            )
    left.set_xticks(range(6), VOIGT)
    left.set_yticks(range(6), VOIGT)
    left.set_title(f"{result.formula} ({result.point_group}): C in GPa", fontsize=9)
    for j, name in enumerate(VOIGT):
        mine = result.strains[:, j] != 0
        order = np.argsort(result.strains[mine, j])
        right.plot(
            100 * result.strains[mine, j][order], result.stresses[mine, j][order], ".-", lw=1, label=name
        )
    right.set_xlabel("strain (%)")
    right.set_ylabel("stress of the same component (GPa)")
    right.legend(frameon=False, fontsize=7)
    right.set_title(f"K {result.moduli.k_hill:.1f}, G {result.moduli.g_hill:.1f} GPa (Hill)", fontsize=9)
    return figure


def draw_bands(axes: Axes, result: Phonons, *, colour: str = "tab:blue", label: str | None = None) -> None:
    """Frequencies along the path, with the names of the special points."""
    lines = axes.plot(result.distance, result.frequencies, color=colour, lw=1)
    lines[0].set_label(label)
    names: dict[float, str] = {}
    for x, name in result.labels:
        name = GREEK.get(name, name)
        names[x] = f"{names[x]}|{name}" if x in names and names[x] != name else name
    axes.set_xticks(list(names), list(names.values()))
    for x in names:
        axes.axvline(x, color="0.85", lw=0.8, zorder=0)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xlim(result.distance[0], result.distance[-1])
    axes.set_ylabel("frequency (THz; imaginary below 0)")


def phonon_figure(result: Phonons) -> Figure:
    """Bands and density of states."""
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    draw_bands(left, result)
    right.plot(result.dos, result.dos_frequency, color="tab:blue", lw=1)
    right.axhline(0, color="0.6", lw=0.8)
    right.set_xlabel("states per THz")
    found = (
        f"{len(result.imaginary)} q points with imaginary modes" if result.imaginary else "no imaginary modes"
    )
    left.set_title(f"{result.formula}, supercell {'×'.join(map(str, result.supercell))}: {found}", fontsize=9)
    return figure


def diffusion_figure(results: Sequence[Diffusion]) -> Figure:
    """Mean square displacements on both scales, with the window and the line of the fit."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, result in enumerate(results):
        colour = f"C{k % 10}"
        label = f"{result.element}: D = {result.d:.2g} ± {result.d_std:.1g} cm²/s"
        inside = (result.lags >= result.window[0]) & (result.lags <= result.window[1])
        lags, slope = result.lags[inside], 6 * result.d * 1e4  # cm²/s in Å²/ps
        middle = float(result.msd[inside].mean() - slope * lags.mean())
        left.plot(result.lags, result.msd, color=colour, lw=1.2, label=label)
        left.plot(lags, middle + slope * lags, color="k", ls="--", lw=1)
        right.loglog(result.lags, result.msd, color=colour, lw=1.2, label=f"slope {result.exponent:.2f}")
        right.axvspan(*result.window, color=colour, alpha=0.08)
    for axes in (left, right):
        axes.set_xlabel("lag (ps)")
        axes.set_ylabel("MSD (Å²)")
        axes.legend(frameon=False, fontsize=7)
    return figure


def draw_arrhenius(axes: Axes, result: Arrhenius) -> None:
    """Points with their errors, the line with its band, and what is extrapolated."""
    points = result.columns
    inverse = 1000 / points["temperature_K"]
    lower = np.minimum(points["D_std_cm2_s"], 0.99 * points["D_cm2_s"])  # a logarithm has no zero
    axes.errorbar(
        inverse, points["D_cm2_s"], [lower, points["D_std_cm2_s"]], fmt="o", ms=4, capsize=2, color="tab:blue"
    )
    kelvin = [*points["temperature_K"].tolist(), *(e.temperature for e in result.extrapolated)]
    x = np.linspace(1000 / max(kelvin), 1000 / min(kelvin), 100)
    rows = np.stack([np.ones_like(x), -x / (1000 * units.kB)], axis=1)
    line = rows @ np.array([result.ln_d0, result.activation])
    band = np.sqrt(np.einsum("ni,ij,nj->n", rows, result.covariance, rows))
    axes.plot(x, np.exp(line), color="0.4", lw=1)
    axes.fill_between(x, np.exp(line - band), np.exp(line + band), color="0.8")
    for e in result.extrapolated:
        axes.plot(
            1000 / e.temperature,
            e.d,
            "s",
            ms=4,
            color="tab:red",
            label=f"{e.temperature:g} K: {e.d:.1g} cm²/s",
        )
    axes.set_yscale("log")
    axes.set_xlabel("1000 K / T")
    axes.set_ylabel("D (cm²/s)")
    axes.set_title(f"E_a = {result.activation:.3f} ± {result.activation_std:.3f} eV", fontsize=9)
    if result.extrapolated:
        axes.legend(frameon=False, fontsize=7)


def arrhenius_figure(result: Arrhenius) -> Figure:
    """D against 1/T."""
    figure, axes = _single()
    draw_arrhenius(axes, result)
    return figure


def rdf_figure(result: RadialDistribution) -> Figure:
    """g(r), and the running number of neighbours."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    r = (result.edges[1:] + result.edges[:-1]) / 2
    for name, g in result.g.items():
        left.plot(r, g, lw=1.2, label=name)
        right.plot(result.edges[1:], result.neighbours[name], lw=1.2, label=name)
    left.axhline(1, color="0.7", lw=0.8)
    left.set_ylabel("g(r)")
    right.set_ylabel("neighbours within r")
    right.set_ylim(0, 30)
    for axes in (left, right):
        axes.set_xlabel("r (Å)")
        axes.legend(frameon=False, fontsize=7)
    return figure


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    return figure, figure.subplots()
