"""Full disks, torn files and runs that blow up: a clear error, a usable last state, nothing lost, nothing twice."""

from __future__ import annotations

import resource
import subprocess

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from atomml.errors import DataError, SimulationError
from atomml.simulate import run_md
from atomml.simulate.md_files import load_state
from tests.simulate.test_md_restart import COMMON, ENSEMBLES
from tests.simulate.test_uncertainty import uncertain

FILES = ("log.csv", "trajectory.extxyz")


@pytest.fixture
def copper():
    return bulk("Cu", "fcc", a=3.8, cubic=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, most of which is taken by a file ``ballast`` of the size that is asked for."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs root")

    def fill(kilobytes):
        (mount / "ballast").write_bytes(bytes(1024 * kilobytes))
        return mount

    yield fill
    subprocess.run(["umount", mount], check=True)


def no_file_above(size):
    """Let every write beyond ``size`` bytes fail, as a full disk does; returns what undoes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def same_files(whole, broken):
    for file in FILES:
        assert (whole / file).read_bytes() == (broken / file).read_bytes()


@pytest.mark.parametrize("ballast", [212, 220, 228, 236])
def test_run_on_a_full_disk_goes_on_when_there_is_space_again(
    potential, copper, small_disk, tmp_path, ballast
):
    settings = {**COMMON, "log_every": 1, "state_every": 3, "steps": 60}
    run_md(copper, potential, out_dir=tmp_path / "whole", **settings)
    folder = small_disk(ballast) / "run"
    with pytest.raises(DataError, match="No space left on device") as caught:
        run_md(copper, potential, out_dir=folder, **settings)
    assert caught.value.where in {str(folder / name) for name in (*FILES, "state.npz")}
    assert "--resume" in caught.value.fix or "free some space" in caught.value.fix
    assert 0 <= load_state(folder / "state.npz").step < 60
    with pytest.raises(DataError, match="No space left on device"):
        run_md(copper, potential, out_dir=folder, resume=True, **settings)
    (folder.parent / "ballast").unlink()
    run_md(copper, potential, out_dir=folder, resume=True, **settings)
    same_files(tmp_path / "whole", folder)
    assert not list(folder.glob(".*.tmp"))


def test_a_disk_too_full_to_begin_is_an_error(potential, copper, small_disk):
    folder = small_disk(256) / "run"
    with pytest.raises(DataError, match="Cannot write"):
        run_md(copper, potential, steps=2, out_dir=folder, **COMMON)


@pytest.mark.parametrize(("size", "file"), [(5600, "trajectory.extxyz"), (20_000, "md.png")])
def test_the_file_that_cannot_be_written_is_named(potential, copper, tmp_path, size, file):
    settings = {**COMMON, "log_every": 2, "state_every": 2, "steps": 20}
    run_md(copper, potential, out_dir=tmp_path / "whole", **settings)
    lift = no_file_above(size)
    try:
        with pytest.raises(DataError, match="File too large") as caught:
            run_md(copper, potential, out_dir=tmp_path / "run", **settings)
    finally:
        lift()
    assert caught.value.where == str(tmp_path / "run" / file)
    run_md(copper, potential, out_dir=tmp_path / "run", resume=True, **settings)
    same_files(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "md.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("torn", ["17,34.0,39", "18,36.0,412.1,,,,,,,,\n19,3"])
def test_torn_lines_and_frames_are_cut_off(potential, copper, tmp_path, torn):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, steps in ((whole, 30), (broken, 20)):
        run_md(copper, potential, steps=steps, out_dir=folder, **COMMON)
    with (broken / "log.csv").open("a") as log, (broken / "trajectory.extxyz").open("a") as trajectory:
        log.write(torn)
        trajectory.write('4\nLattice="3.8 0.0 0.0" Properties=species:S:1:pos:R:3\nCu 0.0 0.')
    (broken / ".state.npz.123.tmp").write_bytes(b"half a state")
    run_md(copper, potential, steps=30, out_dir=broken, resume=True, **COMMON)
    same_files(whole, broken)
    assert [frame.info["step"] for frame in read(broken / "trajectory.extxyz", ":")] == [*range(0, 31, 5)]
    assert not list(broken.glob(".*.tmp"))


def test_a_damaged_line_of_the_log_is_named(potential, copper, tmp_path):
    run_md(copper, potential, steps=20, out_dir=tmp_path, **COMMON)
    log = tmp_path / "log.csv"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:2], "x" * (len(lines[2]) - 1) + "\n", *lines[3:]]))
    with pytest.raises(DataError, match="damaged") as caught:
        run_md(copper, potential, steps=30, out_dir=tmp_path, resume=True, **COMMON)
    assert caught.value.where == f"{log}, line 3"


@pytest.mark.parametrize("name", ENSEMBLES)
def test_runs_that_explode_leave_a_good_frame_and_a_state(potential, copper, tmp_path, name):
    settings = {**COMMON, **ENSEMBLES[name], "timestep": 60.0, "temperature": 2000.0, "state_every": 5}
    with pytest.raises(SimulationError, match="exploded") as caught:
        run_md(copper, potential, steps=500, out_dir=tmp_path, **settings)
    good = read(tmp_path / "last_good.extxyz")
    assert np.isfinite(good.positions).all()
    assert np.isfinite(good.get_velocities()).all()
    assert str(tmp_path / "last_good.extxyz") in caught.value.where
    state = load_state(tmp_path / "state.npz")
    assert all(np.isfinite(state.arrays[key]).all() for key in ("positions", "momenta", "cell"))
    steps = [frame.info["step"] for frame in read(tmp_path / "trajectory.extxyz", ":")]
    assert steps == sorted(set(steps))


def test_an_explosion_on_a_full_disk_is_still_reported_as_one(potential, copper, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atomml.simulate.md.replace_file", no_space)
    with pytest.raises(SimulationError, match=r"(?s)exploded.*could not be written.*No space left"):
        run_md(copper, potential, temperature=3000.0, steps=500, timestep=60.0, out_dir=tmp_path)


def test_a_new_run_does_not_keep_results_of_an_older_one(potential, copper, tmp_path):
    with pytest.raises(SimulationError):
        run_md(copper, potential, temperature=3000.0, steps=500, timestep=60.0, out_dir=tmp_path)
    assert (tmp_path / "last_good.extxyz").exists()
    run_md(copper, potential, steps=5, out_dir=tmp_path, **COMMON)
    assert not (tmp_path / "last_good.extxyz").exists()


@pytest.mark.parametrize("flexible", [False, True])
def test_constant_pressure_goes_on_bit_for_bit_after_a_stop(tmp_path, flexible):
    salt = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    salt.rattle(0.05, seed=1)
    settings = {**COMMON, "ensemble": "npt", "flexible_cell": flexible, "timestep": 0.5, "steps": 6}
    whole = run_md(salt, uncertain("heads"), **settings)
    low = float(whole.log["max_force_std_eV_A"].min()) - 1e-9
    stopped = run_md(salt, uncertain("heads"), out_dir=tmp_path, limits={"stop_above": low}, **settings)
    assert stopped.summary["steps"] == 0
    rest = run_md(salt, uncertain("heads"), out_dir=tmp_path, resume=True, **settings)
    np.testing.assert_array_equal(whole.atoms.positions, rest.atoms.positions)
    np.testing.assert_array_equal(whole.atoms.cell.array, rest.atoms.cell.array)
