"""One unit of work of a sampling run: a relaxation or a trajectory, as recorded frames and a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from atomml.datasets.frame import Frame
from atomml.errors import AtommlError, ConfigError, DataError, SimulationError, UnsupportedError
from atomml.simulate.calculator import has_volume
from atomml.simulate.md_config import Limits, MDConfig, default_timestep, refuse_bad_setup
from atomml.simulate.md_integrators import degrees_of_freedom, make_integrator, start_velocities, temperature
from atomml.simulate.sampling.config import DynamicsConfig, ExplosionConfig, RelaxConfig
from atomml.simulate.sampling.correlation import correlation_time
from atomml.simulate.sampling.guard import Guard

__all__ = ["Outcome", "frame_of_atoms", "md_settings", "relax_start", "run_trajectory", "step_counts"]

VOLUME_FACTOR = 4.0  # change of volume that ends a relaxation


@dataclass
class Outcome:
    """What a unit leaves.

    Attributes:
        frames: recorded ones, labelled by the driving calculator.
        record: JSON values: status ("done", "exploded", "failed", "relaxed", "not converged"), reason, figures.
    """

    frames: list[Frame] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def md_settings(atoms: Atoms, config: DynamicsConfig, kelvin: float, limits: ExplosionConfig) -> MDConfig:
    """The molecular dynamics settings of a run."""
    return MDConfig(
        ensemble=config.ensemble,
        thermostat=config.thermostat,
        temperature=kelvin,
        steps=0,
        timestep=default_timestep(atoms) if config.timestep is None else config.timestep,
        pressure=config.pressure,
        friction=config.friction,
        limits=Limits(max_temperature=limits.max_temperature),
    )


def step_counts(config: DynamicsConfig, timestep: float) -> tuple[int, int, int]:
    """Steps of equilibration, of sampling and between recorded frames; at least one each of the last two."""
    interval = max(round(config.interval / timestep), 1)
    sampling = max(round(config.sampling / timestep / interval), 1) * interval
    return round(config.equilibration / timestep), sampling, interval


def frame_of_atoms(atoms: Atoms, tags: dict[str, Any], name: str) -> Frame:
    """A structure with its calculator's energy, raw forces and stress (if it has one) as a `Frame`."""
    mask = None
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask = np.zeros(len(atoms), dtype=bool) if mask is None else mask
            mask[constraint.index] = True
    forces = np.array(atoms.get_forces(apply_constraint=False), dtype=np.float64)
    return Frame(
        numbers=np.array(atoms.numbers),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell.array, dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        energy=float(atoms.get_potential_energy()),
        forces=forces,
        stress=stress_of(atoms),
        id=name,
        tags={**tags, "fmax": float(np.linalg.norm(forces, axis=1).max())},
        fixed=mask,
    )


def stress_of(atoms: Atoms) -> np.ndarray | None:
    """3×3 stress in eV/Å³ without the kinetic part, ASE's sign; None where there is none."""
    if not has_volume(atoms):
        return None
    try:
        stress = atoms.get_stress(voigt=False, apply_constraint=False, include_ideal_gas=False)
    except PropertyNotImplementedError:
        return None
    stress = np.array(stress, dtype=np.float64)
    return 0.5 * (stress + stress.T)


def relax_start(
    atoms: Atoms,
    calculator: AseCalculator,
    config: RelaxConfig,
    limits: ExplosionConfig,
    rng: np.random.Generator,
    tags: dict[str, Any],
) -> Outcome:
    """Relax a cell (left unchanged); the outcome has one frame unless it failed.

    Raises:
        UnsupportedError, ConfigError: the calculator cannot do this structure at all.
    """
    work = atoms.copy()
    work.positions += config.rattle * rng.standard_normal((len(work), 3))
    work.calc = calculator
    guard = Guard(work, limits, np.inf)
    record: dict[str, Any] = {"status": "not converged", "reason": "", "steps": 0}
    try:
        with _stopping():
            guard.check(work, 0.0)
            cell = config.cell and stress_of(work) is not None
            record |= {"cell": cell, "energy_first": float(work.get_potential_energy())}
            optimiser = FIRE(FrechetCellFilter(work) if cell else work, logfile=None)
            for converged in optimiser.irun(fmax=config.fmax, steps=config.steps):
                status = "relaxed" if converged else "not converged"
                record |= {"status": status, "steps": int(optimiser.nsteps)}
                guard.check(work, 0.0)
                _refuse_other_volume(work, atoms)
            _wrap(work)
            work.get_forces()
    except _StoppedError as stop:
        return Outcome([], record | {"status": "failed", "reason": stop.reason})
    frame = frame_of_atoms(work, {**tags, "step": 0, "time_fs": 0.0}, f"{tags['traj']}#0")
    record |= {"energy_last": frame.energy, "fmax": frame.tags["fmax"]}
    if has_volume(work):
        record["volume_ratio"] = float(work.get_volume() / atoms.get_volume())
    return Outcome([frame], record)


def run_trajectory(
    atoms: Atoms,
    calculator: AseCalculator,
    config: DynamicsConfig,
    kelvin: float,
    limits: ExplosionConfig,
    rng: np.random.Generator,
    tags: dict[str, Any],
) -> Outcome:
    """Run one trajectory from ``atoms`` (left unchanged), guarded at every step.

    Raises:
        UnsupportedError, ConfigError: the calculator cannot do this structure.
        SimulationError: npt without a volume, a stress, or with constraints.
    """
    work, frames = atoms.copy(), list[Frame]()
    work.calc = calculator
    settings = md_settings(work, config, kelvin, limits)
    series: dict[str, list[float]] = {"energy": [], "temperature": []}
    record: dict[str, Any] = {"status": "done", "reason": "", "T": kelvin, "timestep_fs": settings.timestep}
    equilibration, sampling, interval = step_counts(config, settings.timestep)
    refuse_bad_setup(work, settings, calculator.implemented_properties)
    start_velocities(work, _hotter(settings, config.first_temperature), rng)
    dyn, dof = make_integrator(work, settings, rng), degrees_of_freedom(work, settings)
    guard, step = Guard(work, limits, settings.max_temperature), 0
    try:
        with _stopping():
            guard.check(work, 0.0)
        while step < equilibration + sampling:
            with _stopping():
                dyn.step()
                step += 1
                now = temperature(work, dof)
                guard.check(work, now)
            if step <= equilibration:
                continue
            series["energy"].append(float(work.get_potential_energy()))
            series["temperature"].append(now)
            if (step - equilibration) % interval == 0:
                frames.append(_recorded(work, tags, step, settings.timestep, now))
    except _StoppedError as stop:
        record |= {"status": stop.status, "reason": stop.reason}
        frames = _kept_before(frames, limits, step * settings.timestep)
        last = int(frames[-1].tags["step"]) - equilibration if frames else 0
        series = {name: values[:last] for name, values in series.items()}
    return Outcome(frames, {**record, **_figures(series, step, settings.timestep)})


class _StoppedError(Exception):
    """Ends a unit that cannot go on, while other units can."""

    def __init__(self, status: str, error: Exception) -> None:
        self.status, self.reason = status, _reason(error)
        super().__init__(self.reason)


@contextmanager
def _stopping() -> Iterator[None]:
    """Turns what a guard or a calculator raises about one structure into the end of the unit."""
    try:
        yield
    except (UnsupportedError, ConfigError):
        raise
    except (SimulationError, DataError) as error:
        raise _StoppedError("exploded", error) from error
    except Exception as error:  # calculators raise what they like
        raise _StoppedError("failed", error) from error


def _hotter(settings: MDConfig, factor: float) -> MDConfig:
    return settings.model_copy(update={"temperature": settings.temperature * factor})


def _recorded(work: Atoms, tags: dict[str, Any], step: int, timestep: float, now: float) -> Frame:
    """The present frame, its atoms wrapped into the cell."""
    tags = {**tags, "step": step, "time_fs": step * timestep, "T_instant": now}
    frame = frame_of_atoms(work, tags, f"{tags['traj']}#{step}")
    copy = Atoms(work.numbers, work.positions, cell=work.cell, pbc=work.pbc)
    _wrap(copy)
    return frame._replace(positions=copy.positions)


def _wrap(atoms: Atoms) -> None:
    if np.any(atoms.pbc):
        atoms.wrap()


def _kept_before(frames: list[Frame], limits: ExplosionConfig, end_fs: float) -> list[Frame]:
    """Frames of an exploded run that may be used."""
    if not limits.keep_before:
        return []
    return [f for f in frames if float(f.tags["time_fs"]) < end_fs - limits.margin]


def _figures(series: dict[str, list[float]], steps: int, timestep: float) -> dict[str, Any]:
    """Means over the sampling time and the autocorrelation of the potential energy."""
    figures: dict[str, Any] = {"steps": steps, "time_fs": steps * timestep, "sampled_steps": 0}
    energy, kelvin = np.array(series["energy"]), np.array(series["temperature"])
    if not len(energy):
        return figures
    tau = correlation_time(energy)
    return figures | {
        "sampled_steps": len(energy),
        "temperature_mean": float(kelvin.mean()),
        "temperature_std": float(kelvin.std()),
        "temperature_max": float(kelvin.max()),
        "energy_mean": float(energy.mean()),
        "energy_std": float(energy.std()),
        "tau_fs": tau.time * timestep,
        "independent": len(energy) / tau.inefficiency,
        "tau_resolved": tau.resolved,
    }


def _refuse_other_volume(work: Atoms, start: Atoms) -> None:
    if not has_volume(start):
        return
    ratio = work.get_volume() / start.get_volume()
    if not 1 / VOLUME_FACTOR < ratio < VOLUME_FACTOR:
        raise SimulationError(f"the volume changed by a factor of {ratio:.3g}")


def _reason(error: Exception) -> str:
    text = error.what if isinstance(error, AtommlError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
