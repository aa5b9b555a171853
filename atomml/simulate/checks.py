"""All checks of a potential in one call."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import nn

from atomml.errors import AtommlError
from atomml.simulate import checks_curves as curves
from atomml.simulate import checks_deviations as deviations
from atomml.simulate import checks_dynamics as dynamics
from atomml.simulate import checks_physics as physics
from atomml.simulate import checks_speed as speed
from atomml.simulate.calculator import has_volume, refuse_charge_and_spin
from atomml.simulate.check_report import CheckReport, CheckRow, Curve
from atomml.simulate.check_structures import default_structures, perturbed, uncovered
from atomml.simulate.deviations import mean_potential
from atomml.simulate.interface import PotentialLike, evaluating, refuse_unknown_elements, resolve_potential
from atomml.simulate.progress import progress_bar

__all__ = ["in_precision", "run_checks"]

_MOST = 4
_Outcome = CheckRow | list[CheckRow] | tuple[list[CheckRow], list[Curve]]
_Task = tuple[str, Callable[[], Any]]


def run_checks(
    potential: PotentialLike | str | Path,
    structures: Sequence[Atoms] | None = None,
    out_dir: str | Path | None = None,
    *,
    quick: bool = False,
    progress: bool = False,
) -> CheckReport:
    """Test what a user should know before trusting a potential.

    Derivatives (forces and stress against differences), symmetries (rotation, reflection, permutation,
    translation), extensivity, separate fragments, smoothness at the cutoff, energy conservation, equation of
    state, dimers, isolated atoms, deviations where the potential has them, precision and speed. Exact
    properties are tested in float64 whatever the precision of the model; rotation and reflection also in
    float32.

    Args:
        potential: a potential, a model file, or "demo".
        structures: to test on (the first four are used); by default crystals and molecules of the potential's
            elements. Derivatives and symmetries use copies displaced by 0.05 Å and strained by up to 2 %, so
            that nothing vanishes by symmetry.
        out_dir: where to write check.md, check.json, check.png and check_curves.csv.
        quick: one structure, shorter dynamics, no timing.
        progress: show a progress bar.

    Raises:
        UnsupportedError: a structure with an element the potential does not know, a charge or a spin.
    """
    begin, potential = time.perf_counter(), resolve_potential(potential)
    given = default_structures(potential.elements) if structures is None else list(structures)
    used = given[: 1 if quick else _MOST]
    for atoms in used:
        refuse_charge_and_spin(atoms)
        refuse_unknown_elements(atoms, potential.elements)
    rows: list[CheckRow] = []
    lines: list[Curve] = []
    with evaluating(potential):  # the copies that _tasks makes are then in this mode too
        tasks = list(_tasks(potential, used, known=structures is not None, quick=quick))
    with evaluating(potential), progress_bar(len(tasks), "checks", show=progress) as advance:
        for name, task in tasks:
            new_rows, new_curves = _run(name, task)
            rows += new_rows
            lines += new_curves
            advance(1)
    folder = None if out_dir is None else Path(out_dir)
    about = _about(potential, given, used, time.perf_counter() - begin)
    report = CheckReport(tuple(rows), tuple(lines), about, folder)
    if folder is not None:
        report.write(folder)
    return report


def in_precision(potential: PotentialLike, dtype: torch.dtype) -> PotentialLike:
    """A copy of the potential with parameters of another precision; the given one is left as it is."""
    if potential.dtype == dtype:
        return potential
    module = copy.deepcopy(cast(nn.Module, potential)).to(dtype)
    return cast(PotentialLike, module)


def _tasks(potential: PotentialLike, used: Sequence[Atoms], *, known: bool, quick: bool) -> Iterator[_Task]:
    """The checks in the order of the report."""
    mean = mean_potential(potential)
    double, single = in_precision(mean, torch.float64), in_precision(mean, torch.float32)
    moved = [perturbed(atoms, seed=k) for k, atoms in enumerate(used)]
    smallest = min(moved, key=len)
    yield "consistency", partial(physics.check_consistency, double, moved)
    yield "forces = −dE/dr", partial(physics.check_forces, double, moved)
    yield "stress = dE/dε / V", partial(physics.check_stress, double, moved)
    for model, limit, label in ((double, 1e-9, "float64"), (single, 1e-4, "float32")):
        yield f"rotation ({label})", partial(physics.check_rotation, model, moved, limit, label)
        yield f"reflection ({label})", partial(physics.check_reflection, model, moved, limit, label)
    yield "permutation", partial(physics.check_permutation, double, moved)
    yield "translation and wrapping", partial(physics.check_translation, double, moved)
    yield "E(2×2×2) = 8 E", partial(physics.check_extensivity, double, moved)
    yield "separate pieces add up", partial(physics.check_fragments, double, moved)
    yield "no jump at the cutoff", partial(curves.check_cutoff, double)
    picoseconds, scaling_ps = (0.1, 0.05) if quick else (0.5, 0.1)
    yield (
        "NVE drift",
        partial(
            dynamics.check_energy_conservation,
            double,
            single,
            smallest,
            picoseconds=picoseconds,
            scaling_ps=scaling_ps,
        ),
    )
    for atoms in used:
        if has_volume(atoms):
            eos = partial(curves.check_equation_of_state, double, atoms, must_pass=known)
            yield "equation of state", eos
    yield "dimers", partial(curves.check_dimers, double)
    yield "isolated atoms", partial(curves.check_isolated_atoms, double)
    if getattr(potential, "deviations", ()):
        yield (
            "deviations",
            partial(deviations.check_deviations, in_precision(potential, torch.float64), moved),
        )
    yield "float32 against float64", partial(speed.check_precision, single, double, moved)
    if not quick:
        yield "speed", partial(speed.check_speed, potential, smallest)


def _run(name: str, task: Callable[[], _Outcome]) -> tuple[list[CheckRow], list[Curve]]:
    """Rows and curves of one check; a check that cannot finish is a failed row, not the end of the report."""
    try:
        outcome = task()
    except AtommlError as error:
        where = "" if error.where is None else f" ({error.where})"
        return [CheckRow(name, float("nan"), None, "", False, f"{error.what}{where}")], []
    if isinstance(outcome, CheckRow):
        return [outcome], []
    return outcome if isinstance(outcome, tuple) else (outcome, [])


def _about(
    potential: PotentialLike, given: Sequence[Atoms], used: Sequence[Atoms], seconds: float
) -> dict[str, Any]:
    missing = uncovered(used, potential.elements)
    formulas = ", ".join(a.get_chemical_formula() for a in used)
    return {
        "elements": " ".join(chemical_symbols[z] for z in potential.elements),
        "cutoff": f"{potential.cutoff:g} Å",
        "precision of the model": str(potential.dtype).removeprefix("torch."),
        "structures": f"{formulas} ({len(used)} of {len(given)})",
        "elements in none of them": ", ".join(missing) or "none",
        "seconds": round(seconds, 1),
    }
