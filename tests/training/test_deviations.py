"""Deviations held against errors: residuals, measures, files, other structures, and calibration in Python."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from typing import get_args

import numpy as np
import pytest

from atomml.errors import ConfigError, DataError
from atomml.training import report
from atomml.training.deviation_measures import (
    deviation_measures,
    largest_force_deviation,
    residuals_of,
    tell_apart,
)
from atomml.training.deviations import calibrated, uncalibrated
from atomml.training.deviations_report import (
    OutsideSet,
    deviation_figures,
    deviation_warnings,
    deviations_table,
    measure_columns,
)
from atomml.training.evaluation import evaluate
from atomml.training.report import evaluation_json, metrics_table, write_evaluation
from atomml.uncertainty.calibration.scale import Method
from atomml.uncertainty.metrics import force_measures
from tests.training.uncertain import ensemble, potential, scattered, structures

QUANTITIES = ("energy", "forces", "stress")


@pytest.fixture(scope="module")
def store():
    """Labels as far from the predictions as the deviations say."""
    return scattered(ensemble(), structures())


@pytest.fixture(scope="module")
def wide():
    """Labels three times as far off."""
    return scattered(ensemble(), structures(), 3.0)


@pytest.fixture(scope="module")
def many():
    return scattered(ensemble(), structures(200, seed=3), 3.0)


@pytest.fixture(scope="module")
def evaluation(store):
    return evaluate(ensemble(), store)


def without(store, *names, rows=slice(None)):
    """A copy of the store without some labels of the frames (or atoms) ``rows``."""
    columns = {name: np.array(getattr(store, name)) for name in names}
    for column in columns.values():
        column[rows] = np.nan
    return dataclasses.replace(store, **columns)


def test_deviations_stand_beside_predictions_atom_by_atom(store, evaluation):
    e = evaluation
    predictions = ensemble().predict([store[i] for i in range(len(store))])
    np.testing.assert_allclose(e.energy_std, [p.energy_std for p in predictions], rtol=1e-9)
    np.testing.assert_allclose(e.forces_cov, np.concatenate([p.forces_cov for p in predictions]), atol=1e-15)
    np.testing.assert_allclose(e.stress_std[:, 1, 2], [p.stress_std[3] for p in predictions], rtol=1e-9)
    np.testing.assert_allclose(e.energy_std**2, e.energy_std_epistemic**2 + e.energy_std_aleatoric**2)
    assert e.energy_std_aleatoric.max() == 0.0
    assert e.calibration is None


def test_right_deviations_are_found_right(evaluation):
    for name, m in evaluation.deviations.items():
        assert m["z_rms"] == pytest.approx(1.0, abs=0.2), name
        assert m["coverage_68"] == pytest.approx(0.68, abs=0.15), name
        assert m["coverage_95"] == pytest.approx(0.95, abs=0.06), name
    assert tuple(evaluation.deviations) == QUANTITIES
    warnings = deviation_warnings("valid", evaluation)
    assert not any("deviations are too" in line for line in warnings)
    assert any("atomml calibrate" in line for line in warnings)


def test_a_factor_of_three_is_found_and_warned_of(wide):
    e = evaluate(ensemble(), wide)
    for m in e.deviations.values():
        assert m["z_rms"] == pytest.approx(3.0, rel=0.2)
    warnings = deviation_warnings("valid", e)
    assert sum("deviations are too small" in line for line in warnings) == 3


def test_measures_by_element_belong_to_the_atoms_of_the_element(evaluation):
    m = evaluation.deviations["forces"]
    kept = residuals_of(evaluation.arrays()).residuals.labelled("forces").groups
    shares = {"Cu": np.mean(kept == 29), "Au": np.mean(kept == 79)}
    mean = sum(shares[s] * evaluation.elements[s]["coverage_68"] for s in shares)
    assert mean == pytest.approx(m["coverage_68"])
    square = sum(shares[s] * evaluation.elements[s]["forces_std"] ** 2 for s in shares)
    assert math.sqrt(square) == pytest.approx(m["sharpness"])


def test_a_potential_without_deviations_is_evaluated_as_before(store):
    e = evaluate(potential(), store)
    assert e.energy_std is None
    assert e.forces_cov is None
    assert e.deviations == {}
    assert deviation_warnings("x", e) == []
    assert "deviations" not in evaluation_json(e)
    assert set(e.elements["Cu"]) == {"atoms", "forces_mae", "forces_rmse"}


def test_frames_with_energies_only(store):
    e = evaluate(ensemble(), without(store, "forces", "stress"))
    assert tuple(e.deviations) == ("energy",)
    assert np.isnan(e.forces_cov).all()
    assert np.isfinite(e.energy_std).all()


def test_labels_that_are_absent_do_not_count(store):
    holes = without(without(store, "energy", rows=slice(0, 10)), "forces", rows=slice(3, 50))
    e = evaluate(ensemble(), holes)
    assert e.deviations["energy"]["count"] == 50
    assert e.deviations["stress"]["count"] == 6 * 60
    part = residuals_of(e.arrays()).residuals.labelled("forces")
    assert part.missing >= 47


def test_a_prediction_that_is_not_finite_is_noted_not_dropped(evaluation):
    energy = evaluation.energy.copy()
    energy[3] = np.nan
    measured = deviation_measures(evaluation.arrays() | {"energy": energy})
    assert measured.measures == {}
    assert "not finite" in measured.notes[0]


def test_a_molecule_has_no_stress_to_measure(store):
    pbc = np.array(store.pbc)
    pbc[:30] = False
    e = evaluate(ensemble(), dataclasses.replace(store, pbc=pbc))
    assert e.deviations["stress"]["count"] == 6 * 30
    assert np.isnan(e.stress_std[:30]).all()


def test_what_symmetry_forbids_is_left_out_and_counted(evaluation):
    """Cells of one atom: no force, no deviation; a label with a little noise would be an error of 1e16 σ."""
    lone = np.repeat(evaluation.n_atoms == 1, evaluation.n_atoms)
    noisy = evaluation.forces_label + 1e-5 * lone[:, None]
    measured = deviation_measures(evaluation.arrays() | {"forces_label": noisy})
    assert measured.notes == (f"forces: {lone.sum()} left out that vanish by symmetry",)
    assert measured.measures["forces"]["count"] == len(lone) - lone.sum()
    assert measured.measures["forces"]["z_rms"] == pytest.approx(1.0, abs=0.2)


def test_a_deviation_of_what_symmetry_forbids_is_left_out_too(evaluation):
    lone = np.repeat(evaluation.n_atoms == 1, evaluation.n_atoms)
    usual = deviation_measures(evaluation.arrays())
    predicted = evaluation.forces_cov + 1e-3 * lone[:, None, None] * np.eye(3)
    assert deviation_measures(evaluation.arrays() | {"forces_cov": predicted}) == usual


def test_an_error_without_a_deviation_is_not_hidden(evaluation):
    cov = evaluation.forces_cov.copy()
    last = np.flatnonzero(np.repeat(evaluation.n_atoms == 4, evaluation.n_atoms))[-1]
    cov[last] = 0.0
    notes = deviation_measures(evaluation.arrays() | {"forces_cov": cov}).notes
    assert "forces: 1 values have errors where the predicted deviation is zero" in notes
    assert any(note.startswith("forces: no measures") for note in notes)


def test_the_largest_force_deviation_of_each_frame():
    cov = np.eye(3) * np.array([1.0, 4.0, 9.0])[:, None, None]
    assert largest_force_deviation(cov, np.array([2, 1])).tolist() == [2.0, 3.0]


def test_deviations_tell_compressed_structures():
    usual, dense = (
        evaluate(ensemble(), scattered(ensemble(), [a for a in frames if len(a) == 4]))
        for frames in (structures(), structures(seed=5, lattice=2.6))
    )
    found = tell_apart(usual.arrays(), dense.arrays())
    assert set(found) == {"energy_std_per_atom", "forces_std_max"}
    assert min(m["auroc"] for m in found.values()) > 0.95
    same = tell_apart(usual.arrays(), usual.arrays())
    assert same["forces_std_max"]["auroc"] == pytest.approx(0.5)


def test_frames_without_labels_have_deviations_all_the_same(store):
    bare = without(store, *QUANTITIES)
    with pytest.raises(DataError, match="nothing to compare"):
        evaluate(ensemble(), bare)
    e = evaluate(ensemble(), bare, unlabelled=True)
    assert e.metrics == {}
    assert e.deviations == {}
    assert np.isfinite(e.forces_cov).all()


@pytest.mark.parametrize("method", get_args(Method))
def test_calibration_makes_coverages_right(many, method):
    model = calibrated(ensemble(), many, method=method)
    fresh = scattered(ensemble(), structures(100, seed=7), 3.0, seed=8)
    for name, m in evaluate(model, fresh).deviations.items():
        assert m["coverage_68"] == pytest.approx(0.68, abs=0.1), name
        assert m["coverage_95"] == pytest.approx(0.95, abs=0.05), name
    assert model.calibration.quantities["energy"].scale.alpha == pytest.approx(3.0, rel=0.25)


def test_what_is_predicted_is_what_was_measured_after_the_fit(wide):
    """The potential applies α and β as the fit did: for energies of any size, forces and shear stresses."""
    model = calibrated(ensemble(), wide, method="affine")
    result = evaluate(model, wide)
    found = dict(result.deviations)
    # forces that vanish by symmetry are left out of the fit, but have a deviation, β, afterwards
    kept = np.isfinite(residuals_of(evaluate(ensemble(), wide).arrays()).residuals.forces_error).all(1)
    error = (result.forces_label - result.forces)[kept]
    found["forces"] = force_measures(error, result.forces_cov[kept])
    for name, fitted in model.calibration.quantities.items():
        assert fitted.after["nll"] == pytest.approx(found[name]["nll"], abs=1e-6), name
        assert fitted.after["coverage_68"] == pytest.approx(found[name]["coverage_68"]), name


def test_a_second_calibration_replaces_the_first(wide):
    once = calibrated(ensemble(), wide)
    twice = calibrated(once, wide)
    assert once.calibration_id == twice.calibration_id
    assert uncalibrated(twice).calibration_id is None
    assert ensemble().calibration_id is None


def test_what_a_calibration_records(wide):
    model = calibrated(ensemble(), wide, range(40), data={"source": ["x.extxyz"]})
    record = model.calibration.data
    assert record["frames"] == 40
    assert record["fingerprint"] == wide.subset(range(40)).fingerprint()
    assert record["source"] == ["x.extxyz"]
    assert record["exact"] is False
    assert record["left_out"] == ["forces: 10 left out that vanish by symmetry"]


def test_one_scale_for_each_element(many):
    scales = calibrated(ensemble(), many, by_element=True).calibration.quantities["forces"].by_element
    assert scales.keys() == {29, 79}
    assert scales[29].alpha == pytest.approx(3.0, rel=0.1)


def test_calibration_needs_frames_and_a_known_method(wide):
    with pytest.raises(DataError, match="fewer than 20"):
        calibrated(ensemble(), wide, range(5))
    with pytest.raises(ConfigError, match="nosuch"):
        calibrated(ensemble(), wide, method="nosuch")


def test_only_energies_are_calibrated_where_only_energies_are_known(wide):
    model = calibrated(ensemble(), without(wide, "forces", "stress"))
    assert set(model.calibration.quantities) == {"energy"}
    assert len(model.calibration.notes) == 2


def test_columns_of_the_table(evaluation):
    columns = measure_columns(evaluation.deviations)
    assert list(columns) == [
        "energy (eV)",
        "per atom (eV)",
        "forces (eV/Å)",
        "components (eV/Å)",
        "stress (eV/Å³)",
    ]
    energy, per_atom = columns["energy (eV)"], columns["per atom (eV)"]
    assert per_atom["coverage_68"] == energy["coverage_68"]
    assert per_atom["crps"] < energy["crps"]
    assert len(deviations_table({"valid": evaluation}).rows) == 4
    assert len(metrics_table({"valid": evaluation}).rows) == 4


def test_the_report_has_tables_figures_and_arrays(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save_figure", lambda figure, path: path.touch())  # drawing takes seconds
    strange = evaluate(ensemble(), scattered(ensemble(), structures(20, seed=5, lattice=3.3), 5.0))
    outside = OutsideSet(strange, tell_apart(evaluation.arrays(), strange.arrays()))
    numbers = write_evaluation(evaluation, tmp_path, outside=outside)
    ends = {"parity", "reliability"} | {
        f"{q}_{k}" for q in QUANTITIES for k in ("deviations", "sparsification")
    }
    images = {f"evaluation{o}_{end}.png" for o in ("", "_ood") for end in ends}
    assert {p.name for p in tmp_path.glob("*.png")} == images
    text = (tmp_path / "evaluation.md").read_text()
    assert all(image in text for image in images)
    assert "| coverage of 68 % |" in text
    assert text.count("Deviations (calibration: none)") == 2
    assert "| largest σ of a force |" in text
    assert json.loads((tmp_path / "evaluation.json").read_text()) == numbers
    assert numbers["ood"]["detection"] == outside.detection
    with (tmp_path / "evaluation_frames.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["energy_std_eV"]) == evaluation.energy_std[0]
    arrays = np.load(tmp_path / "evaluation.npz")
    assert arrays["forces_cov"].shape == (165, 3, 3)
    assert arrays["stress_std"].shape == (60, 3, 3)
    assert (tmp_path / "evaluation_ood.npz").is_file()


def test_structures_without_labels_have_no_figures(store, tmp_path):
    bare = evaluate(ensemble(), without(store, *QUANTITIES), unlabelled=True)
    assert deviation_figures(bare) == {}
    write_evaluation(bare, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_undefined_measures_are_null_in_json(evaluation):
    broken = dataclasses.replace(evaluation, deviations={"energy": {"spearman": math.nan, "ce": 0.1}})
    assert evaluation_json(broken)["deviations"] == {"energy": {"spearman": None, "ce": 0.1}}
