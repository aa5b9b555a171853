"""A loop killed at random writes, or in the middle of a label, and resumed equals one that nobody disturbed."""

import json
import os
import random

import pytest
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from atomml.active.journal import read_journal
from atomml.active.labels import CACHE
from atomml.active.status import status
from atomml.cli.main import app
from tests.active.helpers import completed_calls, facts, written
from tests.training.helpers import KILLED, in_child, kill_on_call


def command(folder):
    """`atomml active run`, as it is typed."""
    path = written(folder)
    result = CliRunner().invoke(
        app, ["active", "run", str(path), "--resume", "--quiet"], catch_exceptions=False
    )
    assert result.exit_code == 0


def killed_at(folder, module, name, number):
    """Run the command in a process that dies at this call of a function, before it has any effect."""

    def die():
        kill_on_call(module, name, number)
        command(folder)

    return in_child(die)


def check_once(folder, again):
    """Every label once in the cache and in the journal; no more than ``again`` structures were computed twice."""
    keys = [key for _, step, f in facts(folder / "run") if step == "label" for key in f["keys"]]
    lines = (folder / "run" / CACHE / "labels.jsonl").read_text().splitlines()
    assert sorted(json.loads(line.partition(" ")[2])["key"] for line in lines) == sorted(keys)
    assert len(set(keys)) == len(keys) == 4
    calls = completed_calls(folder / "run.calls")
    assert len(calls) == 4
    assert calls.total() <= 4 + again


def test_killed_at_three_random_writes_and_in_a_label(folder, finished):
    calm = facts(finished / "run")
    writes, rng = int((finished / "writes").read_text()), random.Random(1)
    moments = sorted(rng.sample(range(1, writes), 3))
    for earlier, moment in zip([0, *moments], moments, strict=False):
        assert killed_at(folder, os, "fsync", max(moment - earlier, 1)) == KILLED
        if (folder / "run" / "journal.jsonl").exists():
            assert status(folder / "run")["stopped"] is None
    killed_at(folder, EMT, "calculate", 2)
    command(folder)
    assert facts(folder / "run") == calm
    check_once(folder, again=4)
    assert read_journal(folder / "run")[-1]["step"] == "stop"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_write(folder, finished, seed):
    """Twenty loops, each killed at three random writes."""
    calm, rng = facts(finished / "run"), random.Random(seed)
    for _ in range(3):
        killed_at(folder, os, "fsync", rng.randint(1, int((finished / "writes").read_text()) // 2))
    command(folder)
    assert facts(folder / "run") == calm
    check_once(folder, again=3)
