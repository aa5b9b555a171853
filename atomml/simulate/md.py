"""Molecular dynamics: an explicit loop around an ASE integrator, guarded, logged and restartable."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import write_extxyz
from ase.md.md import MolecularDynamics
from numpy.typing import NDArray

from atomml.config import parse_config
from atomml.errors import AtommlError, ConfigError, DataError, SimulationError
from atomml.files import replace_file
from atomml.simulate.calculator import Calculator
from atomml.simulate.interface import PotentialLike, fingerprint_of
from atomml.simulate.md_config import MDConfig, default_timestep, refuse_bad_setup
from atomml.simulate.md_files import (
    FileRecorder,
    State,
    forget_deviations,
    frame_of,
    load_state,
    locked,
    refuse_other_run,
    save_state,
)
from atomml.simulate.md_guard import DeviationWatch, refuse_exploded
from atomml.simulate.md_integrators import (
    conserved_energy,
    degrees_of_freedom,
    integrator_state,
    load_integrator_state,
    make_integrator,
    start_velocities,
    temperature,
)
from atomml.simulate.md_log import Record, columns_for, read_log, record_of
from atomml.simulate.md_summary import summarise, write_summary
from atomml.simulate.progress import progress_bar

__all__ = ["MDResult", "run_md"]


@dataclass(frozen=True)
class MDResult:
    """What a run leaves.

    Attributes:
        atoms: the last frame with momenta, energy, forces and stress.
        log: one array per column of log.csv (step, time_fs, temperature_K, potential_eV, kinetic_eV,
            total_eV, conserved_eV, pressure_GPa, volume_A3, max_force_eV_A, min_distance_A); NaN where not
            defined. With an uncertainty also energy_std_eV, max_force_std_eV_A (σ_F = √(tr Σ / 3), largest of the
            atoms) and max_force_std_atom.
        summary: means and deviations, energy drift, speed, settings, fingerprint of the ``model``; ``stopped_by``:
            None for a run to the end; ``uncertainty``: deviations that the model predicts, None if it has none.
        folder: where log.csv, trajectory.extxyz, state.npz, summary.json and md.png are, or None.
    """

    atoms: Atoms
    log: dict[str, NDArray[np.float64]]
    summary: dict[str, Any]
    folder: Path | None


@dataclass
class _Run:
    """A run under way."""

    atoms: Atoms
    calculator: Calculator
    config: MDConfig
    model: str
    dyn: MolecularDynamics
    dof: int
    step: int
    records: list[Record]
    files: FileRecorder | None
    folder: Path | None
    watch: DeviationWatch
    columns: tuple[str, ...]
    stopped_by: dict[str, Any] | None = None


def run_md(
    atoms: Atoms,
    potential: PotentialLike | Calculator | str | Path,
    *,
    temperature: float,
    steps: int,
    out_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    timestep: float | None = None,
    figure: bool = True,
    **settings: Any,
) -> MDResult:
    """Run molecular dynamics from ``atoms`` (left unchanged).

    With ``limits={"stop_above": 0.3}`` the run ends once the deviation of a force exceeds 0.3 eV/Å. That is a result,
    not an error: the frame is the last of the log and the trajectory, ``summary["stopped_by"]`` names the atom, and
    ``resume`` with another limit goes on from there.

    Args:
        atoms: start structure.
        potential: a potential, a model file, "demo", or a ready `Calculator`.
        temperature: in K.
        steps: number of steps in all; with ``resume`` those already done count.
        out_dir: folder of the files; None keeps the log in memory only.
        resume: continue the run in ``out_dir`` from its last complete state, bit for bit. A run of a version that
            did not write down the model's fingerprint goes on with the model that is given.
        progress: show a progress bar (plain lines when not a terminal).
        timestep: in fs; None: from the lightest atom.
        figure: draw md.png.
        settings: the other fields of `MDConfig`: ensemble, thermostat, pressure, seed, log_every, ...

    Raises:
        ConfigError: an unknown or impossible setting; other settings, atoms or another model than those of the run
            that is resumed; a limit on deviations for a model without any; another process in ``out_dir``.
        DataError: nothing to resume, files of the run are damaged, or one cannot be written (the disk is full): it is
            named, and ``resume`` goes on from the last state once there is space.
        SimulationError: a NaN, or the run exploded; the last good frame is then in ``last_good.extxyz``.
        UnsupportedError: an element the potential does not know, a charge or a spin.
    """
    chosen = {"temperature": temperature, "steps": steps, **settings}
    chosen["timestep"] = default_timestep(atoms) if timestep is None else timestep
    config = parse_config(MDConfig, chosen, where="run_md", fix="`atomml md --help` explains the options")
    calculator = potential if isinstance(potential, Calculator) else Calculator(potential)
    refuse_bad_setup(atoms, config, calculator.implemented_properties)
    folder = None if out_dir is None else Path(out_dir)
    with locked(folder, resume=resume):
        run = (_resume if resume else _start)(atoms, calculator, config, folder)
        seconds = _loop(run, progress)
        return _finish(run, seconds, figure=figure)


def _start(atoms: Atoms, calculator: Calculator, config: MDConfig, folder: Path | None) -> _Run:
    atoms = _working_copy(atoms, calculator)
    rng = np.random.Generator(np.random.PCG64(config.seed))
    if not config.keep_velocities:
        start_velocities(atoms, config, rng)
    files, columns = None, columns_for(calculator)
    if folder is not None:
        files = FileRecorder(folder, columns)
    dof = degrees_of_freedom(atoms, config)
    dyn = make_integrator(atoms, config, rng)
    watch, model = DeviationWatch(len(atoms), config), fingerprint_of(calculator.potential)
    run = _Run(atoms, calculator, config, model, dyn, dof, 0, [], files, folder, watch, columns)
    _guard(run, started=False)
    _log(run)
    _save(run)
    return run


def _resume(atoms: Atoms, calculator: Calculator, config: MDConfig, folder: Path | None) -> _Run:
    if folder is None:
        raise ConfigError("Resuming needs the folder of the run.", fix="give out_dir (--out DIR)")
    state, model = load_state(folder / "state.npz"), fingerprint_of(calculator.potential)
    refuse_other_run(state, atoms, config, model, folder)
    atoms = _working_copy(atoms, calculator)
    rng = np.random.Generator(np.random.PCG64(config.seed))
    atoms.set_cell(state.arrays["cell"], scale_atoms=False)
    atoms.set_positions(state.arrays["positions"], apply_constraint=False)
    atoms.set_momenta(state.arrays["momenta"], apply_constraint=False)
    dof = int(state.arrays["dof"])
    dyn = make_integrator(atoms, config, rng)
    prefix = "integrator:"
    inner = {k.removeprefix(prefix): v for k, v in state.arrays.items() if k.startswith(prefix)}
    load_integrator_state(dyn, inner)
    columns = columns_for(calculator)
    files = FileRecorder(folder, columns, state)
    records = read_log(files.log_path)
    watch = DeviationWatch(len(atoms), config)
    return _Run(
        atoms, calculator, config, model, dyn, dof, state.step, records, files, folder, watch, columns
    )


def _working_copy(atoms: Atoms, calculator: Calculator) -> Atoms:
    copy = atoms.copy()
    forget_deviations(copy)
    copy.calc = calculator
    return copy


def _loop(run: _Run, progress: bool) -> float:
    """Advance to ``config.steps`` or a limit of the deviations; returns the seconds spent."""
    start, config = time.perf_counter(), run.config
    first = run.step
    with progress_bar(config.steps - first, "molecular dynamics", show=progress) as advance:
        run.stopped_by = run.watch(run.atoms, run.step)
        while run.step < config.steps and run.stopped_by is None:
            good, finished = run.atoms.copy(), run.step
            try:
                run.dyn.step()
                run.step += 1
                _guard(run, started=True)
            except (SimulationError, DataError) as error:
                raise _with_last_frame(run, good, finished, error) from error
            run.stopped_by = run.watch(run.atoms, run.step)
            last = run.step == config.steps or run.stopped_by is not None
            if run.step % config.log_every == 0 or last:
                _log(run)
            if last or run.step % _state_interval(config) == 0:
                _save(run)
            advance(1)
    return time.perf_counter() - start


def _state_interval(config: MDConfig) -> int:
    """Steps between states: a multiple of the steps between rows."""
    return -(-config.state_every // config.log_every) * config.log_every


def _guard(run: _Run, *, started: bool) -> None:
    kelvin, closest = temperature(run.atoms, run.dof), run.calculator.min_distance()
    refuse_exploded(run.atoms, run.config, kelvin=kelvin, closest=closest, step=run.step, started=started)


def _with_last_frame(run: _Run, good: Atoms, finished: int, error: AtommlError) -> SimulationError:
    """The same error with the step, after writing the last good frame."""
    where = f"{error.where}; after step {finished} of {run.config.steps}"
    if run.folder is not None:
        path, text = run.folder / "last_good.extxyz", io.StringIO()
        good.set_constraint()
        write_extxyz(text, [good])
        try:
            replace_file(path, text.getvalue().encode())
            where += f"; last good frame in {path}"
        except OSError as problem:
            where += f"; the last good frame could not be written to {path} ({problem.strerror})"
    return SimulationError(error.what, where=where, fix=error.fix)


def _log(run: _Run) -> None:
    if run.records and run.records[-1]["step"] == run.step:
        return
    record = record_of(
        run.atoms,
        run.columns,
        step=run.step,
        time_fs=run.step * run.config.timestep,
        kelvin=temperature(run.atoms, run.dof),
        conserved=conserved_energy(run.dyn),
    )
    run.records.append(record)
    if run.files is not None:
        run.files.write(record, frame_of(run.atoms, {"step": run.step, "time_fs": record["time_fs"]}))


def _save(run: _Run) -> None:
    if run.files is None or run.folder is None:
        return
    atoms = run.atoms
    log_bytes, trajectory_bytes = run.files.sizes()
    arrays: dict[str, Any] = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.cell),
        "numbers": atoms.numbers,
        "masses": atoms.get_masses(),
        "dof": np.array(run.dof),
    }
    arrays |= {f"integrator:{k}": v for k, v in integrator_state(run.dyn).items()}
    settings = run.config.model_dump(mode="json")
    state = State(run.step, settings, arrays, log_bytes, trajectory_bytes, run.model)
    save_state(run.folder / "state.npz", state)


def _finish(run: _Run, seconds: float, *, figure: bool) -> MDResult:
    columns = run.records[0].keys()
    log = {c: np.array([r[c] for r in run.records]) for c in columns}
    last = frame_of(run.atoms) if run.atoms.calc.results else run.atoms.copy()
    summary = summarise(log, run.config, run.atoms, seconds, run.stopped_by) | {"model": run.model}
    if run.folder is not None:
        write_summary(run.folder, summary, log, figure=figure)
    return MDResult(atoms=last, log=log, summary=summary, folder=run.folder)
