"""Mutated pickles, archives and JSON end in a value or a DataError: no other error, crash, hang or much memory."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def fuzz(n, seed, files=()):
    command = [sys.executable, "-m", "tests.datasets.safe.fuzz", str(n), str(seed), *map(str, files)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def check(summary, n):
    assert summary["wrong"] == 0
    assert summary["value"] + summary["DataError"] == n
    assert min(summary["value"], summary["DataError"]) > n / 50
    assert summary["grown_MiB"] < 200


def test_two_thousand_inputs():
    check(fuzz(2_000, 0), 2_000)


@pytest.mark.slow
def test_a_hundred_thousand_inputs(shared_data):
    check(fuzz(100_000, 1, sorted((shared_data / "oc20" / "pickles").glob("*.pkl"))), 100_000)
