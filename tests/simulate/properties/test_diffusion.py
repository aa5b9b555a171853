from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from atomml.errors import ConfigError, DataError
from atomml.simulate import run_md
from atomml.simulate.properties import (
    Trajectory,
    diffusion,
    mean_square_displacement,
    read_trajectory,
    trajectory_of,
)
from atomml.simulate.properties.diffusion import nernst_einstein, random_walk_covariance

D, INTERVAL = 1e-5, 50.0  # cm²/s, fs


def walk(rng, frames=401, atoms=16, d=D, rattle=0.0, together=1):
    """Positions [frames, atoms, 3] in Å of random walks; ``together`` atoms each take the same steps."""
    scale = np.sqrt(2 * d * 10 * INTERVAL)  # cm²/s = 10 Å²/fs
    steps = np.repeat(rng.normal(scale=scale, size=(frames, atoms // together, 3)), together, axis=1)
    return np.cumsum(steps, axis=0) + rattle * rng.normal(size=(frames, atoms, 3))


def trajectory(positions, temperature=600.0):
    numbers = np.full(positions.shape[1], 3)
    return Trajectory(numbers, positions - positions[0], INTERVAL, temperature, 1000.0, "walk")


def frames_of(positions, cell=8.0, wrap=False):
    frames = [Atoms(f"Li{len(p)}", positions=p, cell=[cell] * 3, pbc=True) for p in positions]
    for atoms in frames if wrap else ():
        atoms.wrap()
    return frames


@pytest.mark.parametrize(
    "settings", [{}, {"rattle": 0.3}, {"together": 4}], ids=["free", "rattling", "together"]
)
def test_error_bars_cover_the_true_coefficient(rng, settings):
    results = [diffusion(trajectory(walk(rng, **settings)), "Li") for _ in range(150)]
    values, errors = np.array([r.d for r in results]), np.array([r.d_std for r in results])
    assert values.mean() == pytest.approx(D, abs=4 * values.std() / np.sqrt(len(values)))
    assert 0.60 < np.mean(np.abs(values - D) < errors) < 0.77
    assert 0.91 < np.mean([abs(r.d - D) < r.d_95 for r in results]) < 0.99


def test_the_exponent_of_a_random_walk_is_one_and_there_is_no_warning(rng):
    found = diffusion(trajectory(walk(rng, frames=4001, atoms=40)), "Li")
    assert found.exponent == pytest.approx(1, abs=0.1)
    assert found.warnings == ()


def test_ballistic_motion_is_called_superdiffusive(rng):
    velocities = rng.normal(size=(20, 3)) * 0.01
    found = diffusion(trajectory(np.arange(401)[:, None, None] * velocities), "Li")
    assert found.exponent == pytest.approx(2, abs=0.01)
    assert any("superdiffusive" in w for w in found.warnings)


def test_bounded_motion_has_no_coefficient(rng):
    found = diffusion(trajectory(rng.normal(size=(801, 20, 3)) * 0.3), "Li")
    assert abs(found.exponent) < 0.1
    assert abs(found.d) < 2e-6
    assert any("subdiffusive" in w for w in found.warnings)
    assert any("distinguishable from zero" in w for w in found.warnings) == (found.d - found.d_95 <= 0)


def test_atoms_that_do_not_move_are_reported_not_fatal():
    found = diffusion(trajectory(np.zeros((101, 4, 3))), "Li")
    assert found.d == 0
    assert len(found.warnings) == 2


def test_msd_by_fourier_transforms_is_the_sum_over_origins(rng):
    moved = walk(rng, frames=40, atoms=5)
    expected = [((moved[k:] - moved[: len(moved) - k]) ** 2).sum(axis=2).mean() for k in range(40)]
    np.testing.assert_allclose(mean_square_displacement(moved), expected, atol=1e-9)


def test_covariance_of_lags_is_that_of_simulated_walks(rng):
    lags = np.array([2, 5, 12])
    steps = rng.normal(size=(6000, 30))
    walks = np.concatenate([np.zeros((6000, 1)), np.cumsum(steps, axis=1)], axis=1)
    msd = np.array([((walks[:, k:] - walks[:, :-k]) ** 2).mean(axis=1) for k in lags])
    np.testing.assert_allclose(np.cov(msd) / random_walk_covariance(lags, 31), 1, atol=0.15)


@pytest.mark.parametrize("wrap", [False, True])
def test_wrapped_and_unwrapped_frames_give_the_same(rng, wrap):
    positions = walk(rng, frames=200, atoms=6, rattle=0.01) * 6
    given = trajectory_of(frames_of(positions, wrap=wrap), interval=INTERVAL)
    expected = positions - positions[0]
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(given.displacements, expected, atol=1e-9)
    assert np.abs(positions).max() > 8


def test_drift_of_the_whole_is_removed_by_mass(rng):
    positions = walk(rng, frames=100, atoms=4)
    frames = [Atoms("Li2Cl2", p, cell=[9] * 3, pbc=True) for p in positions]
    masses = frames[0].get_masses()
    still = trajectory_of(frames, interval=INTERVAL, wrapped=False)
    for k, atoms in enumerate(frames):
        atoms.positions += [0.3 * k, 0, 0]
    pushed = trajectory_of(frames, interval=INTERVAL, wrapped=False)
    np.testing.assert_allclose(pushed.displacements, still.displacements, atol=1e-9)
    np.testing.assert_allclose(np.einsum("n,tnj->tj", masses, still.displacements), 0, atol=1e-9)


def test_a_breathing_cell_is_no_motion(rng):
    start = Atoms("Li4", rng.random((4, 3)) * 8, cell=[8] * 3, pbc=True)
    frames = []
    for factor in 1 + 0.03 * rng.normal(size=50):
        frames.append(start.copy())
        frames[-1].set_cell(start.cell.array * factor, scale_atoms=True)
    np.testing.assert_allclose(trajectory_of(frames, interval=1.0).displacements, 0, atol=1e-9)


def test_jumps_that_cannot_be_told_from_motion_are_refused():
    frames = frames_of(np.array([[[0.1, 0, 0]], [[4.3, 0, 0]], [[0.1, 0, 0]]]))
    with pytest.raises(DataError, match="cannot be told"):
        trajectory_of(frames, interval=1.0)
    moved = trajectory_of([*frames], interval=1.0, wrapped=False)
    assert moved.displacements.shape == (3, 1, 3)


def test_a_run_tells_its_time_step_and_temperature(tmp_path, potential):
    start = Atoms("Cu4", [[0, 0, 0], [0, 1.9, 1.9], [1.9, 0, 1.9], [1.9, 1.9, 0]], cell=[3.8] * 3, pbc=True)
    settings = {"steps": 43, "timestep": 2.0, "log_every": 5, "seed": 1}
    result = run_md(start, potential, temperature=300.0, out_dir=tmp_path / "run", **settings)
    run = read_trajectory(tmp_path / "run", skip=0.02)
    assert run.interval == 10.0
    assert len(run.displacements) == 7  # 0.02 to 0.08 ps; the last frame came early and is left out
    after = result.log["time_fs"] >= 20
    assert run.temperature == pytest.approx(result.log["temperature_K"][after].mean())
    with pytest.raises(DataError, match="too few"):
        diffusion(run, "Cu")


def test_times_of_a_file_are_asked_for(tmp_path, rng):
    write(tmp_path / "walk.extxyz", frames_of(walk(rng, frames=80, atoms=2)))
    with pytest.raises(ConfigError, match="which time"):
        read_trajectory(tmp_path / "walk.extxyz")
    run = read_trajectory(tmp_path / "walk.extxyz", interval=50.0, temperature=400.0)
    assert diffusion(run, "Li").temperature == 400.0


def test_uneven_times_are_refused(tmp_path, rng):
    frames = frames_of(walk(rng, frames=5, atoms=2))
    for atoms, time in zip(frames, (0, 10, 30, 40, 50), strict=True):
        atoms.info["time_fs"] = time
    write(tmp_path / "walk.extxyz", frames)
    with pytest.raises(DataError, match="evenly spaced"):
        read_trajectory(tmp_path / "walk.extxyz")


def other_atoms(frames):
    frames[3].symbols[0] = "Na"


def not_periodic(frames):
    frames[2].pbc = False


def not_finite(frames):
    frames[1].positions[0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda frames: frames.__delitem__(slice(1, None)), "two frames at least, not 1"),
        (other_atoms, "Frame 3 has other atoms"),
        (not_periodic, "periodic in three directions"),
        (not_finite, "not a finite number"),
    ],
)
def test_bad_trajectories_are_refused(rng, spoil, text):
    frames = frames_of(walk(rng, frames=6, atoms=3))
    spoil(frames)
    with pytest.raises(DataError, match=text):
        trajectory_of(frames, interval=1.0)


@pytest.mark.parametrize(
    ("element", "settings", "error", "text"),
    [
        ("Na", {}, DataError, "There is no Na"),
        ("Li", {"blocks": 2}, ConfigError, "3 blocks at least"),
        ("Li", {"blocks": 30}, DataError, "too few"),
        ("Li", {"window": (0.1, 99.0)}, ConfigError, "window must lie"),
        ("Li", {"window": (0.2, 0.2)}, ConfigError, "window must lie"),
        ("Li", {"temperature": -3.0}, ConfigError, "temperature must be positive"),
    ],
)
def test_impossible_requests_are_refused(rng, element, settings, error, text):
    with pytest.raises(error, match=text):
        diffusion(trajectory(walk(rng, frames=201, atoms=2)), element, **settings)


def test_conductivity_is_that_of_nernst_and_einstein(rng):
    # 1e22 ions/cm³ with D = 1e-7 cm²/s at 300 K: n e² D / kT = 1.602e-19 · 1e22 · 1e-7 / 0.025852 S/cm
    assert nernst_einstein(1e-7, 0.01, 1.0, 300.0) == pytest.approx(1000 * 1.602177e-4 / 0.0258520, rel=1e-4)
    found = diffusion(trajectory(walk(rng)), "Li", charge=2.0)
    assert found.conductivity == pytest.approx(4 * nernst_einstein(found.d, 0.016, 1.0, 600.0))
    assert diffusion(trajectory(walk(rng), temperature=None), "Li", charge=1.0).conductivity is None
