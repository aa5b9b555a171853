from __future__ import annotations

import numpy as np
import pytest
from ase import units

from atomml.errors import ConfigError, DataError
from atomml.simulate.properties import Measured, arrhenius
from atomml.simulate.properties.diffusion import nernst_einstein

KELVIN, EA, D0 = np.array([500.0, 600.0, 700.0, 900.0]), 0.30, 2e-3


def true_d(kelvin):
    return D0 * np.exp(-EA / (units.kB * kelvin))


def points(rng=None, error=0.1):
    d = true_d(KELVIN)
    noisy = d if rng is None else d * np.exp(error * rng.normal(size=len(d)))
    return [Measured(t, x, error * x) for t, x in zip(KELVIN.tolist(), noisy.tolist(), strict=True)]


def test_an_exact_line_gives_its_activation_energy_back():
    found = arrhenius(points(), extrapolate=[300.0])
    assert found.activation == pytest.approx(EA)
    assert np.exp(found.ln_d0) == pytest.approx(D0)
    assert found.extrapolated[0].d == pytest.approx(true_d(300.0))
    assert found.chi2_dof == pytest.approx(0, abs=1e-12)
    assert found.points[0].temperature == 500


def test_errors_cover_the_truth(rng):
    found = [arrhenius(points(rng), extrapolate=[300.0]) for _ in range(400)]
    pulls = np.array([(f.activation - EA) / f.activation_std for f in found])
    far = np.array([np.log(f.extrapolated[0].d / true_d(300.0)) / f.extrapolated[0].ln_d_std for f in found])
    for pull in (pulls, far):
        assert 0.66 < (np.abs(pull) < 1).mean() < 0.88  # above 0.68: errors grow with χ² and never shrink
        assert (np.abs(pull) < 2).mean() > 0.93


def test_points_off_the_line_raise_the_errors():
    good = points()
    bent = [p._replace(d=p.d * f) for p, f in zip(good, (1, 2, 1, 2), strict=True)]
    found, plain = arrhenius([p._replace(d_std=0.1 * p.d) for p in bent]), arrhenius(good)
    assert found.chi2_dof > 5
    assert found.activation_std > 2 * plain.activation_std


def test_a_point_with_a_large_error_counts_little():
    given = points()
    given[0] = given[0]._replace(d=given[0].d * 5, d_std=given[0].d * 50)
    assert arrhenius(given).activation == pytest.approx(EA, abs=0.03)


def test_conductivity_follows_where_ions_are_known():
    given = [p._replace(density=0.01, charge=1.0) for p in points()]
    (found,) = arrhenius(given, extrapolate=[300.0]).extrapolated
    assert found.conductivity == pytest.approx(nernst_einstein(found.d, 0.01, 1.0, 300.0))
    assert arrhenius(points(), extrapolate=[300.0]).extrapolated[0].conductivity is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "two temperatures"),
        (points()[:1], "two temperatures"),
        (points()[:1] * 2, "two temperatures"),
        ([*points(), Measured(None, 1e-6, 1e-7)], "no temperature"),
        ([*points(), Measured(400.0, -1e-7, 1e-7)], "no logarithm"),
        ([*points(), Measured(400.0, 1e-7, 0.0)], "no logarithm"),
    ],
)
def test_points_that_cannot_be_fitted_are_named(given, text):
    with pytest.raises(DataError, match=text):
        arrhenius(given)


def test_extrapolation_to_no_temperature_is_refused():
    with pytest.raises(ConfigError, match="positive"):
        arrhenius(points(), extrapolate=[0.0])
