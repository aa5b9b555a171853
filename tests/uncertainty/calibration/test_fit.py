import numpy as np
import pytest

from atomml.errors import ConfigError, DataError
from atomml.uncertainty.calibration import Residuals, fit_calibration, scaled_cov, scaled_std
from atomml.uncertainty.metrics import (
    ellipsoid_probability,
    gaussian_nll,
    squared_calibration_error,
    vector_nll,
)
from tests.uncertainty.metrics.samples import rotated, vectors

METHODS = ["nll", "crps", "robust", "affine"]


def structures(rng, b=200, *, energy=2.0, lithium=1.5, chlorine=4.0, stress=0.5, **change):
    """Residuals of b structures whose deviations lack these factors."""
    n_atoms = rng.integers(2, 9, size=b)
    numbers = rng.choice([3, 17], size=n_atoms.sum())
    energy_std = 0.01 * np.sqrt(n_atoms) * np.exp(0.3 * rng.normal(size=b))
    forces_error, forces_cov = vectors(rng, len(numbers))
    stress_std = 1e-3 * np.exp(0.3 * rng.normal(size=(b, 6)))
    arrays = {
        "n_atoms": n_atoms,
        "numbers": numbers,
        "energy_error": energy * energy_std * rng.normal(size=b),
        "energy_std": energy_std,
        "forces_error": forces_error * np.where(numbers == 3, lithium, chlorine)[:, None],
        "forces_cov": forces_cov,
        "stress_error": stress * stress_std * rng.normal(size=(b, 6)),
        "stress_std": stress_std,
    }
    return Residuals(**(arrays | change))


@pytest.mark.parametrize("by_element", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_deviations_of_other_structures_become_likelier(rng, method, by_element):
    calibration = fit_calibration(structures(rng), method=method, by_element=by_element)
    new = structures(rng)
    alpha, beta = calibration.energy_factors()
    std = scaled_std(new.energy_std, alpha, beta * np.sqrt(new.n_atoms))
    assert gaussian_nll(new.energy_error, std).mean() < gaussian_nll(new.energy_error, new.energy_std).mean()
    cov = scaled_cov(new.forces_cov, *calibration.force_factors(new.numbers))
    assert vector_nll(new.forces_error, cov).mean() < vector_nll(new.forces_error, new.forces_cov).mean()
    if by_element:
        assert squared_calibration_error(ellipsoid_probability(new.forces_error, cov)) < 3e-3
    std = scaled_std(new.stress_std.ravel(), *calibration.stress_factors())
    before = gaussian_nll(new.stress_error.ravel(), new.stress_std.ravel()).mean()
    assert gaussian_nll(new.stress_error.ravel(), std).mean() < before


def test_factors_are_found_for_each_quantity_and_element(rng):
    calibration = fit_calibration(structures(rng, 1000), by_element=True)
    assert np.isclose(calibration.energy_factors()[0], 2.0, rtol=0.08)
    assert np.isclose(calibration.stress_factors()[0], 0.5, rtol=0.08)
    alpha, beta = calibration.force_factors(np.array([17, 3, 8]))
    common = calibration.quantities["forces"].scale.alpha
    assert np.allclose(alpha, [4.0, 1.5, common], rtol=0.08)
    assert np.allclose(beta, 0)


def test_energy_floor_is_one_per_atom(rng):
    n_atoms = rng.integers(1, 50, size=5000)
    std = 0.01 * np.sqrt(n_atoms) * np.exp(rng.normal(size=5000))
    error = np.sqrt(std**2 + n_atoms * 0.02**2) * rng.normal(size=5000)
    residuals = Residuals(
        n_atoms=n_atoms, numbers=np.ones(n_atoms.sum(), dtype=int), energy_error=error, energy_std=std
    )
    alpha, beta = fit_calibration(residuals, method="affine").energy_factors()
    assert np.isclose(alpha, 1, rtol=0.06)
    assert np.isclose(beta, 0.02, rtol=0.06)


def test_measures_tell_before_from_after(rng):
    forces = fit_calibration(structures(rng, lithium=3.0, chlorine=3.0)).quantities["forces"]
    assert forces.before["ce"] > 0.1
    assert forces.after["ce"] < 1e-3
    assert np.isclose(forces.after["z_rms"], 1)
    assert forces.frames == 200
    energy = fit_calibration(structures(rng)).quantities["energy"]
    assert energy.count == 200
    assert np.isclose(energy.after["z_rms"], 1)
    assert "per_atom_nll" in energy.before


def test_intervals_on_top_of_the_scale_cover_others(rng):
    calibration = fit_calibration(structures(rng, 1000), by_element=True)
    new = structures(rng, 1000)
    forces = calibration.quantities["forces"]
    cov = scaled_cov(new.forces_cov, *calibration.force_factors(new.numbers))
    distance = np.sqrt(np.einsum("ni,nij,nj->n", new.forces_error, np.linalg.inv(cov), new.forces_error))
    for level in (0.5, 0.68, 0.9, 0.95):
        assert np.isclose(np.mean(distance <= forces.conformal[level]), level, atol=0.025)
        for z in (3, 17):
            mine = distance[new.numbers == z]
            assert np.isclose(np.mean(mine <= forces.conformal_by_element[z][level]), level, atol=0.035)


def test_calibration_does_not_change_under_rotation(rng):
    residuals = structures(rng)
    error, cov = rotated(residuals.forces_error, residuals.forces_cov)
    turned = Residuals(
        n_atoms=residuals.n_atoms, numbers=residuals.numbers, forces_error=error, forces_cov=cov
    )
    for method in METHODS:
        one, other = (fit_calibration(r, method=method).quantities["forces"] for r in (residuals, turned))
        assert np.isclose(one.scale.alpha, other.scale.alpha, rtol=1e-4)
        assert np.allclose(list(one.conformal.values()), list(other.conformal.values()), rtol=1e-4)


def test_missing_labels_are_counted_in_the_notes(rng):
    residuals = structures(rng)
    residuals.energy_error[:7] = np.nan
    residuals.forces_error[:3, 1] = np.nan
    calibration = fit_calibration(residuals)
    assert calibration.quantities["energy"].count == 193
    assert "energy: 7 without a usable label left out" in calibration.notes
    assert "forces: 3 without a usable label left out" in calibration.notes


def test_what_cannot_be_calibrated_is_named_and_keeps_its_deviations(rng):
    calibration = fit_calibration(structures(rng, stress_error=None, energy_std=None))
    assert set(calibration.quantities) == {"forces"}
    assert [note.split(":")[0] for note in calibration.notes] == ["energy", "stress"]
    assert calibration.energy_factors() == (1.0, 0.0)
    assert calibration.stress_factors() == (1.0, 0.0)


def test_few_structures_are_not_enough_however_many_atoms(rng):
    with pytest.raises(DataError, match="fewer than 20"):
        fit_calibration(structures(rng, 19))
    residuals = structures(rng, 40)
    residuals.stress_error[15:] = np.nan
    assert set(fit_calibration(residuals).quantities) == {"energy", "forces"}


def test_rare_elements_take_the_common_scale_and_are_named(rng):
    residuals = structures(rng)
    residuals.numbers[:30] = 8
    calibration = fit_calibration(residuals, by_element=True)
    assert set(calibration.quantities["forces"].by_element) == {3, 17}
    assert any("Z = 8 (30)" in note for note in calibration.notes)


def test_members_that_agree_need_the_affine_method(rng):
    residuals = structures(rng)
    residuals.forces_cov[:10] = 0.0
    with pytest.raises(DataError, match="affine"):
        fit_calibration(residuals)
    calibration = fit_calibration(residuals, method="affine")
    forces = calibration.quantities["forces"]
    assert forces.before == {}
    assert forces.after["count"] == len(residuals.numbers)
    assert any("no measures before" in note for note in calibration.notes)


@pytest.mark.parametrize("name", ["energy_std", "forces_cov", "stress_std"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("method", METHODS)
def test_unusable_deviations_are_refused(rng, name, value, method):
    residuals = structures(rng, 30)
    getattr(residuals, name)[3] = np.where(np.eye(3), value, 0.0) if name == "forces_cov" else value
    with pytest.raises(DataError):
        fit_calibration(residuals, method=method)


def test_infinite_errors_are_refused(rng):
    residuals = structures(rng, 30)
    residuals.energy_error[2] = np.inf
    with pytest.raises(DataError, match="infinite"):
        fit_calibration(residuals)


def test_empty_residuals_are_refused():
    with pytest.raises(DataError, match="Nothing can be calibrated"):
        fit_calibration(Residuals(n_atoms=np.zeros(0, dtype=int), numbers=np.zeros(0, dtype=int)))


def test_unknown_methods_are_refused(rng):
    with pytest.raises(ConfigError, match="nll, crps, robust, coverage, affine"):
        fit_calibration(structures(rng, 30), method="magic")
