"""Convolutions: what is computed is the same, work is counted as stated, comparisons are kept apart."""

import json
from typing import get_args

import numpy as np
import pytest
import torch

from atomml.bench import kernels, machine
from atomml.bench.kernel_cases import agreement, cases, problem
from atomml.bench.process import PeerError
from atomml.bench.roofline import Size, cp_work, floors, per_path_work
from atomml.bench.settings import KernelSettings
from atomml.bench.workers.convolution_modes import timed
from atomml.kernels.cost_model import Mode
from atomml.kernels.cp_factors import load_factors
from atomml.kernels.sparse_coupling import sparse_coupling

TINY = {"channels": 4, "edges": 60, "degree": 5}


def tiny(lmax, dtype=torch.float64):
    return problem(lmax, **TINY, dtype=dtype, device="cpu", seed=0)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_the_per_path_kernel_computes_what_e3nn_computes(lmax):
    assert agreement(tiny(lmax)) < 1e-7  # e3nn keeps its constants in float32


def test_the_graph_is_sorted_and_has_the_degree():
    p = tiny(1)
    assert torch.equal(p.index.row_ptr.diff(), torch.full((12,), 5))
    assert bool((p.index.center.diff() >= 0).all())
    assert p.size == Size(12, 60, 4, 8)


def test_modes_give_all_derivatives():
    x, y = torch.tensor([2.0]), torch.tensor([3.0])
    assert timed("forward", torch.mul, [x, y])().tolist() == [6.0]
    assert len(timed("backward", torch.mul, [x, y])()) == 2
    assert len(timed("double", torch.mul, [x, y])()) == 3  # of x, y and the cotangent


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_case_runs(mode):
    found = cases(tiny(1), mode)
    assert [case.name for case in found] == [
        "per path",
        "e3nn",
        "CP shared R=6",
        "CP Gaunt R=6",
        "CP per l2 R=10",
    ]
    assert all(case.seconds(1) > 0 for case in found)


def test_work_is_counted_as_stated():
    size = Size(atoms=1, edges=10, channels=2, item=4)
    factors = load_factors(1, "cg_even")
    forward = cp_work(factors, size, "forward")
    assert forward.flops == 3 * 10 * 6 * 2 + 2 * 10 * 4 * 6 + 4 * 4 * 6 * 2
    assert forward.bytes == 4 * (4 * 2 + 10 * (4 + 2) + 4 * 2) + 8 * 11
    assert cp_work(factors, size, "backward").flops == 3 * forward.flops
    # L = 1, paths 000, 011, 101, 110: (path, a, k) 1 + 3 + 3 + 3, (path, k) 1 + 3 + 3 + 1, ten entries
    assert per_path_work(sparse_coupling(1, "cg_even"), size, "forward").flops == 2 * 10 * (2 * (10 + 8) + 10)
    compute, memory = floors(forward, {"gflops": 2.0, "gbytes": 4.0})
    assert compute == pytest.approx(forward.flops / 2e9)
    assert memory == pytest.approx(forward.bytes / 4e9)


@pytest.fixture
def result(tmp_path, monkeypatch):
    def no_network(*_):
        raise PeerError("cuequivariance cannot be installed.", where="no network")

    monkeypatch.setattr(kernels, "environment", no_network)
    limits = {"gflops": 100.0, "flops_by": "multiply-add loop", "gbytes": 10.0}
    monkeypatch.setattr(machine, "ceilings", lambda device, threads: limits)
    settings = KernelSettings(lmax=(1, 2), modes=("forward", "backward"), **TINY, rounds=3, slot=0.0)
    return kernels.measure_kernels(settings, tmp_path)


def test_the_result_has_every_case_with_its_fractions(result):
    json.dumps(result)
    assert len(result["rows"]) == 2 * 2 * 5
    for row in result["rows"]:
        assert row["ms"] == pytest.approx(1e3 * np.median(row["seconds"]))
        assert len(row["seconds"]) == 3
        assert row["compute_fraction"] == pytest.approx(row["gflops"] / 100)
        assert row["memory_fraction"] > 0
    assert all(error < 1e-5 for error in result["agreement"].values())


def test_comparisons_are_never_mixed(result):
    for r in result["ratios"]:
        if r["comparison"].startswith("like for like"):
            assert (r["numerator"], r["denominator"]) == ("e3nn", "per path")
        elif "orientation only" in r["comparison"]:
            assert r["numerator"] == "e3nn"
            assert r["denominator"].startswith("CP ")
        else:
            assert r["numerator"] == "per path"
            assert r["denominator"].startswith("CP ")


def test_a_missing_peer_is_reported_not_fatal(result):
    (entry,) = result["missing"]
    assert entry["name"] == "cuequivariance"
    assert "no network" in entry["reason"]


def test_threads_are_given_back(tmp_path, result):
    assert torch.get_num_threads() == 1


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "STREAM_NUMBERS", 1 << 20)
    monkeypatch.setattr(machine, "PEAK_STEPS", 200_000)
    found = machine.ceilings("cpu", 1)
    assert 1 < found["gflops"] < 1e4
    assert 0.1 < found["gbytes"] < 1e4
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    assert machine.ceilings("cpu", 1)["flops_by"] == "matrix product"


def test_facts_name_the_machine_and_the_versions():
    facts = machine.facts(1)
    assert facts["torch"] == torch.__version__
    assert facts["cores"] >= 1
    json.dumps(facts)
