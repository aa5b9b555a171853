"""A whole evaluation: files, shares, and structures that fail."""

import csv
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from atomml._optional import installed
from atomml.crystals.evaluate import sections
from atomml.crystals.evaluate.command import evaluate_crystals
from atomml.crystals.evaluate.inputs import read_generated
from atomml.errors import ConfigError, DataError, UnsupportedError

HERE = {"workers": 1, "timeout": None}  # in this process
SALT, CAESIUM = bulk("NaCl", "rocksalt", 5.6), bulk("NaCl", "cesiumchloride", 3.4)
CLOSE = Atoms("Cu2", [[0, 0, 0], [0.1, 0, 0]], cell=4 * np.eye(3), pbc=True)


def rows_of(folder):
    with (folder / "structures.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def metals(tmp_path):
    write(tmp_path / "reference.extxyz", [bulk("Cu"), bulk("Au"), bulk("Al"), bulk("NaCl", "rocksalt", 5.6)])
    alloy = bulk("Cu", cubic=True)
    alloy.symbols[0] = "Au"
    generated = [bulk("Cu"), bulk("Cu").repeat((2, 1, 1)), alloy, CLOSE, bulk("U", "fcc", 4.0)]
    write(tmp_path / "generated.extxyz", generated)
    return tmp_path


def test_everything_of_a_generated_set_is_in_the_files(metals):
    said = []
    metrics = evaluate_crystals(
        metals / "generated.extxyz",
        reference=metals / "reference.extxyz",
        potential=EMT(),
        hull=metals / "reference.extxyz",
        coverage=False,
        out=metals / "out",
        notify=said.append,
        **HERE,
    )
    assert json.loads((metals / "out/metrics.json").read_text()) == metrics
    assert metrics["n"] == 5
    counts = {k: metrics[p][k]["count"] for p, k in (("validity", "structure"), ("uniqueness", "unique"))}
    assert counts == {"structure": 4, "unique": 4}
    assert metrics["novelty"]["novel"]["count"] == 3
    assert metrics["stability"]["without_reference"] == {"count": 0, "elements": {}}
    assert metrics["stability"]["energy_known"]["count"] == 4
    assert metrics["not_done"]["coverage"] == "it was not asked for"
    rows = rows_of(metals / "out")
    assert [row["unique"] for row in rows] == ["True", "False", "True", "True", "True"]
    assert [row["novel"] for row in rows] == ["False", "False", "True", "True", "True"]
    assert float(rows[0]["above_hull"]) == pytest.approx(0.0, abs=1e-6)
    assert rows[4]["energy_error"]
    assert not rows[4]["above_hull"]
    assert "apart" in rows[3]["structure_reason"]
    report = (metals / "out/report.md").read_text()
    assert "5 crystals" in report
    assert "S.U.N." in report
    for name in ("distributions", "elements", "space_groups"):
        assert (metals / f"out/{name}.png").stat().st_size > 1000
        assert f"{name}.png" in report
    assert any("uniqueness" in line for line in said)


def test_predictions_are_judged_with_all_filters(tmp_path):
    write(tmp_path / "true.extxyz", [SALT, CAESIUM])
    predictions = [atoms.copy() for atoms in (CAESIUM, SALT, CAESIUM, SALT)]
    for atoms, row in zip(predictions, (0, 0, 1, 1), strict=True):
        atoms.info["reference"] = row
    write(tmp_path / "predicted.extxyz", predictions)
    metrics = evaluate_crystals(
        tmp_path / "predicted.extxyz", task="prediction", reference=tmp_path / "true.extxyz", **HERE
    )
    rates = metrics["prediction"]["filters"]
    assert rates["none"]["match"]["count"] == rates["prediction"]["match"]["count"] == 2
    assert rates["none"]["metre"]["match"]["count"] == 2
    assert ("strict" in rates) == installed("smact")
    rows = rows_of(tmp_path / "evaluation")
    assert [row["matched"] for row in rows] == ["False", "True", "True", "False"]
    assert (tmp_path / "evaluation/rmsd.png").exists()
    assert "METRe" in (tmp_path / "evaluation/report.md").read_text()


def test_metre_is_left_out_when_it_would_take_too_long(tmp_path):
    write(tmp_path / "set.extxyz", [SALT, CAESIUM])
    how = {"task": "prediction", "reference": tmp_path / "set.extxyz", "most_pairs": 3, **HERE}
    found = evaluate_crystals(tmp_path / "set.extxyz", **how)["prediction"]
    assert "4 comparisons" in found["metre"]
    assert "metre" not in found["filters"]["none"]
    assert found["filters"]["none"]["match"]["count"] == 2


def test_what_could_not_be_generated_counts(tmp_path):
    rows = [
        {"index": 0, "valid": True, "reason": None},
        {"index": 1, "valid": False, "reason": "degenerate lattice"},
    ]
    (tmp_path / "structures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    salt = SALT.copy()
    salt.info = {"index": 0}
    write(tmp_path / "structures.extxyz", [salt])
    metrics = evaluate_crystals(tmp_path, **HERE)
    assert metrics["validity"]["readable"]["count"] == 1
    assert metrics["uniqueness"]["unique"]["of"] == 2
    assert rows_of(tmp_path / "evaluation")[1]["error"] == "degenerate lattice"
    assert "novelty" in metrics["not_done"]


def test_a_set_without_any_crystal_is_judged_too(metals):
    folder = metals / "failed"
    folder.mkdir()
    (folder / "structures.jsonl").write_text('{"index": 0, "valid": false, "reason": "not finite"}\n')
    (folder / "structures.extxyz").write_text("")
    metrics = evaluate_crystals(
        folder,
        reference=metals / "reference.extxyz",
        potential=EMT(),
        hull=metals / "reference.extxyz",
        coverage=installed("matminer"),
        **HERE,
    )
    assert metrics["validity"]["structure"]["fraction"] == 0.0
    assert metrics["stability"]["stable_unique_novel"]["count"] == 0
    assert metrics["distributions"]["density"]["wasserstein"] is None
    assert (folder / "evaluation/report.md").exists()


def test_relaxed_structures_replace_the_others_and_bring_energies(tmp_path):
    rows = [{"index": k, "valid": k < 2, "reason": None if k < 2 else "not finite"} for k in range(3)]
    relaxed = [
        {"index": 0, "valid": True, "reason": None, "energy_per_atom": -3.0},
        {"index": 1, "valid": False, "reason": "exploded"},
    ]
    for name, lines in (("structures", rows), ("relaxed", relaxed)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        crystals = [bulk("Cu", a=a) for a, row in zip((3.7, 3.6, 3.5), lines, strict=False) if row["valid"]]
        for k, atoms in enumerate(crystals):
            atoms.info = {"index": k}
        write(tmp_path / f"{name}.extxyz", crystals)
    given = read_generated(tmp_path, relaxed=True)
    assert given.errors == (None, "exploded", "not finite")
    (tmp_path / "hull.csv").write_text("formula,energy_per_atom\nCu,-3.05\n")
    metrics = evaluate_crystals(tmp_path, relaxed=True, potential="given", hull=tmp_path / "hull.csv", **HERE)
    assert metrics["stability"]["mean_above_hull"] == pytest.approx(0.05)
    assert metrics["stability"]["metastable"]["count"] == 1


@pytest.mark.parametrize("kind", ["folder of CIF files", "table"])
def test_a_broken_cif_is_counted(tmp_path, kind):
    if kind == "table":
        write(tmp_path / "a.cif", SALT)
        text = (tmp_path / "a.cif").read_text()
        (tmp_path / "a.cif").unlink()
        path = tmp_path / "set.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["material_id", "cif"], ["a", text], ["b", "data_nothing"]])
    else:
        path = tmp_path
        write(tmp_path / "a.cif", SALT)
        (tmp_path / "b.cif").write_text("data_nothing\n")
    given = read_generated(path)
    assert [atoms is None for atoms in given.structures] == [False, True]
    assert "CIF" in given.errors[1]
    assert len(given.structures[0]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "prediction"}, "give a reference"),
        ({"hull": "x.csv"}, "give a potential"),
        ({"task": "guessing"}, "task"),
        ({"worker": 2}, "did you mean 'workers'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_done(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_crystals(tmp_path / "absent.extxyz", **settings)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write(tmp_path / "two.extxyz", [SALT, CAESIUM])
    write(tmp_path / "three.extxyz", [SALT, CAESIUM, SALT])
    with pytest.raises(DataError, match="3 predictions cannot"):
        evaluate_crystals(
            tmp_path / "three.extxyz", task="prediction", reference=tmp_path / "two.extxyz", **HERE
        )
    with pytest.raises(DataError, match=r"neither structures\.jsonl"):
        read_generated(tmp_path)


def test_without_optional_packages_the_rest_is_done(metals, monkeypatch):
    def no_matminer(*_, **__):
        raise UnsupportedError("matminer is not installed")

    monkeypatch.setattr(sections, "installed", lambda name: False)
    monkeypatch.setattr(sections, "fingerprints", no_matminer)
    metrics = evaluate_crystals(metals / "generated.extxyz", reference=metals / "reference.extxyz", **HERE)
    assert metrics["validity"]["composition"] is None
    assert metrics["validity"]["structure"]["count"] == 4
    assert set(metrics["not_done"]) == {"composition", "coverage"}
    assert "Not done" in (metals / "evaluation/report.md").read_text()


@pytest.mark.skipif(not (installed("matminer") and installed("smact")), reason="needs atomml[crystals]")
def test_a_set_covers_itself(metals):
    metrics = evaluate_crystals(
        metals / "reference.extxyz", reference=metals / "reference.extxyz", cutoffs="perov_5", **HERE
    )
    assert metrics["coverage"]["recall"]["fraction"] == metrics["coverage"]["precision"]["fraction"] == 1.0
    assert metrics["distributions"]["density"]["wasserstein"] == 0.0
    assert metrics["novelty"]["novel"]["count"] == 0
    assert metrics["validity"]["composition"]["count"] == 4
    assert (metals / "evaluation/fingerprints.npz").exists()
