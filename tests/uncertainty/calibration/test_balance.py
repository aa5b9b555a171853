import numpy as np
import pytest

from atomml.uncertainty.calibration import balance
from atomml.uncertainty.calibration.balance import LARGEST_BALANCE
from tests.uncertainty.metrics.samples import rotated


@pytest.fixture(name="parts")
def _parts():
    """Noise and spread of the same size, that vary independently of each other, as covariances."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(2, 6000, 3, 3)) * np.exp(rng.normal(size=(2, 6000, 1, 1)))
    return shapes @ shapes.transpose(0, 1, 3, 2) + 0.05 * np.eye(3)


def drawn(covariance, seed=1):
    normal = np.random.default_rng(seed).normal(size=(*covariance.shape[:2], 1))
    return (np.linalg.cholesky(covariance) @ normal)[..., 0]


@pytest.mark.parametrize("gamma", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_factor_of_the_spread_is_found_whatever_the_common_factor(parts, gamma, alpha):
    noise, spread = parts
    error = drawn(alpha**2 * (noise + gamma**2 * spread))
    assert balance(error, noise, spread) == pytest.approx(gamma, rel=0.15)


def test_the_spread_is_never_made_smaller(parts):
    noise, spread = parts
    assert balance(drawn(noise), noise, spread) == 1.0


def test_without_a_spread_there_is_nothing_to_find(parts):
    assert balance(drawn(parts[0]), parts[0], np.zeros_like(parts[1])) == 1.0


def test_the_factor_is_bounded(parts):
    noise, spread = parts
    assert balance(drawn(spread), noise, 1e-12 * spread) == pytest.approx(LARGEST_BALANCE, rel=0.01)


def test_the_factor_does_not_depend_on_the_orientation(parts):
    noise, spread = parts
    error = drawn(noise + 9 * spread)
    turned, noise_turned = rotated(error, noise)
    _, spread_turned = rotated(error, spread)
    assert balance(turned, noise_turned, spread_turned) == pytest.approx(
        balance(error, noise, spread), rel=1e-4
    )
