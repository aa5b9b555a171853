"""Decorrelated and different frames: autocorrelation, fingerprints, farthest points."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from atomml.datasets.farthest import farthest_points
from atomml.datasets.frame import Frame
from atomml.datasets.packing import pack_frames
from atomml.simulate.sampling.config import SelectionConfig
from atomml.simulate.sampling.correlation import autocorrelation, correlation_time
from atomml.simulate.sampling.fingerprint import radial_fingerprint, relative_scale
from atomml.simulate.sampling.select import Pool, choose_frames, frames_of_run, spacing_of_run

LICL = np.array([3, 17])


def autoregressive(memory, n, seed=0):
    """x_t = a x_{t-1} + noise, whose τ is ½ (1 + a)/(1 − a)."""
    noise, x = np.random.default_rng(seed).standard_normal(n), np.zeros(n)
    for t in range(1, n):
        x[t] = memory * x[t - 1] + noise[t]
    return x


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97])
def test_correlation_time_of_a_known_process(memory):
    found = correlation_time(autoregressive(memory, 100_000))
    assert found.time == pytest.approx(0.5 * (1 + memory) / (1 - memory), rel=0.15)
    assert found.inefficiency == pytest.approx(2 * found.time, abs=1e-12) or found.inefficiency == 1.0
    assert found.resolved


def test_autocorrelation_is_the_direct_sum():
    x = autoregressive(0.8, 50)
    d = x - x.mean()
    direct = np.array([np.sum(d[: 50 - t] * d[t:]) / (50 - t) for t in range(50)])
    np.testing.assert_allclose(autocorrelation(x), direct / direct[0], atol=1e-12)


def test_short_series_and_drifts_are_not_called_resolved():
    assert not correlation_time(np.arange(300.0)).resolved
    assert correlation_time(np.arange(300.0)).inefficiency >= 60
    assert not correlation_time(autoregressive(0.99, 300)).resolved
    assert correlation_time(np.zeros(0)).inefficiency == 1
    assert not correlation_time(np.ones(2)).resolved
    assert correlation_time(np.full(100, -3.7e5)).inefficiency == 1


def frame_of(atoms, **tags):
    return Frame(
        atoms.numbers,
        atoms.positions,
        np.array(atoms.cell.array),
        np.array(atoms.pbc),
        energy=0.0,
        forces=np.zeros((len(atoms), 3)),
        id="f",
        tags=tags,
    )


def licl(seed=None, size=0.1):
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    if seed is not None:
        atoms.rattle(size, seed=seed)
    return atoms


def fingerprint(atoms):
    return radial_fingerprint(frame_of(atoms), LICL, 6.0)


def test_fingerprint_does_not_see_what_does_not_matter():
    atoms = licl(1)
    reference = fingerprint(atoms)
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    moved = atoms.copy()
    moved.positions += [1.3, -0.4, 9.0]
    moved.wrap()
    for same in (turned, moved, atoms[::-1], atoms.repeat((2, 1, 1))):
        np.testing.assert_allclose(fingerprint(same), reference, atol=1e-9)
    assert np.linalg.norm(fingerprint(licl(2)) - reference) > 0.01 * np.linalg.norm(reference)


def test_fingerprint_is_smooth_and_counts_pairs_apart():
    atoms = licl(1)
    small = atoms.copy()
    small.positions[0] += 1e-6
    length = np.linalg.norm(fingerprint(atoms))
    assert 0 < np.linalg.norm(fingerprint(small) - fingerprint(atoms)) < 1e-4 * length
    swapped = atoms.copy()
    swapped.numbers = np.where(atoms.numbers == 3, 17, 3)
    blocks = fingerprint(atoms).reshape(3, -1)
    np.testing.assert_allclose(fingerprint(swapped).reshape(3, -1), blocks[[2, 1, 0]], atol=1e-12)


def test_farthest_points_are_those_of_the_definition(rng):
    points = rng.standard_normal((40, 3))
    order, distance = farthest_points(points)
    assert sorted(order) == list(range(40))
    assert np.all(np.diff(distance) <= 0)
    for k in range(1, 40):
        gaps = np.linalg.norm(points[:, None] - points[order[:k]], axis=2).min(axis=1)
        assert gaps.argmax() == order[k]
        assert distance[k] == pytest.approx(gaps.max())
    few, _ = farthest_points(points, most=5)
    np.testing.assert_array_equal(few, order[:5])
    far, gaps = farthest_points(points, least_distance=1.0)
    assert gaps[1:].min() >= 1.0
    assert len(far) == np.sum(distance >= 1.0)


def test_equal_points_are_chosen_once_if_a_difference_is_asked_for():
    points = np.repeat(np.eye(3), 4, axis=0)
    assert len(farthest_points(points, least_distance=0.1)[0]) == 3
    assert len(farthest_points(points)[0]) == 12
    assert len(farthest_points(np.zeros((0, 5)))[0]) == 0
    assert relative_scale(np.zeros((3, 4))) == 1.0


def pool(name, structures, *, spacing=10.0, tau=10.0, fmax=None, sampled=True):
    """A trajectory with frames ``spacing`` fs apart."""
    frames = [
        frame_of(
            atoms,
            time_fs=spacing * (k + 1),
            fmax=1.0 if fmax is None else fmax[k],
            traj=name,
            sampled=sampled,
        )
        for k, atoms in enumerate(structures)
    ]
    record = {"tau_fs": tau, "timestep_fs": 1.0}
    return Pool(name, pack_frames(frames, {}, where=name), record, sampled)


@pytest.mark.parametrize("tau", [3.0, 10.0, 17.3, 60.0])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_chosen_frames_are_at_least_that_many_correlation_times_apart(tau, times):
    config = SelectionConfig(correlation_times=times)
    run = pool("a", [licl(k) for k in range(30)], tau=tau)
    rows, inside = frames_of_run(run.source, run.record, config)
    gaps = np.diff(run.source.tags["time_fs"][rows])
    assert inside == 30
    assert spacing_of_run(run.record, config) == pytest.approx(times * 2 * tau)
    assert np.all(gaps >= times * 2 * tau - 1e-9)
    assert np.all(gaps < times * 2 * tau + 10.0)


def test_a_fixed_spacing_is_possible():
    run = pool("a", [licl(k) for k in range(30)], tau=1000.0)
    rows, _ = frames_of_run(run.source, run.record, SelectionConfig(correlation_times=0, min_spacing=50.0))
    np.testing.assert_array_equal(np.diff(rows), 5)


def test_a_few_of_a_run_are_spread_over_it():
    run = pool("a", [licl(k) for k in range(30)], tau=1.0)
    rows, _ = frames_of_run(run.source, run.record, SelectionConfig(per_run=3, min_spacing=10))
    np.testing.assert_array_equal(rows, [5, 15, 25])


def test_forces_outside_the_limits_are_left_out_before_spacing():
    fmax = np.where(np.arange(30) % 3 == 0, 50.0, np.where(np.arange(30) % 3 == 1, 0.01, 2.0))
    run = pool("a", [licl(k) for k in range(30)], tau=1.0, fmax=fmax)
    rows, inside = frames_of_run(run.source, run.record, SelectionConfig(fmax_min=0.1, fmax_max=10.0))
    assert inside == 10
    np.testing.assert_array_equal(rows, np.arange(2, 30, 3))


def test_near_duplicates_of_other_runs_are_dropped_and_counted():
    structures = [licl(k) for k in range(5)]
    nearly = [s.repeat((1, 1, 2)) for s in structures]  # the same crystal in a larger cell
    for s in nearly:
        s.rattle(1e-4, seed=1)
    pools = [pool("a", structures, tau=1.0), pool("b", [*nearly, licl(9)], tau=1.0)]
    choice = choose_frames(pools, SelectionConfig(min_difference=0.01))
    assert choice.counts["decorrelated"] == 11
    assert choice.counts["chosen"] == 6
    assert (1, 5) in choice.rows
    assert choice.rows == sorted(choice.rows)
    assert choose_frames(pools, SelectionConfig(min_difference=0)).counts["chosen"] == 11


def test_other_compositions_are_never_duplicates_and_relaxed_structures_stay():
    bromide = [bulk("LiBr", "rocksalt", a=5.1, cubic=True)]
    pools = [
        pool("r", [licl()], sampled=False),
        pool("a", [licl(), licl(3)], spacing=100),
        pool("b", bromide),
    ]
    choice = choose_frames(pools, SelectionConfig())
    assert choice.rows == [(0, 0), (1, 0), (1, 1), (2, 0)]
    assert choice.counts["relaxed"] == 1


def test_the_most_different_frames_are_kept_when_there_are_too_many():
    close = [licl(k, size=0.01) for k in range(6)]
    far = [licl(k, size=0.4) for k in (10, 11)]
    pools = [pool("a", [*close, *far], tau=1.0)]
    choice = choose_frames(pools, SelectionConfig(max_frames=3, min_difference=0.0))
    assert choice.counts["chosen"] == 3
    assert {(0, 6), (0, 7)} < set(choice.rows)
