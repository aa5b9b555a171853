import csv
import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from atomml.datasets import concatenate, data_report, from_ase, read_ase
from atomml.datasets.statistics import (
    duplicate_groups,
    formulas,
    minimum_distances,
    outliers,
    stress_sign_test,
)


def copper(scale, seed=0, sign=1.0):
    atoms = bulk("Cu", "fcc", a=3.6 * scale, cubic=True)
    atoms.rattle(0.02, seed=seed)
    atoms.calc = EMT()
    values = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": sign * atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **values)
    return atoms


@pytest.fixture(scope="module")
def strained():
    return [copper(s, seed=k) for k, s in enumerate(np.linspace(0.95, 1.05, 9))]


@pytest.mark.parametrize(("sign", "verdict"), [(1.0, "ase"), (-1.0, "pressure")])
def test_sign_of_the_stress_is_told_from_the_volume(sign, verdict):
    store = from_ase([copper(s, sign=sign) for s in np.linspace(0.95, 1.05, 9)])
    result = stress_sign_test(store)
    assert result["verdict"] == verdict
    assert abs(result["correlation"]) > 0.9


def test_sign_is_not_judged_without_stress_or_volumes(store):
    assert stress_sign_test(store.subset([6, 7]))["verdict"] == "no stress"
    assert stress_sign_test(from_ase([copper(1.0, seed=k) for k in range(9)]))["verdict"] == "too few volumes"


@pytest.mark.parametrize("element", ["Cu", "Ni"])
def test_sign_of_real_files(shared_data, element):
    result = stress_sign_test(read_ase(shared_data / f"mlearn/{element}_train.extxyz"))
    assert result["verdict"] == "ase"


def test_duplicates_are_found_up_to_a_shift_and_rounding(strained):
    shifted, near, other = (strained[3].copy() for _ in range(3))
    shifted.positions += 0.7
    near.positions[1, 0] += 1e-4
    other.positions[1, 0] += 0.1
    store = from_ase([*strained, shifted, near, other])
    assert duplicate_groups(store, 6) == [[3, 9]]
    assert duplicate_groups(store, 2) == [[3, 9, 10]]


def test_outlier_is_found_within_its_own_composition():
    values = np.concatenate([np.linspace(0, 1, 20), np.linspace(100, 101, 20)])
    values[5] = 50.0
    rows, scores = outliers(values, np.repeat(["a", "b"], 20))
    assert rows.tolist() == [5]
    assert scores[0] > 8


def test_shortest_distances_see_periodic_images():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    found = minimum_distances(from_ase([atoms]), np.array([0]))
    assert abs(found["Na-Cl"]["distance"] - 2.8) < 1e-12
    assert abs(found["Na-Na"]["distance"] - 5.6 / np.sqrt(2)) < 1e-12
    assert set(found) == {"Na-Cl", "Na-Na", "Cl-Cl"}


def test_formulas_count_atoms():
    frames = [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", cubic=True)]
    assert formulas(from_ase(frames)).tolist() == ["Na1Cl1", "Cu4"]


def test_report_writes_text_figures_and_numbers(strained, tmp_path):
    broken = copper(1.0, seed=3)
    broken.calc.results["energy"] += 5.0
    store = from_ase([*strained, strained[0], broken])
    result = data_report(store, tmp_path / "report")
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert names == {
        "report.md",
        "report.json",
        "frames.csv",
        "elements.png",
        "energy.png",
        "forces.png",
        "stress.png",
    }
    assert json.loads((tmp_path / "report/report.json").read_text()) == result
    assert result["duplicates"]["exact"]["redundant_frames"] == 1
    assert result["outliers"]["energy_residual_per_atom"]["largest"][0]["id"] == store.ids[10]
    text = (tmp_path / "report/report.md").read_text()
    assert store.ids[10] in text
    assert "ASE's sign" in text
    with open(tmp_path / "report/frames.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert float(rows[3]["max_force"]) == np.linalg.norm(strained[3].get_forces(), axis=1).max()


def test_report_of_partly_labelled_frames_warns(store, tmp_path):
    result = data_report(store, tmp_path)
    assert "2 of 9 frames have no forces." in result["warnings"]
    assert result["tags"]["T"]["absent"] == 2


def test_report_of_joined_files_names_every_source(strained, tmp_path):
    joined = concatenate([from_ase(strained[:4], name="a"), from_ase(strained[4:], name="b")])
    result = data_report(concatenate([joined, from_ase(strained[:1], name="c")]), tmp_path)
    assert result["sources"] == ["a", "b", "c"]
    assert result["label_keys"]["energy"] == ["calculator:energy"]


def test_report_without_any_label(store, tmp_path):
    result = data_report(store.subset([8]), tmp_path)
    assert "No frame has an energy." in result["warnings"]
    assert {p.name for p in tmp_path.iterdir()} == {"report.md", "report.json", "frames.csv", "elements.png"}
