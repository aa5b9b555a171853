"""Sampling runs on a disk that becomes full, and in a folder where another process is at work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from matplotlib.figure import Figure

from atomml.errors import ConfigError, DataError
from atomml.records import lock_folder
from atomml.simulate.sampling import figure as sampling_figure
from atomml.simulate.sampling import units as sampling_units
from atomml.simulate.sampling.config import SampleConfig
from atomml.simulate.sampling.run import run_sampling
from atomml.training.report import save_figure
from tests.simulate.test_sampling import ONE, SETTINGS, merged


@pytest.fixture
def sample(tmp_path, monkeypatch):
    ase.io.write(tmp_path / "start.extxyz", bulk("Cu", a=3.7))
    monkeypatch.setattr(sampling_figure, "draw_sampling", lambda path, *_: save_figure(Figure((1, 1)), path))
    short = {"dynamics": {"temperatures": [900], "equilibration": 10, "sampling": 40}}

    def run(name="run", **options):
        data = merged(merged(merged(SETTINGS, ONE), short), {"run_dir": str(tmp_path / name)})
        return run_sampling(SampleConfig.model_validate(data), base=tmp_path, **options)

    return run


@pytest.mark.parametrize(
    "at", ["config.yaml", "relaxed", "trajectories", "labels", "frames", "summary.json", "sampling.png"]
)
def test_a_full_disk_is_said_and_what_is_finished_is_kept(sample, tmp_path, monkeypatch, at):
    replace, computed = os.replace, []

    def full(source, target):
        if at in (Path(target).name, Path(target).parent.name):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match=r"disk is full|No space left") as caught:
            sample()
    assert "free some space" in caught.value.fix
    folder = tmp_path / "run"
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / at).is_file()
    (folder / ".frames.abcd.old").mkdir()  # of a kill
    (folder / ".summary.json.1.tmp").write_bytes(b"{")
    compute = sampling_units._compute
    monkeypatch.setattr(sampling_units, "_compute", lambda unit: (computed.append(unit), compute(unit)))
    result = sample(resume=True)
    kinds = ["relaxed", "trajectories", "labels"]
    left = kinds if at == "config.yaml" else kinds[kinds.index(at) :] if at in kinds else []
    assert list(dict.fromkeys(unit.folder.parent.name for unit in computed)) == left
    assert result.store.fingerprint() == sample("whole").store.fingerprint()
    assert {path.name for path in folder.glob(".*")} == {".lock"}


def test_a_second_process_is_kept_out_of_the_folder(sample, tmp_path):
    with lock_folder(tmp_path / "run"), pytest.raises(ConfigError, match="Another process"):
        sample()
    assert not (tmp_path / "run" / "config.yaml").exists()
