"""Labels on a Dask cluster: a worker that is killed loses nothing, and nothing is kept twice."""

import os
import signal
import time

import pytest

from atomml.errors import ConfigError
from atomml.labelling import LabelCache, label_structures
from atomml.labelling.executors import dask_executor, queue_resources

distributed = pytest.importorskip("distributed", reason="needs pip install 'atomml[dask]'")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, resources={"DFT": 1}
    ) as local:
        yield local


def test_a_worker_killed_in_mid_label_loses_nothing(cluster, copper, oracle, tmp_path):
    structures, log = copper(24), tmp_path / "log"
    labeller = oracle("slow", {"seconds": 0.05, "log": str(log)}, resources={"DFT": 1.0})
    killed = []

    def kill_one(index, outcome):
        if not killed:  # the one that works on another label now
            killed.append(int(log.read_text().split()[-1]))
            os.kill(killed[0], signal.SIGKILL)

    address = cluster.scheduler_address
    with LabelCache(tmp_path / "cache") as cache, dask_executor(address, labeller) as executor:
        out = label_structures(structures, labeller, cache=cache, executor=executor, on_outcome=kill_one)
        assert len(cache) == 24
    assert [o.failure for o in out] == [None] * 24
    assert [o.frame.id for o in out] == [o.key for o in out]
    lines = (tmp_path / "cache" / "labels.jsonl").read_text().splitlines()
    assert len(lines) == 24
    assert all(sum(o.key in line for line in lines) == 1 for o in out)
    asked = log.read_text().split()
    assert len(asked) <= 25
    assert killed[0] not in map(int, asked[-5:])


def test_processes_that_compute_end_with_their_worker(cluster, copper, oracle, tmp_path):
    labeller = oracle("slow", {"seconds": 0.0, "log": str(tmp_path / "log")})
    with dask_executor(cluster.scheduler_address, labeller) as executor:
        assert [o.failure for o in label_structures(copper(2), labeller, executor=executor)] == [None] * 2
    worker = int((tmp_path / "log").read_text().split()[-1])
    children = children_of(worker)
    assert children
    os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + 5
    while children & alive() and time.monotonic() < end:
        time.sleep(0.1)
    assert not children & alive()


def alive():
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and state(name) not in ("Z", "")}


def children_of(parent):
    return {pid for pid in alive() if stat(pid)[1:2] == [str(parent)]}


def state(pid):
    return (stat(pid) or [""])[0]


def stat(pid):
    """State, parent and so on of a process; nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def test_resources_that_no_worker_offers_are_refused(cluster, oracle):
    labeller = oracle("bad", resources={"GPU": 1.0})
    with pytest.raises(ConfigError, match="No worker"), dask_executor(cluster.scheduler_address, labeller):
        pass


def test_a_scheduler_that_is_not_there_is_an_error(oracle, monkeypatch):
    monkeypatch.setattr("atomml.labelling.executors.CONNECT", 0.5)
    with (
        pytest.raises(ConfigError, match="no Dask scheduler"),
        dask_executor("tcp://127.0.0.1:9", oracle("bad")),
    ):
        pass


def test_a_queue_is_asked_for_time_of_every_attempt(oracle):
    labeller = oracle("bad", timeout=100, retries=2, threads=4, memory_gb=8, gpus=1)
    assert queue_resources(labeller) == {
        "cores": 1,
        "threads_per_core": 4,
        "gpus_per_core": 1,
        "memory_max": 8.0,
        "run_time_max": 360,
    }
    assert queue_resources(oracle("bad", timeout=None)) == {"cores": 1, "threads_per_core": 1}
