import numpy as np
import pytest

from atomml.errors import DataError
from atomml.uncertainty.metrics import (
    auroc,
    energy_measures,
    force_measures,
    ood_measures,
    scalar_measures,
    stress_measures,
)
from tests.uncertainty.metrics.samples import rotated, scalars, vectors

COMMON = {
    "count", "rmse", "sharpness", "dispersion", "ence", "spearman", "slope", "aurc", "ause", "z_rms", "nll",
    "ce", "ace", "rmsce", "miscalibration_area", "coverage_68", "coverage_95",
}  # fmt: skip
SCALAR = COMMON | {"mae", "crps", "interval_score_95", "rll"}
FORCE = COMMON | {"energy_score", "component_mae", "component_nll", "component_crps", "component_ce"}


def test_names_are_stable(rng):
    error, std = scalars(rng, 60)
    assert set(scalar_measures(error, std)) == SCALAR
    assert set(stress_measures(error.reshape(10, 6), std.reshape(10, 6))) == SCALAR
    assert set(force_measures(*vectors(rng, 60))) == FORCE
    per_atom = {"rmse", "mae", "nll", "crps", "sharpness", "spearman", "rll"}
    assert {f"per_atom_{x}" for x in per_atom} <= set(energy_measures(error, std, np.full(60, 7)))


def test_right_deviations_are_called_right(rng):
    scalar, vector = scalar_measures(*scalars(rng)), force_measures(*vectors(rng))
    for m in (scalar, vector):
        assert m["count"] == 4000
        assert np.isclose(m["z_rms"], 1, atol=0.05)
        assert m["ce"] < 5e-4
        assert np.isclose(m["coverage_95"], 0.95, atol=0.015)
        assert np.isclose(m["rmse"], m["sharpness"], rtol=0.15)
        assert np.isclose(m["slope"], 1, atol=0.1)
    assert vector["component_ce"] < 5e-4


def test_overconfidence_is_measured_by_its_factor(rng):
    m = force_measures(*vectors(rng, factor=3.0))
    assert np.isclose(m["z_rms"], 3.0, rtol=0.05)
    assert m["ce"] > 0.1
    assert m["coverage_95"] < 0.6


def test_force_measures_do_not_change_under_rotation(rng):
    error, cov = vectors(rng, 500)
    one, other = force_measures(error, cov), force_measures(*rotated(error, cov))
    for name in FORCE:
        if not name.startswith("component_"):
            assert np.isclose(one[name], other[name], rtol=1e-6, atol=1e-9), name


def test_energies_per_atom_are_totals_over_atoms(rng):
    error, std = scalars(rng, 200)
    n_atoms = rng.integers(1, 60, size=200)
    m, per_atom = energy_measures(error, std, n_atoms), scalar_measures(error / n_atoms, std / n_atoms)
    assert m["per_atom_rmse"] == per_atom["rmse"]
    assert np.isclose(m["ce"], per_atom["ce"])
    assert np.isclose(m["z_rms"], per_atom["z_rms"])


def test_detection_is_reported(rng):
    known, unusual = rng.normal(size=50), rng.normal(2, 1, size=40)
    m = ood_measures(known, unusual)
    assert m["auroc"] == auroc(known, unusual)
    assert set(m) == {"auroc", "fpr_95", "aupr"}


def test_constant_deviations_are_measured(rng):
    m = scalar_measures(rng.normal(size=200), np.ones(200))
    assert {name for name, x in m.items() if np.isnan(x)} == {"spearman", "slope"}


def test_one_value_is_refused():
    with pytest.raises(DataError, match="One value"):
        scalar_measures(np.ones(1), np.ones(1))
    with pytest.raises(DataError, match="One value"):
        force_measures(np.ones((1, 3)), np.eye(3)[None])


@pytest.mark.parametrize("std", [0.0, -1.0, np.nan])
def test_unusable_deviations_are_refused(std):
    with pytest.raises(DataError, match="std"):
        stress_measures(np.ones((3, 6)), np.where(np.arange(18).reshape(3, 6) == 7, std, 1.0))
