"""The measurements of crystal models in `train/`: recipes are valid, commands run from training to tables."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import sys
from collections import Counter
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.cif import write_cif

from atomml._optional import installed
from atomml.config import load_config
from atomml.crystals.config import CrystalTrainConfig
from atomml.crystals.evaluate.matching import rms_distance
from atomml.errors import ConfigError
from atomml.training.sources import load_source, require_known_elements
from tests.conftest import ROOT
from tests.crystals.models import NETWORK, perovskite, small_model

TRAIN = ROOT / "train"
MODULES = ("baselines", "speed", "study", "tables", "measured")
SMALL = [f"model.network.{key}={value}" for key, value in NETWORK.items()]
SMALL += ["model.flow.steps=[2, 3]", "epochs=2", "batch.batch_size=8", "dtype=float32", "data.valid=4"]


@pytest.fixture
def scripts(monkeypatch):
    """The modules, with fewer and shorter measurements."""
    monkeypatch.syspath_prepend(str(TRAIN))
    names = ["crystals", *(f"crystals_{name}" for name in MODULES)]
    loaded = [importlib.import_module(name) for name in names]
    found = SimpleNamespace(**dict(zip(("command", *MODULES), loaded, strict=True)))
    monkeypatch.setattr(found.measured, "PLANS", dict.fromkeys(found.measured.PLANS, (2, 3)))
    cases = {"as the recipe": {}, "published loss": found.measured.TRAININGS["losses"]["published loss"]}
    monkeypatch.setattr(found.measured, "TRAININGS", {"losses": cases})
    monkeypatch.setattr(found.speed, "STEPS", (2,))
    monkeypatch.setattr(found.speed, "DIFFUSION", (4, 2))
    yield found
    for name in names:
        sys.modules.pop(name, None)


def strained(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    atoms.set_cell(atoms.cell * rng.uniform(0.95, 1.05), scale_atoms=True)
    return atoms


def write_table(path, crystals):
    """Crystals as CDVAE has them."""
    with gzip.open(path, "wt", newline="") as file:
        table = csv.writer(file)
        table.writerow(["material_id", "cif", "pretty_formula"])
        for k, atoms in enumerate(crystals):
            text = BytesIO()
            write_cif(text, atoms)
            table.writerow([k, text.getvalue().decode(), f"formula {k}"])
    return path


@pytest.fixture(scope="module")
def salts_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    kinds = [lambda: bulk("LiCl", "rocksalt", 5.1), lambda: bulk("NaCl", "rocksalt", 5.6), perovskite]
    path = tmp_path_factory.mktemp("salts") / "train.csv.gz"
    return write_table(path, [strained(kinds[k % 3](), rng) for k in range(24)])


@pytest.fixture(scope="module")
def carbon_file(tmp_path_factory):
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("carbon")
    diamonds = [strained(bulk("C", cubic=k % 2 == 0), rng) for k in range(20)]
    write_table(folder / "val.csv.gz", diamonds[::2][:3])
    return write_table(folder / "train.csv.gz", diamonds)


def run(scripts, command, file, folder, *more):
    out = folder / "out" / f"{command}.json"
    changes = [*SMALL, f"data.train={file}", "data.test=5"]
    arguments = [
        command,
        "--runs",
        str(folder / "runs"),
        "--out",
        str(out),
        "--workers",
        "1",
        "--timeout",
        "0",
    ]
    scripts.command.main([*arguments, "--set", *changes, *more])
    return json.loads(out.read_text(encoding="utf-8")), out.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "given_types", "predicts"), [("perov_5", 1, 5), ("carbon_24", 0, 24), ("mp_20", 0.5, 20)]
)
def test_recipes_are_valid(name, given_types, predicts):
    recipe = load_config(CrystalTrainConfig, TRAIN / f"crystals_{name}.yaml")
    assert recipe.run_dir == f"runs/crystals_{name}"
    assert recipe.model.given_types == given_types
    assert (recipe.loss.distance, recipe.loss.origin) == ("cosine", "fitted")
    pairs = recipe.batch.max_pairs
    assert pairs is None or pairs > 8 * predicts**2, "crystals of all sizes come in batches"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("perov_5", (4111, 200, 500)),
        ("carbon_24", (2233, 100, 300)),
        pytest.param("mp_20", (8413, 300, 1000), marks=pytest.mark.slow),
    ],
)
def test_the_crystals_of_recipes_are_divided_as_they_say(name, sizes, shared_data):
    recipe = load_config(CrystalTrainConfig, TRAIN / f"crystals_{name}.yaml").data
    listed = [recipe.train] if isinstance(recipe.train, str) else recipe.train
    files = [str(shared_data / file.removeprefix("../shared/data/")) for file in listed]
    source = load_source(recipe.model_copy(update={"train": files}), None, require_energy=False)
    assert tuple(len(source.parts[part].rows) for part in ("train", "valid", "test")) == sizes
    require_known_elements(set(source.parts["train"].elements()), source.parts)


def test_predictions_are_compared_with_baselines_and_not_repeated(scripts, salts_file, tmp_path, monkeypatch):
    content, text = run(scripts, "perov_5", salts_file, tmp_path)
    methods = Counter(r["method"] for r in content["records"])
    assert methods == {
        "end_back": 2,
        "vanilla": 2,
        "mix": 2,
        "random cell": 1,
        "other elements": 1,
        "PyXtal": 1,
    }
    for record in content["records"]:
        found = record.get("metrics", {}).get("prediction")
        assert found is None or found["references"] == 5
        assert found is not None or record["failed"] == 5
    assert content["model"]["division_checked"]
    assert content["data"]["test"] == 5
    assert len(content["model"]["fingerprint"]) == 32
    for words in ("Structure prediction", "no filter", "METRe", "| vanilla | 3 |", "| random cell | – |"):
        assert words in text
    assert (tmp_path / "out/perov_5.png").stat().st_size > 10_000
    for name in ("train_crystals", "generate_folder", "evaluate_crystals"):
        monkeypatch.setattr(scripts.study, name, lambda *a, **k: pytest.fail("repeated"))
    monkeypatch.setattr(scripts.measured, "baselines", lambda *a, **k: pytest.fail("repeated"))
    again, _ = run(scripts, "perov_5", salts_file, tmp_path)
    assert again["records"] == content["records"]


def test_a_model_is_not_measured_with_crystals_that_it_may_know(scripts, salts_file, tmp_path):
    changes = dict(item.split("=", 1) for item in SMALL) | {"data.train": str(salts_file), "data.test": 5}
    trained = scripts.study.Study("perov_5", tmp_path, changes=changes)
    same = scripts.study.Study("perov_5", tmp_path / "same", trained.model_path, changes=changes)
    assert same.model_key == trained.model_key
    other = replace(same, changes={**changes, "data.split_seed": 1})
    with pytest.raises(ConfigError, match="another division"):
        _ = other.model


def test_generation_is_judged_and_guided(scripts, carbon_file, tmp_path):
    content, text = run(scripts, "carbon_24", carbon_file, tmp_path, "--samples", "4")
    kinds = Counter(r["task"] for r in content["records"])
    assert kinds == {"guidance": 9, "generation": 6}
    model = [r for r in content["records"] if r.get("method") == "model"]
    assert [r["metrics"]["n"] for r in model] == [4, 4]
    assert all(r["made"] <= r["n"] == 2 for r in content["records"] if r["task"] == "guidance")
    if installed("matminer"):
        assert all(r["metrics"]["coverage"]["cutoffs"]["name"] == "carbon_24" for r in model)
    for words in ("## Generation", "model, 8 atoms", "COV-P %", "## Guided by the density", "W volume"):
        assert words in text


@pytest.mark.slow
def test_one_model_predicts_and_generates(scripts, salts_file, tmp_path):
    content, text = run(scripts, "mp_20", salts_file, tmp_path, "--samples", "4")
    kinds = Counter((r["task"], r["method"] in ("end_back", "model")) for r in content["records"])
    assert kinds == {(task, own): 3 - own for task in ("prediction", "generation") for own in (True, False)}
    assert "## Structure prediction" in text
    assert "## Generation" in text


@pytest.mark.slow
def test_trainings_that_differ_are_compared(scripts, salts_file, tmp_path):
    content, text = run(scripts, "losses", salts_file, tmp_path, "--seeds", "0", "1")
    found = [(r["seed"], r["trained"], r["steps"]) for r in content["records"]]
    names = ("as the recipe", "published loss")
    assert found == [(seed, name, n) for seed in (0, 1) for name in names for n in (2, 3)]
    assert len({r["model"]["fingerprint"] for r in content["records"]}) == 4
    assert "published loss, seed 1" in text


@pytest.mark.parametrize("kind", ["steps", "losses", "networks"])
def test_trainings_that_are_compared_have_valid_recipes(kind, monkeypatch):
    monkeypatch.syspath_prepend(str(TRAIN))
    cases = importlib.import_module("crystals_measured").TRAININGS[kind]
    recipes = [
        load_config(CrystalTrainConfig, TRAIN / "crystals_perov_5.yaml", case) for case in cases.values()
    ]
    assert len({str(recipe.resolved()) for recipe in recipes}) == len(cases)


STORED = sorted(TRAIN.glob("crystals_*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_tables_are_those_of_the_stored_results(path, scripts):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert scripts.tables.tables_of(content["records"]) in path.with_suffix(".md").read_text(encoding="utf-8")
    assert path.with_suffix(".png").exists()


def test_tables_of_crystals_in_the_readme_are_those_of_the_stored_results():
    readme = (TRAIN / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Crystals\n")[1].split("\n## ")[0]
    rows = {line for line in section.splitlines() if line.startswith("|")}
    stored = {
        line for path in STORED for line in path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    }
    assert len(rows) > 10
    assert rows <= stored, rows - stored


def test_a_network_called_more_often_is_slower(scripts):
    model = small_model()
    found = {r["method"]: r for r in scripts.speed.speed(model, [perovskite()] * 3, rounds=1)}
    assert set(found) == {"2 steps", "4 steps", "4 × 2 calls"}
    assert found["2 steps"]["crystals_per_second"] > 0
    assert found["4 × 2 calls"]["times_faster"] == [1.0, 1.0, 1.0]
    assert found["2 steps"]["batch"] == 30


@pytest.mark.slow
def test_speed_and_memory_are_measured(scripts, salts_file, tmp_path):
    content, text = run(scripts, "speed", salts_file, tmp_path, "--samples", "10")
    speeds = {r["method"]: r["times_faster"][0] for r in content["records"] if r["task"] == "speed"}
    assert speeds["4 × 2 calls"] == 1.0
    assert set(speeds) == {"2 steps", "4 steps", "4 × 2 calls"}
    peaks = {r["n"]: r["peak_mib"] for r in content["records"] if r["task"] == "memory"}
    assert set(peaks) == {2, 20}
    assert 50 < peaks[2] < 5000
    assert "peak (MiB)" in text


def test_baselines_have_the_compositions_that_are_wanted(scripts):
    wanted = [perovskite(), bulk("MgO", "rocksalt", 4.2)]
    training = [bulk("NaCl", "rocksalt", 5.6), perovskite()]
    found = scripts.baselines.baselines(wanted, training, seed=1)
    for name in ("random cell", "other elements"):
        made = [outcome.value for outcome in found[name]]
        assert [Counter(a.numbers) for a in made] == [Counter(a.numbers) for a in wanted], name
    assert rms_distance(found["other elements"][1].value, wanted[1]) == pytest.approx(0, abs=1e-6)
    volumes = [len(a) * np.mean([t.cell.volume / len(t) for t in training]) for a in wanted]
    assert [o.value.cell.volume for o in found["random cell"]] == pytest.approx(volumes)
    if installed("pyxtal"):
        made = [outcome.value for outcome in found["PyXtal"] if outcome.ok]
        assert made
        assert all(len(set(a.numbers)) == len(set(w.numbers)) for a, w in zip(made, wanted, strict=False))


def test_a_composition_unlike_all_training_crystals_has_no_template(scripts):
    found = scripts.baselines.baselines([perovskite()], [bulk("NaCl", "rocksalt", 5.6)])
    assert "no training crystal" in found["other elements"][0].error
