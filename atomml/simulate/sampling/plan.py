"""What a sampling run will do: cells, relaxations, trajectories and batches of labels, each with its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from atomml.calculators import calculator_identity
from atomml.datasets.frame import Frame
from atomml.datasets.packing import pack_frames
from atomml.datasets.store import FrameStore
from atomml.simulate.md_config import default_timestep
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.dynamics import step_counts
from atomml.simulate.sampling.select import Choice, Pool
from atomml.simulate.sampling.structures import Start, draw_strain, make_starts, random_stream, strained
from atomml.simulate.sampling.units import LabelUnit, RelaxUnit, RunUnit, digest_of

__all__ = ["SamplingPlan", "label_units", "plan_sampling", "relax_units", "run_units_of"]


class SamplingPlan(NamedTuple):
    """How much a run is, before anything is computed.

    Attributes:
        structures: name, formula, atoms and origin of every cell.
        dropped: (name, reason) of structures left out.
        runs: trajectories.
        steps: steps of dynamics in all.
        atom_steps: atoms times steps, which the cost goes with.
        recorded: frames recorded at most, from which the selection takes some.
    """

    structures: list[dict[str, Any]]
    dropped: list[tuple[str, str]]
    runs: int
    steps: int
    atom_steps: int
    recorded: int


def plan_sampling(config: SampleConfig, base: Path = Path()) -> SamplingPlan:
    """Count what a run would do; raises what `make_starts` raises."""
    kept, dropped = make_starts(config, base)
    runs_each = len(list(_conditions(config)))
    steps = atom_steps = recorded = 0
    for start in kept:
        timestep = config.dynamics.timestep or default_timestep(start.atoms)
        equilibration, sampling, interval = step_counts(config.dynamics, timestep)
        steps += runs_each * (equilibration + sampling)
        atom_steps += runs_each * (equilibration + sampling) * len(start.atoms)
        recorded += runs_each * (sampling // interval)
    return SamplingPlan(
        [row_of(start) for start in kept], dropped, runs_each * len(kept), steps, atom_steps, recorded
    )


def row_of(start: Start) -> dict[str, Any]:
    """A cell as JSON values."""
    return {
        "name": start.name,
        "formula": start.atoms.get_chemical_formula(),
        "atoms": len(start.atoms),
        "repeat": list(start.repeat),
        "provenance": start.provenance,
        "substitution": start.substitution,
    }


def _conditions(config: SampleConfig) -> Sequence[tuple[int, int, float]]:
    """(strain, replica, temperature) of the runs of a structure."""
    strains = len(config.strain.values) or config.strain.runs
    return list(product(range(strains), range(config.dynamics.replicas), config.dynamics.temperatures))


def relax_units(config: SampleConfig, starts: Sequence[Start], folder: Path) -> list[RelaxUnit]:
    """A relaxation for every cell."""
    identity, units = calculator_identity(config.calculator), []
    common = [config.relax.model_dump(mode="json"), config.explosion.model_dump(mode="json"), config.seed]
    for start in starts:
        tags = {**start.tags(), "T": 0.0, "strain": 0.0, "shear": 0.0, "traj": f"{start.name}_relaxed"}
        tags["sampled"] = False
        key = digest_of("relax", identity, *common, start.name, tags, start.atoms)
        units.append(
            RelaxUnit(
                start.name,
                folder / key,
                config.calculator,
                start.atoms,
                config.relax,
                config.explosion,
                config.seed,
                tags,
            )
        )
    return units


def run_units_of(config: SampleConfig, starts: Sequence[Start], folder: Path) -> list[RunUnit]:
    """All trajectories; strains outside, structures inside, so that a run stopped early is balanced."""
    identity, units = calculator_identity(config.calculator), []
    dynamics = config.dynamics.model_dump(mode="json", exclude={"temperatures", "replicas"})
    common = [dynamics, config.explosion.model_dump(mode="json"), config.seed]
    for (strain, replica, kelvin), start in product(_conditions(config), starts):
        name = f"{start.name}_{kelvin:g}K_{strain}_{replica}"
        tensor = draw_strain(config.strain, strain, random_stream(config.seed, "strain", name))
        atoms = strained(start.atoms, tensor)
        linear = float(np.trace(tensor)) / 3.0
        tags = {
            **start.tags(),
            "T": float(kelvin),
            "strain": linear,
            "shear": float(np.linalg.norm(tensor - linear * np.eye(3))),
            "traj": name,
            "sampled": True,
        }
        key = digest_of("run", identity, *common, name, kelvin, tags, atoms)
        units.append(
            RunUnit(
                name,
                folder / key,
                config.calculator,
                atoms,
                config.dynamics,
                config.explosion,
                kelvin,
                config.seed,
                tags,
            )
        )
    return units


def label_units(config: SampleConfig, pools: Sequence[Pool], choice: Choice, folder: Path) -> list[LabelUnit]:
    """Batches of chosen frames."""
    calculator = config.labels.calculator or config.calculator
    limits = config.selection.fmax_min, config.selection.fmax_max
    identity, units = calculator_identity(calculator), []
    for first in range(0, len(choice.rows), config.labels.batch):
        rows = choice.rows[first : first + config.labels.batch]
        frames = pack_frames(
            [_geometry(pools[k].frames(), row) for k, row in rows], {}, where="the chosen frames"
        )
        tags = [frames.tags_of(i) for i in range(len(frames))]
        fixed = np.zeros(0) if frames.fixed is None else frames.fixed
        check = first == 0
        key = digest_of("label", identity, *limits, check, frames.fingerprint(), tags, fixed)
        name = f"labels {first} to {first + len(rows) - 1}"
        units.append(LabelUnit(name, folder / key, calculator, frames, *limits, check))
    return units


def _geometry(store: FrameStore, row: int) -> Frame:
    frame = store.frame(row)
    tags: Mapping[str, Any] = store.tags_of(row)
    part = store.atoms_of(row)
    fixed = None if store.fixed is None else np.array(store.fixed[part])
    geometry: Frame = frame._replace(energy=float("nan"), forces=None, stress=None)
    return geometry._replace(id=store.ids[row], tags=tags, fixed=fixed)


def plain(atoms: Atoms) -> Atoms:
    """A copy without results and notes."""
    copy = atoms.copy()
    copy.calc = None
    copy.info = {}
    return copy
