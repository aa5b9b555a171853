"""Molecular dynamics of many structures in one graph; one that explodes leaves and the others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.config import parse_config
from atomml.errors import AtommlError, ConfigError, DataError, UnsupportedError
from atomml.shapes import Float64, Tensor, ndarray
from atomml.simulate.batched.dynamics import (
    MDState,
    Noise,
    drift,
    half_kick,
    md_state,
    ornstein_uhlenbeck,
    temperatures,
)
from atomml.simulate.batched.evaluate import Evaluation, evaluate, refuse_unusable, results_of
from atomml.simulate.batched.structures import can_be_batched
from atomml.simulate.batched.verlet import VerletLists
from atomml.simulate.deviations import mean_potential
from atomml.simulate.interface import PotentialLike, resolve_potential
from atomml.simulate.md_config import MDConfig, default_timestep, refuse_bad_setup
from atomml.simulate.md_guard import refuse_exploded
from atomml.simulate.progress import progress_bar

__all__ = ["BatchedMDResult", "run_md_batched"]


@dataclass(frozen=True, kw_only=True)
class BatchedMDResult:
    """A trajectory, as far as it went.

    Attributes:
        index: position among the structures given.
        formula: chemical formula.
        steps: steps made.
        times: fs, of the K records.
        positions: Å, not wrapped into the cell.
        energies: potential energies, eV.
        temperatures: K.
        error: why the run ended early, or None.
        atoms: the last structure with momenta, and with energy, forces and stress if there is no error.
    """

    index: int
    formula: str
    steps: int
    times: Float64[ndarray, " records"]
    positions: Float64[ndarray, "records atoms 3"]
    energies: Float64[ndarray, " records"]
    temperatures: Float64[ndarray, " records"]
    error: str | None
    atoms: Atoms


class _Member(NamedTuple):
    """A structure that waits for its run."""

    atoms: Atoms
    config: MDConfig
    rng: np.random.Generator


@dataclass
class _Trajectory:
    times: list[float] = field(default_factory=list)
    positions: list[Any] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)


def run_md_batched(
    structures: Atoms | Sequence[Atoms],
    potential: PotentialLike | str | Path,
    *,
    temperature: float | Sequence[float],
    steps: int,
    seed: int | Sequence[int] = 0,
    timestep: float | None = None,
    record_every: int = 10,
    max_atoms: int = 2000,
    skin: float = 0.5,
    progress: bool = False,
    **settings: Any,
) -> list[BatchedMDResult]:
    """Molecular dynamics of each structure: "nvt" (the default), Langevin by BAOAB, or "nve", velocity Verlet.

        BAOAB: half a kick, half a drift, friction and noise, half a drift, half a kick.

    As in `run_md` the centre of mass is held in nvt. The trajectory of a structure does not depend on what else is in
    the batch, but for the rounding of the potential. One that explodes (``limits``) is reported and leaves.

    Args:
        structures: left unchanged; of constraints only ``FixAtoms`` is possible.
        potential: a potential, a model file, or "demo".
        temperature: in K, of all or of each structure.
        steps: of each.
        seed: of all, or of each structure. Structure k of all has the generator of (seed, k).
        timestep: in fs; None: from the lightest atom of each.
        record_every: steps between records; the last step is recorded too.
        max_atoms: atoms in a batch (at least one structure).
        skin: of the neighbour lists, Å.
        progress: show a progress bar.
        settings: ``ensemble``, ``friction`` (1/fs), ``keep_velocities`` and ``limits``, as in `MDConfig`.

    Raises:
        ConfigError: an unknown or impossible setting; one that only `run_md` knows.
        DataError: no structures, or temperatures or seeds for another number of them.

    Source: B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """
    given = [structures] if isinstance(structures, Atoms) else list(structures)
    if not given or record_every < 1:
        raise DataError("There is no structure to simulate, or record_every is below 1.")
    model = mean_potential(resolve_potential(potential))
    kelvins, seeds = _for_each(temperature, len(given)), _for_each(seed, len(given))
    members: dict[int, _Member] = {}
    results: dict[int, BatchedMDResult] = {}
    for k, atoms in enumerate(given):
        chosen = {"temperature": kelvins[k], "steps": steps, "seed": seeds[k], **settings}
        config = _config(atoms, chosen, timestep)
        rng = np.random.default_rng([seeds[k], k] if isinstance(seed, int) else seeds[k])
        try:
            _refuse(atoms, model, config)
            members[k] = _Member(atoms, config, rng)
        except AtommlError as error:
            results[k] = _result(k, atoms.copy(), 0, _Trajectory(), str(error))
    with progress_bar(len(given), "dynamics", show=progress) as advance:
        advance(len(results))
        for part in _bins(members, max_atoms):
            results |= _run(part, model, steps, record_every, skin)
            advance(len(part))
    return [results[k] for k in range(len(given))]


def _for_each(value: Any, n: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value] * n
    if len(values) != n:
        raise DataError(f"There are {n} structures, but {len(values)} temperatures or seeds.")
    return values


def _config(atoms: Atoms, chosen: Mapping[str, Any], timestep: float | None) -> MDConfig:
    step = default_timestep(atoms) if timestep is None and len(atoms) else timestep or 1.0
    config = parse_config(
        MDConfig,
        {**chosen, "timestep": step},
        where="run_md_batched",
        fix="it knows ensemble, friction, keep_velocities and limits",
    )
    limits = config.limits
    if config.ensemble == "npt" or config.thermostat != "langevin":
        raise ConfigError("Batched dynamics is nve or nvt with the langevin thermostat.", fix="use run_md")
    if limits.stop_above is not None or limits.warn_above is not None:
        raise ConfigError("Batched dynamics does not watch deviations.", where="limits", fix="use run_md")
    return config


def _refuse(atoms: Atoms, potential: PotentialLike, config: MDConfig) -> None:
    """What makes a run impossible.

    Raises:
        AtommlError: says what.
    """
    refuse_unusable(atoms, potential)
    refuse_bad_setup(atoms, config, ())
    if not can_be_batched(atoms):
        raise UnsupportedError("Batched dynamics knows no constraint but FixAtoms.", fix="use run_md")


def _bins(members: Mapping[int, _Member], max_atoms: int) -> list[dict[int, _Member]]:
    """Structures in order, as many together as fit."""
    bins: list[dict[int, _Member]] = []
    size = 0
    for k, member in members.items():
        size += len(member.atoms)
        if not bins or size > max_atoms:
            bins.append({})
            size = len(member.atoms)
        bins[-1][k] = member
    return bins


def _run(
    members: Mapping[int, _Member], potential: PotentialLike, steps: int, record_every: int, skin: float
) -> dict[int, BatchedMDResult]:
    """Run structures that fit into one batch."""
    device, results = potential.device, dict[int, BatchedMDResult]()
    trajectories = {k: _Trajectory() for k in members}
    state = MDState.join([md_state(m.atoms, k, m.config, m.rng, device) for k, m in members.items()])
    noise, lists = Noise({k: m.rng for k, m in members.items()}), VerletLists(potential.cutoff, skin)
    lists.extend(len(state))
    result, errors = evaluate(potential, state, lists)
    for step in range(steps + 1):
        if step > 0:
            state = half_kick(state, result.forces)
            if bool((state.thermal > 0).any()):
                state = drift(ornstein_uhlenbeck(drift(state, 0.5), noise(state)), 0.5)
            else:
                state = drift(state, 1.0)
            result, errors = evaluate(potential, state, lists)
            state = half_kick(state, result.forces)
        kelvin = temperatures(state)
        errors = _exploded(members, state, result, kelvin, step) | errors
        ended = torch.full_like(state.volume, step == steps)
        ended[list(errors)] = True
        if step % record_every == 0 or step == steps:
            _record(trajectories, members, state, result, kelvin, step, errors)
        for place in torch.nonzero(ended)[:, 0].tolist():
            k = int(state.index[place])
            atoms = _atoms(members[k].atoms, state, result, place, good=place not in errors)
            error = str(errors[place]) if place in errors else None
            results[k] = _result(k, atoms, step, trajectories[k], error)
        if bool(ended.all()):
            break
        noise.select(~ended[state.owner])
        state, result, lists = state.select(~ended), result.select(~ended), lists.select(~ended)
    return results


def _record(
    trajectories: Mapping[int, _Trajectory],
    members: Mapping[int, _Member],
    state: MDState,
    result: Evaluation,
    kelvin: Float64[Tensor, " graphs"],
    step: int,
    errors: Mapping[int, AtommlError],
) -> None:
    parts = np.split(state.pos.cpu().numpy().copy(), np.cumsum(state.counts.tolist())[:-1])
    columns = zip(state.index.tolist(), parts, result.energy.tolist(), kelvin.tolist(), strict=True)
    for place, (k, pos, energy, now) in enumerate(columns):
        if place not in errors:
            own = trajectories[k]
            own.times.append(step * members[k].config.timestep)
            own.positions.append(pos)
            own.energies.append(energy)
            own.temperatures.append(now)


def _exploded(
    members: Mapping[int, _Member],
    state: MDState,
    result: Evaluation,
    kelvin: Float64[Tensor, " graphs"],
    step: int,
) -> dict[int, AtommlError]:
    """Structures beyond their limits, by their place."""
    errors: dict[int, AtommlError] = {}
    limits = members[int(state.index[0])].config.limits  # those of all
    force = state.largest(result.forces.norm(dim=1))
    good = (force <= limits.max_force) & (kelvin <= state.hottest) & (result.closest >= limits.min_distance)
    for place in torch.nonzero(~good)[:, 0].tolist():
        member = members[int(state.index[place])]
        atoms = _atoms(member.atoms, state, result, place, good=True)
        hot, near = float(kelvin[place]), float(result.closest[place])
        try:
            refuse_exploded(atoms, member.config, kelvin=hot, closest=near, step=step, started=step > 0)
        except AtommlError as error:
            errors[place] = error
    return errors


def _atoms(given: Atoms, state: MDState, result: Evaluation, place: int, *, good: bool) -> Atoms:
    rows, atoms = state.rows(place), given.copy()
    atoms.positions[:] = state.pos[rows].cpu().numpy()
    atoms.set_momenta(state.momentum[rows].cpu().numpy(), apply_constraint=False)
    if good:
        atoms.calc = SinglePointCalculator(atoms, **results_of(state, result, place))
    return atoms


def _result(k: int, atoms: Atoms, steps: int, own: _Trajectory, error: str | None) -> BatchedMDResult:
    return BatchedMDResult(
        index=k,
        formula=atoms.get_chemical_formula(),
        steps=steps,
        times=np.array(own.times, dtype=np.float64),
        positions=np.array(own.positions, dtype=np.float64).reshape(len(own.times), len(atoms), 3),
        energies=np.array(own.energies, dtype=np.float64),
        temperatures=np.array(own.temperatures, dtype=np.float64),
        error=error,
        atoms=atoms,
    )
