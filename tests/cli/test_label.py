"""`atomml label`: files in, labelled files out, a cache that a second run uses, failures named."""

import json
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from atomml.cli.main import app
from atomml.config import load_config
from atomml.datasets import FrameStore
from atomml.errors import ConfigError, DataError
from atomml.labelling import LabellerConfig


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emt.yaml").write_text("calculator: {kind: emt}\nworkers: 1\n")
    cells = [bulk("Cu", cubic=True), bulk("Al", cubic=True), bulk("NaCl", "rocksalt", 5.6)]
    for k, atoms in enumerate(cells):
        atoms.rattle(0.03, seed=k)
        atoms.info["name"] = f"cell {k}"
    ase.io.write("in.xyz", cells, format="extxyz")
    return ["label", "emt.yaml", "in.xyz"]


def run(*words):
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_structures_are_labelled_once_and_written_with_their_tags(inputs):
    text = run(*inputs, "--out", "out.extxyz", "--json", "out.json")
    assert "2 of 3 structures labelled by emt" in text
    assert "unsupported" in text
    labelled = ase.io.read("out.extxyz", ":")
    assert [a.info["name"] for a in labelled] == ["cell 0", "cell 1"]
    assert labelled[0].get_forces().shape == (4, 3)
    assert labelled[0].info["labeller"].startswith("emt")
    summary = json.loads(Path("out.json").read_text())
    assert summary["computed"] == 2
    assert summary["failures"]["unsupported"]["count"] == 1
    again = run(*inputs, "--out", "store", "--cache", "out.extxyz.labels")
    assert "0 of them computed now" in again
    store = FrameStore.open("store")
    assert store.label_counts() == {"energy": 2, "forces": 2, "stress": 2}
    assert store.info["level_of_theory"].startswith("emt")
    with pytest.raises(DataError, match="exists already"):
        run(*inputs, "--out", "out.extxyz")


def test_a_labeller_that_cannot_be_used_is_refused(inputs, tmp_path):
    (tmp_path / "bad.yaml").write_text("calculator: {kind: emu}\n")
    with pytest.raises(ConfigError, match="gpaw"):
        run("label", "bad.yaml", "in.xyz", "--out", "x.extxyz")


def test_template_and_schema_know_labellers(tmp_path):
    path = tmp_path / "label.yaml"
    path.write_text(run("template", "label"))
    assert load_config(LabellerConfig, path).retries == 1
    assert "valid label configuration" in run("validate", str(path))
    assert "max_failures" in run("schema", "label")
