"""A tiny labelled data set, a configuration that trains on it in a second, and ways to kill a training."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from atomml.config import parse_config
from atomml.training import report, train
from atomml.training.config import TrainConfig

KILLED = -signal.SIGKILL
MODEL = {"kind": "tdn", "lmax": 1, "channels": 4, "layers": 1, "cutoff": 3.5, "radial_hidden": [8]}


def write_frames(path, n=24):
    """Rattled CuAu cells with energy, forces and stress by EMT, tagged with a temperature and a group."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True, a=3.8)
        atoms.numbers[: 1 + k % 3] = 79
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        atoms.info.update(T=300.0 if k < 20 else 600.0, traj=f"t{k // 4}")
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return path


def tiny_settings(frames, run_dir):
    """Plain dictionary of a training of 5 steps an epoch; for `configured`."""
    return {
        "run_dir": str(run_dir),
        "model": MODEL,
        "data": {"train": str(frames), "valid": 4},
        "batch": {"batch_size": 4},
        "epochs": 3,
        "log_every": 2,
        "checkpoint_minutes": None,
        "threads": 1,
    }


def draw_nothing(monkeypatch):
    """Drawing takes most of the time of a tiny training."""
    monkeypatch.setattr(report, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(report, "parity_figure", lambda *args: None)
    monkeypatch.setattr(report, "learning_curve", lambda *args: None)
    monkeypatch.setattr(report, "deviation_figures", lambda *args: {})


def configured(settings, **changes):
    """Validated configuration."""
    return parse_config(TrainConfig, settings | changes, where="test")


def in_child(function, *args):
    """Run ``function`` in a forked process and return its exit code (negative: killed by that signal)."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def kill_on_call(module, name, number):
    """Replace ``module.name`` so that its call with this number ends the process, like a power cut."""
    original, calls = getattr(module, name), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, deadly)


def killed(config, module, name, number):
    """Train in a child process that dies at this call; the training must not have come to its end."""

    def die():
        kill_on_call(module, name, number)
        train(config, quiet=True)

    assert in_child(die) == KILLED
    assert not (Path(config.run_dir) / "model.safetensors").exists()
