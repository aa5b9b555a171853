from __future__ import annotations

import json
import os
import signal
from concurrent import futures
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from atomml.errors import ConfigError, DataError
from atomml.potentials import load_model, save_model
from atomml.potentials.compile import compile_potential
from atomml.records import is_locked
from atomml.simulate import Calculator, run_md
from atomml.simulate.interface import fingerprint_of
from atomml.simulate.md_files import load_state, locked, save_state
from tests.training.helpers import KILLED, in_child

ENSEMBLES = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "nvt", "thermostat": "langevin"},
    "nose-hoover": {"ensemble": "nvt", "thermostat": "nose-hoover"},
    "npt": {"ensemble": "npt", "pressure": 1.0},
    "npt-flexible": {"ensemble": "npt", "flexible_cell": True},
}
COMMON = {"temperature": 400.0, "timestep": 2.0, "log_every": 5, "state_every": 10}


@pytest.fixture
def copper():
    return bulk("Cu", "fcc", a=3.8, cubic=True)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("killed_at", [3, 27])
def test_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    potential, make_potential, copper, tmp_path, name, killed_at
):
    settings = {**COMMON, **ENSEMBLES[name]}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    a = run_md(copper, potential, steps=40, out_dir=whole, **settings)

    class Mortal(make_potential):
        calls = 0

        def forward(self, graph, **options):
            self.calls += 1
            if self.calls > killed_at:
                raise Killed
            return super().forward(graph, **options)

    with pytest.raises(Killed):
        run_md(copper, Mortal(), steps=40, out_dir=broken, **settings)
    b = run_md(copper, potential, steps=40, out_dir=broken, resume=True, **settings)
    np.testing.assert_array_equal(a.atoms.positions, b.atoms.positions)
    np.testing.assert_array_equal(a.atoms.get_momenta(), b.atoms.get_momenta())
    np.testing.assert_array_equal(a.atoms.cell.array, b.atoms.cell.array)
    for file in ("log.csv", "trajectory.extxyz"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
    for column in a.log:
        np.testing.assert_array_equal(a.log[column], b.log[column])


def test_finished_run_can_be_continued(potential, copper, tmp_path):
    settings = {**COMMON, "ensemble": "nve"}
    a = run_md(copper, potential, steps=40, **settings)
    run_md(copper, potential, steps=20, out_dir=tmp_path, **settings)
    b = run_md(copper, potential, steps=40, out_dir=tmp_path, resume=True, **settings)
    np.testing.assert_array_equal(a.atoms.positions, b.atoms.positions)


def test_resuming_a_finished_run_changes_nothing(potential, copper, tmp_path):
    first = run_md(copper, potential, steps=20, out_dir=tmp_path, **COMMON)
    log = (tmp_path / "log.csv").read_bytes()
    again = run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, **COMMON)
    np.testing.assert_array_equal(first.atoms.positions, again.atoms.positions)
    assert (tmp_path / "log.csv").read_bytes() == log


def test_resume_with_other_settings_says_which(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, **COMMON)
    with pytest.raises(ConfigError, match=r"temperature: was 400.0, now 500.0"):
        run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, **{**COMMON, "temperature": 500.0})


def test_resume_with_another_structure_is_refused(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, **COMMON)
    with pytest.raises(ConfigError, match="other atoms"):
        run_md(copper * (2, 1, 1), potential, steps=20, out_dir=tmp_path, resume=True, **COMMON)


def test_nothing_to_resume_is_an_error(potential, copper, tmp_path):
    with pytest.raises(DataError, match="no run to resume"):
        run_md(copper, potential, steps=10, out_dir=tmp_path, resume=True, **COMMON)
    with pytest.raises(ConfigError, match="folder"):
        run_md(copper, potential, steps=10, resume=True, **COMMON)


def test_damaged_state_is_an_error(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, **COMMON)
    state = tmp_path / "state.npz"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(DataError, match="not a restart state"):
        run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, **COMMON)


def test_missing_trajectory_is_an_error(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, **COMMON)
    (tmp_path / "trajectory.extxyz").write_text("")
    with pytest.raises(DataError, match="shorter than"):
        run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, **COMMON)


def test_disk_full_keeps_the_last_state(potential, copper, tmp_path, monkeypatch):
    run_md(copper, potential, steps=20, out_dir=tmp_path, **COMMON)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atomml.files.os.replace", no_space)
    with pytest.raises(DataError, match="No space left on device"):
        run_md(copper, potential, steps=40, out_dir=tmp_path, resume=True, **COMMON)
    monkeypatch.undo()
    assert load_state(tmp_path / "state.npz").step == 20
    assert not (tmp_path / "state.npz.tmp").exists()


def test_new_run_in_an_old_folder_cannot_resume_the_old_one(potential, make_potential, copper, tmp_path):
    run_md(copper, potential, steps=20, out_dir=tmp_path, **COMMON)
    run_md(copper, potential, steps=0, out_dir=tmp_path, **COMMON)
    assert load_state(tmp_path / "state.npz").step == 0


def test_resume_with_another_model_is_refused_though_its_elements_are_the_same(
    potential, make_potential, copper, tmp_path
):
    run_md(copper, potential, steps=10, out_dir=tmp_path, figure=False, **COMMON)
    other = make_potential()
    with torch.no_grad():
        other.depth += 1e-9
    before = (tmp_path / "state.npz").read_bytes(), (tmp_path / "log.csv").read_bytes()
    with pytest.raises(ConfigError, match="had another model") as caught:
        run_md(copper, Calculator(other), steps=20, out_dir=tmp_path, resume=True, **COMMON)
    assert caught.value.where == str(tmp_path)
    assert "model file" in caught.value.fix
    assert before == ((tmp_path / "state.npz").read_bytes(), (tmp_path / "log.csv").read_bytes())
    again = run_md(copper, make_potential(), steps=20, out_dir=tmp_path, resume=True, figure=False, **COMMON)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["model"] == again.summary["model"] == fingerprint_of(potential)


def test_states_without_a_fingerprint_go_on_with_the_model_that_is_given(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, figure=False, **COMMON)
    path = tmp_path / "state.npz"
    save_state(path, replace(load_state(path), model=None))
    run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, figure=False, **COMMON)
    assert load_state(path).model == fingerprint_of(potential)


def test_fingerprints_tell_models_precisions_and_compilations_apart(tmp_path):
    demo = load_model("demo")
    knots = [compile_potential(demo, knots=n, tolerance_energy=1.0, tolerance_forces=1.0) for n in (300, 400)]
    save_model(knots[0], tmp_path / "fast.safetensors")
    assert fingerprint_of(load_model("demo")) == fingerprint_of(demo)
    assert fingerprint_of(load_model(tmp_path / "fast.safetensors")) == fingerprint_of(knots[0])
    different = [demo, load_model("demo", dtype="float64"), *knots]
    assert len({fingerprint_of(model) for model in different}) == 4


def test_a_folder_belongs_to_one_process_until_it_dies(potential, copper, tmp_path):
    ready, done = os.pipe(), os.pipe()

    def hold():
        with locked(tmp_path, resume=False):
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)

    def attempt():
        os.read(ready[0], 1)
        try:
            for resume in (False, True):
                with pytest.raises(ConfigError, match="Another process is at work") as caught:
                    run_md(copper, potential, steps=10, out_dir=tmp_path, resume=resume, **COMMON)
                assert caught.value.where == str(tmp_path)
                assert not (tmp_path / "log.csv").exists()
        finally:
            os.write(done[1], b"x")

    with futures.ThreadPoolExecutor(1) as pool:
        refused = pool.submit(attempt)
        assert in_child(hold) == KILLED
        refused.result()
    assert not is_locked(tmp_path / ".lock")
    run_md(copper, potential, steps=10, out_dir=tmp_path, figure=False, **COMMON)


def test_a_run_that_fails_gives_its_folder_free(potential, copper, tmp_path):
    run_md(copper, potential, steps=10, out_dir=tmp_path, figure=False, **COMMON)
    with pytest.raises(ConfigError, match="other settings"):
        run_md(copper, potential, steps=20, out_dir=tmp_path, resume=True, **{**COMMON, "timestep": 1.0})
    assert not is_locked(tmp_path / ".lock")
    assert not (tmp_path / "md.png").exists()
