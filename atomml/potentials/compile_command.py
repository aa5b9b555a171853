"""What `atomml compile` does: compile, compare, time, write, print."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

from atomml.errors import ConfigError
from atomml.files import write_atomically
from atomml.graph.atom_graph import graph_from_ase
from atomml.potentials.compile import compile_potential
from atomml.potentials.compile_structures import sample_structures
from atomml.potentials.compiled import CompiledPotential
from atomml.potentials.model_file import load_model, save_model
from atomml.potentials.potential import Potential

__all__ = ["compile_command", "time_both"]

REPEATS = 7
MOST_ATOMS = 500
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}


def compile_command(
    model: str,
    out: Path,
    structures: Sequence[Atoms] | None,
    *,
    tolerance_energy: float,
    tolerance_forces: float,
    knots: int | None,
    dtype: str,
    json_file: Path | None,
) -> None:
    """Compile a model file into another and print errors, size and speed.

    Raises:
        ConfigError: an unknown precision, less than two knots, or an output that is the input.
        CheckError: the result is not accurate enough; nothing is written.
        AtommlError: whatever `compile_potential` raises; the file cannot be read or written.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"{dtype!r} is not a precision.", where="--dtype", fix="use float32 or float64")
    if knots is not None and knots < 2:
        raise ConfigError(f"A table needs two knots at least, not {knots}.", where="--knots")
    if out.exists() and Path(model).exists() and out.samefile(model):
        raise ConfigError("The compiled model would replace its source.", fix="give another name")
    potential = load_model(model)
    compiled = compile_potential(
        potential,
        structures=structures,
        tolerance_energy=tolerance_energy,
        tolerance_forces=tolerance_forces,
        knots=knots,
        dtype=cast(Literal["float32", "float64"], dtype),
    )
    kept = {name: potential.metadata.get(name, {}) for name in ("training", "data", "metrics")}
    save_model(compiled, out, **kept, licence=potential.metadata.get("licence", "not stated"))
    speed = time_both(potential, compiled, structures or sample_structures(potential.elements))
    result = {"file": str(out), "bytes": out.stat().st_size, "speed": speed, **compiled.compilation}
    _show(result, compiled)
    if json_file is not None:
        write_atomically(json_file, json.dumps(result, indent=2).encode())


def time_both(
    potential: Potential, compiled: CompiledPotential, structures: Sequence[Atoms]
) -> dict[str, Any]:
    """Median time of energy, forces and stress of one structure with both, in turns; the graph is made before.

    The structure is the largest with at most 500 atoms, of those the one with most neighbours.
    """
    fits = [a for a in structures if len(a) <= MOST_ATOMS] or [min(structures, key=len)]
    graphs = [graph_from_ase(a, potential.cutoff) for a in fits if len(a) == max(map(len, fits))]
    graph = max(graphs, key=lambda g: g.num_edges).to(potential.device)
    n_atoms = len(graph.z)
    seconds: dict[str, list[float]] = {"source": [], "compiled": []}
    for _ in range(REPEATS):
        for name, pot in (("source", potential), ("compiled", compiled)):
            start = time.perf_counter()
            with torch.no_grad():
                pot(graph, forces=True, stress=True)
            seconds[name].append(time.perf_counter() - start)
    cost = {name: 1e6 * float(np.median(values)) / n_atoms for name, values in seconds.items()}
    return {
        "atoms": n_atoms,
        "neighbors": graph.num_edges / n_atoms,
        "threads": torch.get_num_threads(),
        "engine": compiled.engine,
        "source_us_per_atom": cost["source"],
        "compiled_us_per_atom": cost["compiled"],
        "ratio": cost["source"] / cost["compiled"],
    }


def _show(result: dict[str, Any], compiled: CompiledPotential) -> None:
    engines, precision = result["difference"], str(compiled.dtype).removeprefix("torch.")
    titles = [f"{precision}, {engine}" for engine in engines]
    title = "{number} structures, {origin}".format(**result["structures"])
    table = Table("largest difference", *titles, "table alone", "unit", title=title)
    for name, unit in UNITS.items():
        _add_row(table, name, [e[name] for e in engines.values()], result["difference_by_table"][name], unit)
    for name, limit in result["tolerance"].items():
        scaled = f"scaled_{name}"
        values = [e[scaled] for e in engines.values()]
        _add_row(
            table, f"{name}, scaled (≤ {limit:g})", values, result["difference_by_table"][scaled], UNITS[name]
        )
    console = Console()
    console.print(table)
    speed, knots = result["speed"], ", ".join(map(str, result["knots"]))
    console.print(f"knots: {knots}; file: {result['file']}, {result['bytes'] / 1e6:.1f} MB", soft_wrap=True)
    console.print(
        f"speed: {speed['source_us_per_atom']:.3g} → {speed['compiled_us_per_atom']:.3g} µs per atom"
        f" ({speed['ratio']:.1f} times), energy, forces and stress of {speed['atoms']} atoms with"
        f" {speed['neighbors']:.0f} neighbours, threads: {speed['threads']}, engine: {speed['engine']}",
        soft_wrap=True,
    )


def _add_row(table: Table, name: str, values: list[float], by_table: float, unit: str) -> None:
    table.add_row(name, *(f"{value:.1e}" for value in values), f"{by_table:.1e}", unit)
