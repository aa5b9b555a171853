"""Properties of the demo model: LiCl at 600 K, phonons of LiCl, diffusion of lithium in Li3YCl6.

    python train/properties.py dynamics [--runs DIR]     # the compiled model; goes on where it was killed
    python train/properties.py report [--runs DIR] [--out FILE]

``dynamics`` makes the trajectories, 10 ps of LiCl and ``--picoseconds`` of Li3YCl6 at each temperature; ``report``
analyses what there is and writes FILE (.json, with .md and .png beside it).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from matplotlib.figure import Figure
from rich.console import Console

from atomml._version import __version__
from atomml.errors import SimulationError
from atomml.files import replace_file
from atomml.potentials.compile import compile_potential
from atomml.potentials.model_file import load_model, save_model
from atomml.simulate import relax, run_md
from atomml.simulate.calculator import Calculator
from atomml.simulate.md_log import read_log
from atomml.simulate.md_summary import drift
from atomml.simulate.properties import (
    Arrhenius,
    Diffusion,
    Phonons,
    arrhenius,
    diffusion,
    model_of,
    phonons,
    read_trajectory,
)
from atomml.simulate.properties.figures import draw_arrhenius, draw_bands
from atomml.simulate.sampling.prototypes import prototype
from atomml.training.report import markdown_table, save_figure

HERE = Path(__file__).parent
TEMPERATURES = (500, 550, 600, 650, 700, 1000)  # K
EQUILIBRATION, STEP = 5.0, 2.0  # ps, fs
FAILED = "failed.txt"
TEACHER = "chgnet:r2scan"
TEACHER_FMAX = 2e-3  # single precision
console = Console()


def main() -> None:
    """Read the command line and do what it asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("dynamics", "report"))
    parser.add_argument("--runs", type=Path, default=Path("runs/properties"))
    parser.add_argument("--out", type=Path, default=HERE / "properties.json")
    parser.add_argument("--picoseconds", type=float, default=100.0)
    arguments = parser.parse_args()
    if arguments.part == "dynamics":
        dynamics(arguments.runs, arguments.picoseconds)
    else:
        report(arguments.runs, arguments.out)


def dynamics(runs: Path, picoseconds: float) -> None:
    """All trajectories, each in its folder."""
    model = compiled_model(runs / "demo.safetensors")
    salt = bulk("LiCl", "rocksalt", a=5.14, cubic=True) * (3, 3, 3)
    simulate(runs / "licl_600K", relaxed(salt, model), model, 600, picoseconds=10.0)
    crystal = relaxed(prototype("li3mx6_p3m1"), model) * (2, 1, 2)
    for kelvin in TEMPERATURES:
        folder = runs / f"li3ycl6_{kelvin}K"
        if (folder / FAILED).exists():
            continue
        try:
            simulate(folder, crystal, model, kelvin, picoseconds=picoseconds)
        except SimulationError as error:
            console.print(f"{folder.name}: {error}")
            (folder / FAILED).write_text(f"{error.what} {error.where}\n", encoding="utf-8")


def compiled_model(path: Path) -> Path:
    """The demo model, compiled once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(compile_potential(load_model("demo")), path, licence="MIT")
    return path


def relaxed(atoms: Atoms, model: Path) -> Atoms:
    """Positions and cell at rest; shaken first, so that symmetry holds nothing in place."""
    atoms = atoms.copy()
    atoms.rattle(0.02, seed=0)
    (result,) = relax(atoms, Calculator(load_model(model)), fmax=0.01, steps=1000)
    console.print(
        f"{result.formula}: {result.energy_last / result.n_atoms:.4f} eV/atom, {result.fmax:.3g} eV/Å"
    )
    return Atoms(result.atoms.numbers, result.atoms.positions, cell=result.atoms.cell, pbc=True)


def simulate(folder: Path, start: Atoms, model: Path, kelvin: float, *, picoseconds: float) -> None:
    """Langevin dynamics to equilibrate, then a Nosé-Hoover chain, which leaves diffusion alone, in ``folder``."""
    warm, calculator = folder / "equilibration", Calculator(load_model(model), deviations=False)
    common = {"temperature": kelvin, "timestep": STEP, "seed": int(kelvin)}
    steps, resume = round(1000 * EQUILIBRATION / STEP), (warm / "state.npz").exists()
    run_md(start, calculator, steps=steps, friction=0.01, log_every=50, out_dir=warm, resume=resume, **common)
    first, resume = read(warm / "trajectory.extxyz", index=-1), (folder / "state.npz").exists()
    settings = {"thermostat": "nose-hoover", "keep_velocities": True, "log_every": 25, "state_every": 500}
    steps = round(1000 * picoseconds / STEP)
    run = run_md(first, calculator, steps=steps, out_dir=folder, resume=resume, **common, **settings)
    mean = run.summary["second_half"]["temperature_K"]["mean"]
    console.print(
        f"{folder.name}: {run.summary['time_ps']:g} ps, {mean:.0f} K, {run.summary['seconds']:.0f} s",
    )


def report(runs: Path, out: Path) -> None:
    """Analyse the trajectories, compute phonons, write the tables and the figure."""
    stable = stability(runs / "licl_600K")
    found, failed = [], {}
    for kelvin in TEMPERATURES:
        folder = runs / f"li3ycl6_{kelvin}K"
        if (folder / FAILED).exists():
            failed[str(kelvin)] = (folder / FAILED).read_text(encoding="utf-8").strip()
        elif (folder / "summary.json").exists():
            found.append(diffusion(read_trajectory(folder), "Li", charge=1.0))
    line = arrhenius(found, extrapolate=[300.0])
    demo = phonons(bulk("LiCl", "rocksalt", a=5.14), "demo", supercell=(4, 4, 4))
    teacher = phonons(
        bulk("LiCl", "rocksalt", a=5.14), model_of(TEACHER), supercell=(4, 4, 4), fmax=TEACHER_FMAX
    )
    results = {
        "atomml": __version__,
        "model": model_of(runs / "demo.safetensors", dtype=None).identity,
        "LiCl_600K": stable,
        "Li3YCl6": {"diffusion": [r.summary for r in found], "failed": failed, "arrhenius": line.summary},
        "LiCl_phonons": {name: p.summary for name, p in (("demo", demo), (TEACHER, teacher))},
    }
    replace_file(out, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    text = markdown_of(stable, found, failed, line, {"demo": demo, TEACHER: teacher})
    replace_file(out.with_suffix(".md"), text.encode())
    save_figure(figure_of(found, line, {"demo": demo, TEACHER: teacher}), out.with_suffix(".png"))


def stability(folder: Path) -> dict[str, Any]:
    """What the log of a run says: temperature, conserved energy, shortest distance."""
    rows = read_log(folder / "log.csv")
    log = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    atoms = read(folder / "trajectory.extxyz", index=-1)
    n, half = len(atoms), len(rows) // 2
    conserved = 1000 * log["conserved_eV"] / n
    return {
        "n_atoms": n,
        "time_ps": float(log["time_fs"][-1] / 1000),
        "timestep_fs": STEP,
        "temperature_K": float(log["temperature_K"][half:].mean()),
        "temperature_std_K": float(log["temperature_K"][half:].std()),
        "canonical_std_K": 600.0 * float(np.sqrt(2 / (3 * n - 3))),
        "drift_meV_per_atom_per_ps": drift(log["time_fs"], log["conserved_eV"], n),
        "conserved_range_meV_per_atom": float(np.ptp(conserved)),
        "shortest_distance_A": float(log["min_distance_A"].min()),
        "largest_force_eV_A": float(log["max_force_eV_A"].max()),
        "pressure_GPa": float(log["pressure_GPa"][half:].mean()),
    }


def markdown_of(
    stable: dict[str, Any],
    found: list[Diffusion],
    failed: dict[str, str],
    line: Arrhenius,
    bands: dict[str, Phonons],
) -> str:
    """The tables."""
    rows = [
        [
            f"{r.temperature:.0f}",
            f"{r.d:.2e} ± {r.d_std:.1e}",
            f"± {r.d_95:.1e}",
            f"{r.exponent:.2f}",
            f"{r.conductivity:.0f} ± {r.conductivity_std:.0f}",
            f"{r.time:g}",
        ]
        for r in found
    ]
    header = ["T / K", "D / cm²/s (68 %)", "95 %", "log–log slope", "σ / mS/cm", "ps"]
    (room,) = line.extrapolated
    low, high = (room.d * float(np.exp(sign * room.ln_d_std)) for sign in (-1, 1))
    modes = [
        [
            name,
            (4 * abs(float(np.linalg.det(p.cell)))) ** (1 / 3),
            float(p.frequencies.max()),
            p.gamma_acoustic,
            len(p.imaginary),
            p.fmax,
        ]
        for name, p in bands.items()
    ]
    names = ["model", "a / Å", "highest / THz", "acoustic at Γ / THz", "imaginary q points", "fmax / eV/Å"]
    ions, window = found[0].n_ions, found[0].window
    return "\n".join(
        [
            "# Properties of the demo model",
            "",
            "Made by `python train/properties.py`; dynamics with the compiled model, 2 fs, Nosé–Hoover chain after",
            "5 ps of Langevin dynamics, cell at rest at 0 K. The demo model was fitted to 280 frames of 0.2 ps runs:",
            "these numbers say that the tools work, not what the materials do.",
            "",
            "![Diffusion and phonons](properties.png)",
            "",
            "## LiCl at 600 K",
            "",
            markdown_table(["quantity", "value"], [[k, v] for k, v in stable.items()]),
            "",
            "## Lithium in Li3YCl6",
            "",
            f"120 atoms, {ions} Li, one Li ordering. D from lags of {window[0]:g} to {window[1]:g} ps; errors from",
            "the scatter of five blocks (Student's t). σ: Nernst–Einstein, no Haven ratio.",
            "",
            markdown_table(header, rows),
            "",
            *(f"- {kelvin} K: {why}" for kelvin, why in failed.items()),
            *warnings_of(found),
            "",
            f"E_a = {line.activation:.3f} ± {line.activation_std:.3f} eV, χ²/ν = {line.chi2_dof:.2f}; "
            f"D(300 K) = {room.d:.1e} cm²/s ({low:.1e} to {high:.1e}).",
            "",
            "## Phonons of LiCl",
            "",
            "Supercell 4×4×4 of the primitive cell. The teacher of the demo data, DIEP, is not installed here:",
            "CHGNet (r2SCAN), in single precision, is the comparison. No LO–TO splitting in either.",
            "",
            markdown_table(names, modes),
            "",
        ]
    )


def warnings_of(found: list[Diffusion]) -> list[str]:
    """Each warning once, with the temperatures that it is about, and its exponents left to the table."""
    kelvin: dict[str, list[str]] = {}
    for r in found:
        for warning in r.warnings:
            kelvin.setdefault(warning.partition(":")[0], []).append(f"{r.temperature:.0f}")
    return [f"- {', '.join(temperatures)} K: {text}." for text, temperatures in kelvin.items()]


def figure_of(found: list[Diffusion], line: Arrhenius, bands: dict[str, Phonons]) -> Figure:
    """Mean square displacements, Arrhenius plot, bands."""
    figure = Figure(figsize=(13.0, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    for r in found:
        left.plot(r.lags, r.msd, lw=1.2, label=f"{r.temperature:.0f} K")
    left.axvspan(*found[0].window, color="0.9", zorder=0)
    left.set_xlabel("lag (ps)")
    left.set_ylabel("MSD of Li in Li3YCl6 (Å²)")
    left.legend(frameon=False, fontsize=7)
    draw_arrhenius(middle, line)
    for (name, p), colour in zip(bands.items(), ("tab:blue", "tab:orange"), strict=True):
        draw_bands(right, p, colour=colour, label=name)
    right.legend(frameon=False, fontsize=7)
    right.set_title("LiCl", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
