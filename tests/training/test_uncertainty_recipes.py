"""The comparisons of uncertainty methods in `train/`: recipes are valid, parts disjoint, numbers add up."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from atomml.config import load_config
from atomml.datasets import FrameStore, load_frames, tag_values
from atomml.errors import DataError
from atomml.training.config import TrainConfig
from atomml.training.data import load_training_data
from atomml.training.deviations import calibrated
from atomml.training.evaluation import evaluate
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.calibration import Scale
from atomml.uncertainty.model_file import head_posterior
from atomml.uncertainty.posterior import Members
from tests.conftest import ROOT
from tests.training.uncertain import potential, scattered, structures

TRAIN = ROOT / "train"


@pytest.fixture(scope="module")
def scripts():
    names = (
        "uncertainty_measures",
        "uncertainty_tables",
        "uncertainty",
        "uncertainty_active",
        "learning_curves",
    )
    sys.path.insert(0, str(TRAIN))
    try:
        modules = [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(TRAIN))
        for name in names:
            sys.modules.pop(name, None)
    return SimpleNamespace(measures=modules[0], compare=modules[2], active=modules[3], curves=modules[4])


def arrays_of(rng: np.random.Generator, sizes: list[int], factor: float = 1.0, spread: float = 1.0) -> dict:
    """Predictions with Gaussian errors ``factor`` times as large as their deviations say."""
    n, atoms = len(sizes), sum(sizes)
    std, cov = spread * rng.uniform(0.5, 2, n), spread**2 * rng.uniform(0.2, 2, atoms)
    zero = np.zeros((n, 3, 3))
    return {
        "rows": np.arange(n),
        "n_atoms": np.array(sizes),
        "numbers": rng.integers(1, 9, atoms),
        "energy": np.zeros(n),
        "energy_label": factor * std * rng.normal(size=n),
        "forces": np.zeros((atoms, 3)),
        "forces_label": factor * np.sqrt(cov)[:, None] * rng.normal(size=(atoms, 3)),
        "stress": zero,
        "stress_label": zero * np.nan,
        "energy_std": std,
        "energy_std_epistemic": 0 * std,
        "energy_std_aleatoric": std,
        "forces_cov": cov[:, None, None] * np.eye(3),
        "stress_std": zero + 1,
    }


@pytest.mark.parametrize("name", ["ethanol", "li_halide"])
def test_recipes_are_valid_and_methods_change_only_what_they_are_about(scripts, name, tmp_path):
    recipe = load_config(TrainConfig, TRAIN / f"uncertainty_{name}.yaml")
    for method in scripts.compare.METHODS:
        config = scripts.compare.settings_of(name, method, 3, tmp_path)
        assert (config.seed, config.run_dir) == (3, str(tmp_path))
        assert (config.epochs, config.batch, config.schedule) == (
            recipe.epochs,
            recipe.batch,
            recipe.schedule,
        )
        assert config.model.model_copy(update={"noise": None, "heads": 1}) == recipe.model.model_copy(
            update={"noise": None}
        )
    plain = scripts.compare.settings_of(name, "mse", 3, tmp_path)
    assert plain.loss == recipe.loss.mean
    assert plain.model.noise is None


def test_no_trajectory_of_the_halides_is_in_two_parts(scripts):
    frames = scripts.compare.frames_of("li_halide")
    settings = scripts.compare.settings_of("li_halide", "mse", 0, ROOT)
    parts = load_training_data(settings.data, settings.loss).parts()
    store = parts["train"].store
    trajectories = tag_values(store, "traj")
    seen = set(trajectories[parts["train"].rows]) | set(trajectories[parts["valid"].rows])
    formulas = set(tag_values(store, "formula")[parts["train"].rows])
    assert "Li6Br12Y2" not in formulas
    assert len(parts["train"]) == 460
    for name, (tested, rows) in frames.sets.items():
        assert len(rows) >= 60, name
        assert not seen & set(tag_values(tested, "traj")[rows]), name
    assert len(np.unique(frames.others["trajectory"])) == 12


@pytest.mark.parametrize("noise", [None, {"forces": "outer"}])
@pytest.mark.parametrize("method", ["affine", "nll"])
def test_ensembles_and_calibrations_from_arrays_are_those_of_the_library(scripts, noise, method):
    members = [potential(seed, noise=noise) for seed in range(5)]
    model = BayesianPotential(Members(members)).eval()
    store = scattered(model, structures(30), factor=2.0)
    single = [m if noise is None else BayesianPotential(head_posterior(m)) for m in members]
    arrays = scripts.measures.mixture_of([evaluate(m, store).arrays() for m in single])
    assert_same(arrays, evaluate(model, store).arrays())
    fitted = scripts.measures.calibration_of(arrays, method)
    library = evaluate(calibrated(model, store, method=method), store)
    assert_same(scripts.measures.scaled(arrays, fitted), library.arrays())
    assert scripts.measures.measured(library.arrays())["forces"]["ce"] == library.deviations["forces"]["ce"]


def assert_same(found, expected):
    for name in ("energy", "forces", "stress", "energy_std", "forces_cov", "stress_std"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9, nan_ok=True), name


def test_a_group_is_calibrated_on_the_others_only(scripts):
    arrays = arrays_of(np.random.default_rng(1), [2, 3] * 60)
    groups = np.arange(120) % 3
    mine = groups == 1
    arrays["energy_label"][mine] *= 100
    found = scripts.measures.scaled_by_others(arrays, groups, "nll")
    others = scripts.measures.calibration_of(scripts.measures.take(arrays, ~mine), "nll")
    expected = scripts.measures.scaled(arrays, others)
    atoms = np.repeat(mine, arrays["n_atoms"])
    assert found["energy_std"][mine] == pytest.approx(expected["energy_std"][mine])
    assert found["forces_cov"][atoms] == pytest.approx(expected["forces_cov"][atoms])
    assert (found["energy_std"][~mine] > 10 * expected["energy_std"][~mine]).all()


def test_a_constant_adds_to_a_total_energy_for_every_atom(scripts):
    arrays = arrays_of(np.random.default_rng(2), [2, 8])
    found = scripts.measures.scaled(
        arrays, scripts.measures.Fitted({}, {"energy": Scale(alpha=2.0, beta=3.0)})
    )
    assert found["energy_std"] == pytest.approx(np.sqrt(4 * arrays["energy_std"] ** 2 + 9 * np.array([2, 8])))
    assert found["forces_cov"] == pytest.approx(arrays["forces_cov"])


@pytest.fixture
def records(scripts):
    rng = np.random.default_rng(3)
    out = []
    for seed in (0, 1):
        sets = {
            "calibration": arrays_of(rng, [2, 3] * 100, factor=3.0),
            "id": arrays_of(rng, [2, 3] * 200, factor=3.0),
            "far": arrays_of(rng, [2, 3] * 20, factor=3.0, spread=20),
        }
        groups = {"half": np.arange(400) % 2}
        record = scripts.measures.record_of(sets, groups, {"likelihood": "nll", "fractions": "coverage"})
        plain = {
            name: {k: v for k, v in a.items() if k[-3:] not in ("std", "cov")} for name, a in sets.items()
        }
        for a in plain.values():
            a.pop("energy_std_epistemic"), a.pop("energy_std_aleatoric")
        out += [{"method": "jef", "seed": seed, **record}]
        out += [{"method": "mse", "seed": seed, **scripts.measures.record_of(plain, groups, {})}]
    return out


def test_a_record_measures_before_and_after_a_calibration_on_other_frames(records):
    record = records[0]
    assert record["raw"]["id"]["forces"]["z_rms"] == pytest.approx(3, rel=0.1)
    for title in ("likelihood", "fractions"):
        for name in ("id", "id by half"):
            assert record[title][name]["forces"]["ce"] < 1e-3 < record["raw"]["id"]["forces"]["ce"]
            assert record[title][name]["energy"]["ace"] < 0.05
        assert record[title]["scales"]["forces"][0] == pytest.approx(3, rel=0.1)
    assert record["detection"]["raw"]["far"]["forces_std_max"]["auroc"] > 0.95
    assert record["isotonic"]["ce_forces"] < 1e-3


def test_results_are_tables_goals_and_a_figure(scripts, records, tmp_path):
    out = tmp_path / "results.json"
    cost = {"mse": {"times": 1.0}, "jef": {"times": 1.25}}
    scripts.compare.write_results({"records": records, "cost": cost}, out)
    summary = json.loads(out.read_text())["summary"]
    values = [r["raw"]["id"]["forces"]["nll"] for r in records if r["method"] == "jef"]
    assert summary["raw"]["id"]["jef"]["nll_forces"] == pytest.approx(
        [np.mean(values), np.std(values, ddof=1)]
    )
    text = out.with_suffix(".md").read_text()
    assert "In distribution, as the methods give it" in text
    assert "| jef: force RMSE ≤ 1.2 times that of mse | 1.00 | yes |" in text
    assert "force CE < 0.001, fractions" in text
    assert out.with_suffix(".png").stat().st_size > 1000


def test_deviations_that_no_factor_mends_are_noted(scripts):
    arrays = arrays_of(np.random.default_rng(4), [2, 3] * 30)
    arrays["energy_std"][:] = 0.0
    record = scripts.measures.record_of({"id": arrays}, {"half": np.arange(60) % 2}, {"likelihood": "nll"})
    assert "note" in record["likelihood"]
    with pytest.raises(DataError):
        scripts.measures.calibration_of(arrays, "nll")


def points(better: float) -> list[dict]:
    """Errors of two methods, one of them lower by ``better`` in the second round."""
    found = []
    for seed in range(5):
        for method, gain in (("random", 0.0), ("batch_bald", better)):
            for size in (40, 60):
                errors = dict.fromkeys(
                    ("forces", "energy", "worst", "methanol forces"), 100.0 - size / 2 + seed
                )
                errors["forces"] -= gain * (size == 60) + 0.1 * (seed % 2) * (gain > 0)
                found.append({"method": method, "seed": seed, "labelled": size, **errors})
    return found


@pytest.mark.parametrize(("better", "words"), [(0.0, "no difference in 1"), (5.0, "lower in 1 of 1 rounds")])
def test_only_a_difference_beyond_its_interval_counts(scripts, tmp_path, better, words):
    summary = scripts.curves.summary_of(points(better), scripts.active.MEASURES)
    assert words in scripts.curves.verdicts(summary)["batch_bald"]
    assert summary["random"]["60"]["forces"][0] == pytest.approx(72)
    scripts.curves.write_results({"points": points(better)}, scripts.active.MEASURES, tmp_path / "x.json")
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_nothing_is_chosen_from_the_test(scripts):
    store = load_frames(ROOT / "data" / "li_halide" / "sample" / "li_halide.extxyz.gz")
    assert isinstance(store, FrameStore)
    split = scripts.active.division(store, 20, seed=1)
    assert len(split.labelled) == pytest.approx(20, abs=1)
    chosen = scripts.active.choose("random", None, store, split, 10, 0)
    after = split.label(split.pool[chosen.rows])
    assert len(after.labelled) == len(split.labelled) + 10
    assert not set(after.labelled) & set(split.test)
    again = scripts.active.choose("random", None, store, split, 10, 0)
    assert (chosen.rows == again.rows).all()


@pytest.mark.parametrize("name", ["ethanol", "li_halide"])
def test_the_stored_results_say_what_the_readme_says(name):
    content = json.loads((TRAIN / f"uncertainty_{name}.json").read_text(encoding="utf-8"))
    assert content["seeds"] == [0, 1, 2, 3, 4]
    assert {r["seed"] for r in content["records"] if r["method"] == "mse ensemble"} == set(content["seeds"])
    known, elsewhere = content["summary"]["likelihood"]["id"], content["summary"]["detection"]
    for key in ("energy", "forces"):
        assert known["jef"][key][0] <= 1.2 * known["mse"][key][0]
        assert known["jef ensemble"][key][0] < 0.9 * known["jef"][key][0]
    assert all(row["ace_energy"][0] < 0.05 for method, row in known.items() if "ensemble" in method)
    sure = ("methanol", "O–H out of range", "dimers") if name == "ethanol" else ("Li3YBr6",)
    for found in (elsewhere[other][method] for other in sure for method in ("jef ensemble", "mse ensemble")):
        assert max(v[0] for k, v in found.items() if k.startswith("AUROC")) >= 0.95
    if name == "ethanol":
        halves = [
            r["fractions"]["id by the other half"] for r in content["records"] if "jef" in r["method"][:3]
        ]
        assert np.mean([m["forces"]["ce"] for m in halves]) < 1e-3
