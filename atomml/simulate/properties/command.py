"""What `atomml property` does: read files, compute, print a table, write JSON, CSV and PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from atomml.errors import ConfigError, DataError
from atomml.files import write_atomically
from atomml.simulate.commands import read_structures
from atomml.simulate.properties import figures
from atomml.simulate.properties.arrhenius import Measured, arrhenius
from atomml.simulate.properties.diffusion import Diffusion, diffusion
from atomml.simulate.properties.elastic import elastic_constants
from atomml.simulate.properties.eos import equation_of_state
from atomml.simulate.properties.model import model_of
from atomml.simulate.properties.phonons import phonons
from atomml.simulate.properties.rdf import radial_distribution
from atomml.simulate.properties.report import write_property
from atomml.simulate.properties.trajectory import Trajectory, read_trajectory

__all__ = ["arrhenius_command", "crystal_command", "diffusion_command", "rdf_command"]

CRYSTAL: dict[str, tuple[Any, Any]] = {
    "eos": (equation_of_state, figures.eos_figure),
    "elastic": (elastic_constants, figures.elastic_figure),
    "phonons": (phonons, figures.phonon_figure),
}


def crystal_command(
    kind: Literal["eos", "elastic", "phonons"],
    model: str,
    structure: str,
    *,
    out: Path,
    device: str,
    dtype: str,
    json_file: Path | None,
    settings: Mapping[str, Any],
) -> None:
    """A property of the last structure of a file.

    Raises:
        ConfigError: an unknown dtype.
        AtommlError: whatever `equation_of_state`, `elastic_constants` or `phonons` raises.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"There is no dtype {dtype!r}.", fix="use float32 or float64")
    compute, draw = CRYSTAL[kind]
    atoms = read_structures(structure)[-1]
    chosen = model_of(model, device=device, dtype=cast(Literal["float32", "float64"], dtype))
    result = compute(atoms, chosen, **settings)
    provenance = {**chosen.provenance, "structure": structure, "settings": dict(settings)}
    document = write_property(out, kind, result, draw(result), provenance)
    _finish(out, kind, document, json_file)
    if kind == "phonons" and result.imaginary:
        worst = result.imaginary[0]
        place = worst.label or ", ".join(f"{x:.3f}" for x in worst.q)
        _warn(
            f"{len(result.imaginary)} q points have imaginary modes, lowest {worst.frequency:.2f} THz at {place}"
        )
    if kind == "elastic" and not result.stable:
        _warn("the crystal is not stable (Born): a strain lowers its energy")


def diffusion_command(
    trajectory: str,
    *,
    elements: Sequence[str],
    out: Path,
    json_file: Path | None,
    reading: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Diffusion coefficients of the elements (all by default) of a run.

    Raises:
        AtommlError: whatever `read_trajectory` and `diffusion` raise.
    """
    results = _diffusion(trajectory, elements, reading, settings)
    provenance = {**_run_of(trajectory), "settings": {**reading, **settings}}
    figure = figures.diffusion_figure(list(results.values()))
    document = write_property(out, "diffusion", results, figure, provenance)
    table = Table("element", "D (cm²/s)", "68 %", "95 %", "log–log slope", "σ (mS/cm)", title=_title(results))
    for name, r in results.items():
        sigma = "" if r.conductivity is None else f"{r.conductivity:.3g} ± {r.conductivity_std:.1g}"
        table.add_row(name, f"{r.d:.3g}", f"± {r.d_std:.1g}", f"± {r.d_95:.1g}", f"{r.exponent:.2f}", sigma)
    Console().print(table)
    for name, r in results.items():
        for warning in r.warnings:
            _warn(f"{name}: {warning}")
    _finish(out, "diffusion", document, json_file, show=False)


def arrhenius_command(
    runs: Sequence[str],
    *,
    element: str,
    extrapolate: Sequence[float],
    out: Path,
    json_file: Path | None,
    reading: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Activation energy from runs, or from the JSON files of `atomml property diffusion`.

    Raises:
        AtommlError: whatever reading, `diffusion` and `arrhenius` raise.
    """
    points: list[Diffusion | Measured] = []
    for run in runs:
        if run.endswith(".json"):
            points.append(_from_json(Path(run), element))
            continue
        points.append(_diffusion(run, [element], reading, settings)[element])
        for warning in cast(Diffusion, points[-1]).warnings:
            _warn(f"{run}: {warning}")
    result = arrhenius(points, extrapolate=extrapolate)
    provenance = {"runs": list(runs), "element": element, "settings": {**reading, **settings}}
    document = write_property(out, "arrhenius", result, figures.arrhenius_figure(result), provenance)
    _finish(out, "arrhenius", document, json_file)


def rdf_command(
    trajectory: str,
    *,
    pairs: Sequence[str],
    out: Path,
    json_file: Path | None,
    skip: int,
    every: int,
    settings: Mapping[str, Any],
) -> None:
    """Radial distribution functions of the frames of a run or file.

    Raises:
        AtommlError: whatever reading and `radial_distribution` raise.
    """
    path = Path(trajectory)
    frames = read_structures(path / "trajectory.extxyz" if path.is_dir() else trajectory)[skip::every]
    result = radial_distribution(frames, list(pairs) or None, **settings)
    provenance = {**_run_of(trajectory), "settings": {"skip": skip, "every": every, **settings}}
    document = write_property(out, "rdf", result, figures.rdf_figure(result), provenance)
    table = Table(
        "pair", "first peak (Å)", "first minimum (Å)", "neighbours", title=f"{result.frames} frames"
    )
    for name, peak in result.peaks.items():
        found = ("none", "", "")
        if peak is not None:
            found = (f"{peak.position:.2f}", f"{peak.minimum:.2f}", f"{peak.coordination:.2f}")
        table.add_row(name, *found)
    Console().print(table)
    _finish(out, "rdf", document, json_file, show=False)


def _diffusion(
    trajectory: str, elements: Sequence[str], reading: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Diffusion]:
    run: Trajectory = read_trajectory(trajectory, **reading)
    chosen = list(elements) or [chemical_symbols[z] for z in sorted(set(run.numbers.tolist()))]
    return {name: diffusion(run, name, **settings) for name in chosen}


def _title(results: Mapping[str, Diffusion]) -> str:
    first = next(iter(results.values()))
    kelvin = "unknown temperature" if first.temperature is None else f"{first.temperature:.0f} K"
    return f"{first.time:g} ps, {kelvin}, lags {first.window[0]:g} to {first.window[1]:g} ps"


def _from_json(path: Path, element: str) -> Measured:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[element]
        ions = found["n_ions"] / found["volume_A3"]
        return Measured(
            found["temperature_K"], found["D_cm2_s"], found["D_std_cm2_s"], ions, found["charge_e"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"No diffusion coefficient of {element} can be read ({type(error).__name__}: {error}).",
            where=str(path),
            fix="give a diffusion.json written by `atomml property diffusion`, or the folder of a run",
        ) from error


def _run_of(trajectory: str) -> dict[str, Any]:
    """Settings of a run, if it left a summary."""
    path = Path(trajectory) / "summary.json"
    found: dict[str, Any] = {"trajectory": trajectory}
    if path.is_file():
        found["run"] = json.loads(path.read_text(encoding="utf-8")).get("settings")
    return found


def _finish(
    out: Path, name: str, document: Mapping[str, Any], json_file: Path | None, *, show: bool = True
) -> None:
    """Print the numbers and where the files are."""
    if show:
        table = Table("quantity", "value")
        for key, value in document.items():
            if isinstance(value, bool | str | int | float):
                table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        for e in document.get("extrapolated", ()):
            low, high = e["D_low_cm2_s"], e["D_high_cm2_s"]
            table.add_row(
                f"D({e['temperature_K']:g} K)", f"{e['D_cm2_s']:.3g} ({low:.2g} to {high:.2g}) cm²/s"
            )
        for row in document.get("C_GPa", ()):
            table.add_row("C (GPa)", " ".join(f"{x:7.2f}" for x in row))
        Console().print(table)
    typed = ", ".join(str(out / f"{name}.{end}") for end in ("json", "csv", "png"))
    Console().print(f"written: {typed}", soft_wrap=True)
    if json_file is not None:
        write_atomically(json_file, (out / f"{name}.json").read_bytes())


def _warn(message: str) -> None:
    Console(stderr=True).print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)
