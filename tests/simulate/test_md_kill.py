"""A real `atomml md`, killed with SIGKILL again and again, leaves what an undisturbed one leaves, byte by byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from atomml.potentials import load_model, save_model
from atomml.potentials.compile import compile_potential
from atomml.simulate.md_files import load_state

pytestmark = pytest.mark.slow

STEPS = 240
RUNS = {
    "nve": ("--ensemble", "nve"),
    "langevin": ("--ensemble", "nvt", "--thermostat", "langevin"),
    "nose-hoover": ("--ensemble", "nvt", "--thermostat", "nose-hoover"),
    "npt": ("--ensemble", "npt", "--pressure", "0.5"),
    "npt-flexible": ("--ensemble", "npt", "--flexible-cell"),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A structure hot enough for the neighbour list to be built several times."""
    path = tmp_path_factory.mktemp("start") / "licl.extxyz"
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    atoms.rattle(0.05, seed=1)
    write(path, atoms)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    compiled = tmp_path_factory.mktemp("model") / "fast.safetensors"
    save_model(
        compile_potential(load_model("demo"), knots=300, tolerance_energy=1.0, tolerance_forces=1.0), compiled
    )
    return {"network": "demo", "compiled": str(compiled)}


def begin(model, start, out, options, *more):
    arguments = ["md", model, start, "--temperature", 1500, "--timestep", 2, "--steps", STEPS, "--out", out]
    arguments += ["--log-every", 1, "--state-every", 7, *options, *more]
    words = [str(a) for a in arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "atomml.cli.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process):
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def size(path):
    return path.stat().st_size if path.exists() else 0


def killed(process, log, at, delay):
    """Kill once the log has this size, a moment later; False if the run ended before."""
    while process.poll() is None:
        if size(log) >= at:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.0005)
    process.stderr.close()
    return False


@pytest.mark.parametrize(
    ("run", "model"), [*((run, "network") for run in RUNS), ("langevin", "compiled"), ("npt", "compiled")]
)
def test_killed_runs_leave_the_bytes_of_an_undisturbed_one(run, model, models, start, tmp_path):
    options, whole, broken = RUNS[run], tmp_path / "whole", tmp_path / "broken"
    finish(begin(models[model], start, whole, options))
    rng, kills = np.random.default_rng(len(run)), 0
    moments = np.sort(rng.uniform(0, size(whole / "log.csv"), 3))
    for moment, delay in zip(moments, rng.uniform(0, 0.02, 3), strict=True):
        more = ["--resume"] if (broken / "state.npz").exists() else []
        process = begin(models[model], start, broken, options, *more)
        kills += killed(process, broken / "log.csv", moment, delay)
    finish(begin(models[model], start, broken, options, "--resume"))
    assert kills
    for file in ("log.csv", "trajectory.extxyz"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
    a, b = load_state(whole / "state.npz"), load_state(broken / "state.npz")
    assert a.step == b.step == STEPS
    for name, value in a.arrays.items():
        np.testing.assert_array_equal(value, b.arrays[name])
    assert [frame.info["step"] for frame in read(broken / "trajectory.extxyz", ":")] == [*range(STEPS + 1)]
    assert sorted(p.name for p in broken.iterdir()) == sorted(p.name for p in whole.iterdir())
