"""The comparison of `train/cotraining_li_halide.py`: it is fair, its numbers add up, and its finding holds."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from rich.console import Console

from atomml.datasets import FrameStore, load_frames, rows_where, tag_values
from atomml.errors import DataError
from atomml.training.data import load_training_data
from atomml.training.evaluation import evaluate
from tests.conftest import ROOT
from tests.training.test_evaluation import Offset

SAMPLE = ROOT / "data" / "li_halide" / "sample" / "li_halide.extxyz.gz"
RESULTS = ROOT / "train" / "cotraining_li_halide.json"


@pytest.fixture(scope="module")
def script():
    path = ROOT / "train" / "cotraining_li_halide.py"
    spec = importlib.util.spec_from_file_location("cotraining_li_halide", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store() -> FrameStore:
    return load_frames(SAMPLE)


def test_hot_and_cold_add_the_same_frames_of_each_composition(script, store):
    counts = script.require_fair(store)
    assert counts["base + hot"] == counts["base + cold"] == 63
    assert counts["base"] == 126
    assert (counts["1500 K"], counts["1000 K"], counts["300 K"]) == (63, 112, 28)


def test_an_unfair_comparison_is_refused(script, store):
    hot = rows_where(store, script.ADDED["base + hot"])
    with pytest.raises(DataError, match="do not add the same frames"):
        script.require_fair(store.subset(np.setdiff1d(np.arange(len(store)), hot[:1])))
    store = store.subset(np.arange(len(store)))
    store.tags["traj"][:] = "one"
    with pytest.raises(DataError, match="is trained on"):
        script.require_fair(store)


@pytest.mark.parametrize("arm", ["base", "base + hot", "base + cold"])
def test_arms_differ_in_their_frames_only(script, arm, tmp_path):
    config = script.settings_of(arm, 3, 50, SAMPLE, tmp_path)
    data = load_training_data(config.data, config.loss)
    assert [len(part) for part in data.train.sets().values()] == ([126] if arm == "base" else [126, 63])
    assert (config.max_steps, config.seed) == (50, 3)
    assert data.mixture.alignment.shifts == {name: {} for name in data.train.sets()}
    other = script.settings_of("base", 3, 50, SAMPLE, tmp_path)
    assert config.model_copy(update={"data": other.data}) == other


def test_bias_and_scatter_make_up_the_error(script, store):
    rows = np.arange(0, 60)
    formulas = tag_values(store, "formula")[rows]
    errors = script.errors_of(evaluate(Offset(), store, rows), formulas)
    assert errors["energy_rmse"] ** 2 == pytest.approx(errors["bias_rms"] ** 2 + errors["scatter"] ** 2)
    each = [errors["bias_by_composition"][name] for name in formulas]
    assert errors["bias"] == pytest.approx(np.mean(each))


def test_the_stored_runs_say_what_the_results_say(script):
    """Hot frames halve the error at 1500 K, cold ones do not lower it, and most of it is a bias, for every seed."""
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    by_seed = {
        seed: {r["arm"]: r for r in content["results"] if r["seed"] == seed} for seed in content["seeds"]
    }
    assert len(by_seed) == 3
    for arms in by_seed.values():
        base, hot, cold = (arms[name]["1500 K"] for name in script.ADDED)
        assert hot["energy_rmse"] < 0.65 * base["energy_rmse"]
        assert hot["forces_rmse"] < 0.8 * base["forces_rmse"]
        assert cold["energy_rmse"] > 0.95 * base["energy_rmse"]
        assert base["bias_rms"] > 2 * base["scatter"]
        assert hot["bias"] < -3.0  # lower, not gone


@pytest.mark.slow
def test_hot_frames_lower_the_error_at_1500_K_and_cold_ones_do_not(script, tmp_path):
    """A shortened comparison on the bundled sample: an eighth of the steps, one seed, about two minutes."""
    content = script.compare(SAMPLE, tmp_path / "runs", [0], 600, Console(quiet=True))
    script.write_results(content, tmp_path)
    base, hot, cold = (content["results"][k]["1500 K"] for k in range(3))
    assert hot["energy_rmse"] < 0.9 * base["energy_rmse"]
    assert hot["bias_rms"] < 0.9 * base["bias_rms"]
    assert hot["forces_rmse"] < 0.95 * base["forces_rmse"]
    assert cold["energy_rmse"] > 0.95 * base["energy_rmse"]
    assert base["bias"] < 0
    assert base["bias_rms"] > base["scatter"]
    assert {p.name for p in tmp_path.iterdir()} == {
        "runs",
        "cotraining_li_halide.json",
        "cotraining_li_halide.md",
        "cotraining_li_halide.png",
    }


def test_the_tables_are_those_of_the_stored_runs(script):
    """What `train/cotraining_li_halide.md` says follows from the numbers of every seed."""
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert script.summary_of(content["results"]) == content["summary"]
    text = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert script.tables_of(content["summary"]).strip() in text
    assert script.composition_table(content["results"]).strip() in text
