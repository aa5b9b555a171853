import json

import numpy as np
import pytest

from atomml.errors import ModelFileError
from atomml.uncertainty.calibration import Calibration, Residuals, fit_calibration
from tests.uncertainty.calibration.test_fit import structures


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(0)
    return fit_calibration(
        structures(rng), method="affine", by_element=True, data={"name": "LiCl", "rows": 200}
    )


def test_dictionary_is_json_and_gives_the_same_calibration(calibration):
    text = json.dumps(calibration.to_dict(), allow_nan=False, sort_keys=True)
    again = Calibration.from_dict(json.loads(text))
    assert again == calibration
    assert again.id == calibration.id
    assert again.to_dict() == calibration.to_dict()
    numbers = np.array([17, 3, 8])
    assert np.array_equal(again.force_factors(numbers), calibration.force_factors(numbers))


def test_undefined_measures_survive():
    rng = np.random.default_rng(0)
    one = np.ones(20, dtype=int)
    fitted = fit_calibration(
        Residuals(n_atoms=one, numbers=one, energy_error=rng.normal(size=20), energy_std=np.ones(20))
    )
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert np.isnan(again.quantities["energy"].before["spearman"])
    assert again.id == fitted.id


def test_identity_follows_the_content(calibration):
    rng = np.random.default_rng(0)
    same = fit_calibration(
        structures(rng), method="affine", by_element=True, data={"name": "LiCl", "rows": 200}
    )
    other = fit_calibration(structures(rng), method="nll")
    assert same.id == calibration.id
    assert other.id != calibration.id
    assert len(calibration.id) == 16


def test_a_calibration_cannot_be_changed(calibration):
    with pytest.raises(ValueError, match="frozen"):
        calibration.method = "nll"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["method"], "magic", "method"),
        (["method"], ..., "method"),
        (["surprise"], 1, "unknown key"),
        (["quantities", "energy", "scale", "alpha"], -1.0, "alpha"),
        (["quantities", "energy", "scale", "alpha"], None, "alpha"),
        (["quantities", "energy", "scale", "beta"], "much", "beta"),
        (["quantities", "energy", "count"], 0, "count"),
        (["quantities", "forces", "by_element", "400"], {"alpha": 1.0}, "by_element"),
        (["quantities", "forces", "isotonic", "observed"], [0.0, 1.0], "isotonic"),
        (["quantities", "forces", "conformal", "1.5"], 1.0, "conformal"),
        (["quantities", "charge"], {}, "quantities"),
        (["quantities", "energy", "scale", "alpha"], 1.01, "not the one that was fitted"),
        (["id"], "0123456789abcdef", "not the one that was fitted"),
        (["id"], ..., "not the one that was fitted"),
    ],
)
def test_nonsense_in_a_file_is_refused(calibration, path, value, says):
    data = json.loads(json.dumps(calibration.to_dict()))
    target = data
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    with pytest.raises(ModelFileError, match=says) as caught:
        Calibration.from_dict(data, where="model.safetensors")
    assert caught.value.where == "model.safetensors"
    assert "calibrate" in str(caught.value)
