"""The cache: keys, exact round trips, one user at a time, torn and damaged records, a full disk, a kill."""

import json
import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
from ase.build import bulk, molecule

from atomml.datasets.frame import Frame
from atomml.errors import DataError
from atomml.labelling import LabelCache, LabellerConfig, LabelOutcome, label_key


def calculator(**settings):
    return LabellerConfig(calculator=settings).calculator


LJ = calculator(kind="lj")


def outcome(key, failure=None, value=1.0):
    rng = np.random.default_rng(0)
    frame = Frame(
        np.array([3, 17]),
        rng.standard_normal((2, 3)),
        rng.standard_normal((3, 3)),
        np.array([True, True, False]),
        value / 3,
        rng.standard_normal((2, 3)),
        None,
        key,
        {"labeller": "test", "label_seconds": 0.1},
        fixed=np.array([True, False]),
    )
    message = None if failure is None else "why"
    return LabelOutcome(key, frame if failure is None else None, failure, message, 1, 0.5, cached=False)


def test_a_key_is_that_of_structure_and_calculator():
    atoms = bulk("NaCl", "rocksalt", 5.6)
    key = label_key(atoms, LJ)
    assert key == label_key(atoms.copy(), calculator(kind="lj"))
    assert len(key) == 32
    moved, nearly, charged, magnetic = (atoms.copy() for _ in range(4))
    moved.positions[0, 0] += 1e-6
    nearly.positions[0, 0] -= 1e-11
    charged.info["charge"] = 1
    magnetic.set_initial_magnetic_moments([0, 1])
    assert label_key(nearly, LJ) == key
    others = [label_key(a, LJ) for a in (moved, charged, magnetic, atoms[::-1])]
    others.append(label_key(atoms, calculator(kind="lj", epsilon=0.02)))
    others.append(label_key(atoms, calculator(kind="pyscf")))
    assert len({key, *others}) == 1 + len(others)


def test_other_information_of_a_structure_is_no_part_of_its_key():
    atoms = bulk("NaCl", "rocksalt", 5.6)
    noted = atoms.copy()
    noted.info["T"] = 300
    noted.set_tags([1, 2])
    assert label_key(noted, LJ) == label_key(atoms, LJ)


@pytest.mark.parametrize("kind", ["gpaw", "cp2k"])
def test_where_a_program_is_installed_is_no_part_of_a_key(kind):
    atoms = molecule("H2O")
    key = label_key(atoms, calculator(kind=kind))
    assert key == label_key(atoms, calculator(kind=kind, command=["/opt/python"], environment={"A": "1"}))
    assert key != label_key(atoms, calculator(kind=kind, version="2"))
    assert key != label_key(atoms, calculator(kind=kind, cutoff=333.0))


def test_outcomes_come_back_bit_for_bit(tmp_path):
    good, bad = outcome("a"), outcome("b", "not_converged")
    with LabelCache(tmp_path) as cache:
        cache.put(good)
        cache.put(bad)
    with LabelCache(tmp_path) as cache:
        assert cache.keys() == ("a", "b")
        found = cache.get("a")
        assert cache.get("b") == bad.known()
        assert cache.get("c") is None
    assert found.cached
    for name, value in good.frame._asdict().items():
        got = getattr(found.frame, name)
        assert got.dtype == value.dtype if isinstance(value, np.ndarray) else got == value
        assert np.array_equal(got, value)


@pytest.mark.parametrize("failure", ["timeout", "died"])
def test_failures_that_can_be_cured_are_written_down_and_asked_again(tmp_path, failure):
    with LabelCache(tmp_path) as cache:
        cache.put(outcome("a", failure))
        assert cache.get("a") is None
    assert json.loads((tmp_path / "labels.jsonl").read_text().partition(" ")[2])["failure"] == failure


def test_final_failures_can_be_forgotten_and_labels_cannot(tmp_path):
    with LabelCache(tmp_path) as cache:
        cache.put(outcome("a"))
        cache.put(outcome("b", "error"))
        assert cache.forget_failures() == 1
        assert cache.forget_failures() == 0
        assert cache.get("b") is None
    with LabelCache(tmp_path) as cache:
        assert cache.keys() == ("a",)
        cache.put(outcome("b"))
        assert cache.get("b").failure is None


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_record_is_cut_off_and_reported(tmp_path, cut):
    with LabelCache(tmp_path) as cache:
        cache.put(outcome("a"))
        size = (tmp_path / "labels.jsonl").stat().st_size
        cache.put(outcome("b"))
    with (tmp_path / "labels.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - cut)
    with pytest.warns(UserWarning, match="torn"):
        cache = LabelCache(tmp_path)
    with cache:
        assert cache.keys() == ("a",)
        assert (tmp_path / "labels.jsonl").stat().st_size == size
        cache.put(outcome("b"))
    with LabelCache(tmp_path) as cache:
        assert cache.keys() == ("a", "b")
        assert cache.problems == ()


def test_a_damaged_record_is_left_out_and_reported(tmp_path):
    with LabelCache(tmp_path) as cache:
        for key in "abc":
            cache.put(outcome(key))
    path = tmp_path / "labels.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"0.5", b"0.6")
    path.write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match="1 damaged"):
        cache = LabelCache(tmp_path)
    with cache:
        assert cache.keys() == ("a", "c")
        assert cache.get("c").frame.energy == outcome("c").frame.energy


def test_a_second_user_is_refused_until_the_first_is_gone(tmp_path):
    with LabelCache(tmp_path), pytest.raises(DataError, match="Another process"):
        LabelCache(tmp_path)
    LabelCache(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be used"):
        LabelCache(tmp_path / "file")


@pytest.fixture
def nearly_full():
    """Files of this process cannot grow beyond some size."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path, nearly_full):
    path = tmp_path / "labels.jsonl"
    with LabelCache(tmp_path) as cache:
        cache.put(outcome("a"))
        size = path.stat().st_size
        with pytest.raises(DataError, match="every label it had is kept"), nearly_full(size + 100):
            cache.put(outcome("b"))
        assert path.stat().st_size == size
        assert cache.keys() == ("a",)
        assert cache.get("a").frame.energy == outcome("a").frame.energy
    with LabelCache(tmp_path) as cache:
        assert cache.problems == ()
        cache.put(outcome("b"))
        assert cache.keys() == ("a", "b")


@pytest.mark.filterwarnings("ignore:.*torn")
def test_a_killed_writer_loses_nothing_that_it_had_reported(tmp_path):
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(reading)
        with LabelCache(tmp_path) as cache:
            for k in range(10**6):
                cache.put(outcome(f"key {k}"))
                os.write(writing, f"{k}\n".encode())
    os.close(writing)
    with os.fdopen(reading) as stream:
        reported = [int(stream.readline())]
        time.sleep(0.2)
        os.kill(writer, signal.SIGKILL)
        reported += map(int, stream)
    os.waitpid(writer, 0)
    with LabelCache(tmp_path) as cache:
        assert set(cache.keys()) >= {f"key {k}" for k in reported}
        assert len(cache) <= len(reported) + 1
