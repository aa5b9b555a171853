"""The table of accuracies of the von Mises flow."""

import numpy as np
import pytest
from scipy.integrate import quad

from atomml.crystals.circle import entropy
from atomml.crystals.schedule import accuracy_schedule
from atomml.errors import ConfigError

TEN = [1.47803, 1.58701, 2.62813, 5.38411, 11.4377, 24.5496, 52.9931, 114.701, 248.579, 539.033]
TEN_BELIEFS = [1.47803, 2.7025, 4.996, 10.1139, 21.3071, 45.6201, 98.3799, 212.85, 461.198, 1000]
TWENTY = [
    *[0.952009, 0.889646, 0.971746, 1.12951, 1.39936, 1.83553, 2.49348, 3.46048, 4.89795, 7.03184],
    *[10.184, 14.8316, 21.68, 31.7692, 46.631, 68.5223, 100.767, 148.262, 218.22, 321.262],
]


def test_ten_and_twenty_steps_have_their_known_accuracies():
    ten = accuracy_schedule(10, 1000.0)
    np.testing.assert_allclose(ten.accuracies, TEN, rtol=1e-5)
    np.testing.assert_allclose(ten.concentrations, TEN_BELIEFS, rtol=1e-5)
    np.testing.assert_allclose(accuracy_schedule(20, 1000.0).accuracies, TWENTY, rtol=1e-5)


def test_many_steps_have_their_known_accuracies():
    fifty = accuracy_schedule(50, 1000.0).accuracies
    np.testing.assert_allclose(
        fifty[[0, 1, 2, 3, -1]], [0.57352, 0.548423, 0.544893, 0.548405, 143.86], rtol=1e-5
    )
    thousand = accuracy_schedule(1000, 1000.0).accuracies
    np.testing.assert_allclose(thousand[[0, 500, -1]], [0.12464, 0.573, 8.225], rtol=1e-3)


@pytest.mark.parametrize(
    ("n", "total"),
    [
        (10, 1002.37),
        (20, 1007.19),
        (50, 1021.91),
        (100, 1045.15),
        (200, 1088.33),
        (500, 1204.38),
        (1000, 1375.0),
    ],
)
def test_accuracies_have_their_known_sum_and_weights_average_to_the_end(n, total):
    schedule = accuracy_schedule(n, 1000.0)
    assert schedule.accuracies.sum() == pytest.approx(total, abs=0.006)
    assert 996 <= schedule.weights.mean() <= 998


@pytest.mark.parametrize("beta1", [1e-3, 0.1, 3.0, 1000.0, 1e4, 1e9])
@pytest.mark.parametrize("n", [1, 2, 37])
def test_entropy_falls_linearly_to_the_last_concentration(n, beta1):
    schedule = accuracy_schedule(n, beta1)
    fall = entropy(0.0) - entropy(schedule.concentrations)
    np.testing.assert_allclose(fall, np.arange(1, n + 1) / n * fall[-1], rtol=1e-8, atol=1e-14)
    assert schedule.concentrations[-1] == beta1
    assert schedule.accuracies[0] == schedule.concentrations[0]
    assert (schedule.accuracies > 0).all()


@pytest.mark.parametrize("i", [1, 5, 9])
def test_a_sample_brings_a_belief_that_is_right_to_the_next_concentration(i):
    schedule = accuracy_schedule(10, 1000.0)
    c, alpha = schedule.concentrations[i - 1], schedule.accuracies[i]
    top = min(np.pi, 20 / np.sqrt(alpha))

    def density(phi):
        return np.exp(alpha * (np.cos(phi) - 1))

    length = quad(lambda phi: np.hypot(c + alpha * np.cos(phi), alpha * np.sin(phi)) * density(phi), 0, top)[
        0
    ]
    assert length / quad(density, 0, top)[0] == pytest.approx(schedule.concentrations[i], rel=1e-9)


def test_the_table_is_made_once_and_cannot_be_changed():
    assert accuracy_schedule(10, 1000.0) is accuracy_schedule(10, 1000.0)
    with pytest.raises(ValueError, match="read-only"):
        accuracy_schedule(10, 1000.0).accuracies[0] = 1


@pytest.mark.parametrize(("n", "beta1"), [(0, 1000.0), (10, 0.0), (10, -1.0), (10, float("nan")), (10, 1e12)])
def test_a_flow_that_cannot_be_is_refused(n, beta1):
    with pytest.raises(ConfigError):
        accuracy_schedule(n, beta1)
