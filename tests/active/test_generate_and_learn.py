"""The recipe that generates and learns: its crystals can be asked for, and the whole of it runs in small."""

import json

import pytest
from ase.io import read, write
from pymatgen.core import Composition

from atomml.active.explore.config import CrystalsExplorer
from atomml.config import parse_config, read_yaml
from atomml.crystals.model_file import load_crystal_model
from atomml.crystals.requests import plan_requests
from tests.active.helpers import MODEL
from tests.conftest import ROOT

RECIPE = read_yaml(ROOT / "train" / "generate_and_learn.yaml")
EXPLORERS = [
    parse_config(CrystalsExplorer, part, where="explore")
    for part in RECIPE["explore"]
    if part["kind"] == "crystals"
]


@pytest.mark.filterwarnings("ignore:The model was not trained on crystals")
def test_the_crystal_model_can_make_every_formula_and_all_are_neutral_halides():
    model = load_crystal_model("demo")
    formulas = [formula for explorer in EXPLORERS for formula in explorer.formulas]
    assert len(formulas) == len(set(formulas)) == 26
    for explorer in EXPLORERS:
        for formula in explorer.formulas:
            assert Composition(formula).get_el_amt_dict()["Li"] == Composition(formula).num_atoms / 2
            plan = plan_requests(model, formula=formula, z=explorer.z)
            assert all(2 <= choice.n_atoms <= 6 for choice in plan.choices)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_runs_in_small(tmp_path, monkeypatch):
    sample = read(ROOT / "atomml" / "assets" / "li_halide.extxyz.gz", ":")
    frames = [atoms for atoms in sample if {"Li", "Cl", "Br"} >= set(atoms.get_chemical_symbols())][::8]
    write(tmp_path / "start.extxyz", frames)
    monkeypatch.syspath_prepend(str(ROOT / "train"))
    import generate_and_learn

    out = tmp_path / "result.json"
    changes = {
        "run_dir": tmp_path / "loop",
        "start.labelled": f"[{tmp_path / 'start.extxyz'}]",
        "start.structures": "{prototypes: [rocksalt]}",
        "figures": "false",
        "start.substitution": "{species: [[Cl, Br]]}",
        "explore": "[{kind: crystals, formulas: [LiCl], n: 3, steps: 5, relax: {steps: 4, record_every: 2}}]",
        "select.n": 3,
        "label.calculator": "{kind: atomml, model: demo}",
        "learn.training.model": json.dumps(MODEL),
        "learn.training.max_steps": 20,
        "stop.max_rounds": 1,
    }
    words = f"--n 2 --limit 9 --steps 5 --out {out} --set".split()
    generate_and_learn.main([*words, *(f"{key}={value}" for key, value in changes.items())])
    content = json.loads(out.read_text())
    assert 1 <= content["labels"] <= 3
    assert content["proposals"] == 2
    assert len(content["phases"]) == 2
    for limits in content["decisions"].values():
        assert all(found["agree"]["of"] + found["unknown"] == 2 for found in limits.values())
    text = out.with_suffix(".md").read_text()
    assert all(row["formula"] in text for row in content["reported"])
    assert out.with_suffix(".png").stat().st_size > 10_000
    if content["reported"]:
        assert len(read(out.with_suffix(".extxyz"), ":")) == len(content["reported"])
