"""Hostile files are refused with an error that names the object, quickly, and nothing in them is executed."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

AT_LEAST, PEAK_MIB = 40, 500


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each file, by name, and a summary under the name None. Read in a process of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.datasets.safe.hostile_run", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"ended after {rows[-1]['name'] if rows else None}: {ran.stderr[-2000:]}"
    return {row.get("name"): row for row in rows}


def files(outcomes):
    return [row for name, row in outcomes.items() if name is not None]


def test_there_are_many_files(outcomes):
    assert len(files(outcomes)) >= AT_LEAST
    assert any("bomb" in row["name"] for row in files(outcomes))


def test_all_are_refused(outcomes):
    assert {row["name"]: row["text"] for row in files(outcomes) if row["kind"] != "DataError"} == {}


def test_the_errors_name_what_is_wrong(outcomes):
    def names(row):
        return re.search(row["match"], row["text"], re.DOTALL)

    assert {row["name"]: row["text"] for row in files(outcomes) if not names(row)} == {}


def test_the_errors_say_where(outcomes):
    assert [row["name"] for row in files(outcomes) if "where: here" not in row["text"]] == []


def test_nothing_is_executed(outcomes):
    assert [row["name"] for row in files(outcomes) if row["executed"]] == []


def test_each_takes_less_than_a_second(outcomes):
    assert {row["name"]: row["seconds"] for row in files(outcomes) if row["seconds"] > 1} == {}


def test_memory_stays_small(outcomes):
    assert outcomes[None]["peak_MiB"] < PEAK_MIB


def test_cut_and_changed_frames_give_values_or_errors(outcomes):
    assert set(outcomes[None]["truncations"]) == {"value", "DataError"}
