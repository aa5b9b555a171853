"""Angles and the von Mises distribution."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, vonmises

from atomml.crystals.circle import (
    angle_of,
    bessel_ratio,
    entropy,
    fractional_of,
    mean_length,
    von_mises,
    von_mises_kl,
    wrap,
)

DTYPES = [torch.float32, torch.float64]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def edge_cases(dtype):
    pi = torch.tensor(math.pi, dtype=dtype)
    near = [pi, torch.nextafter(pi, 4 * pi), torch.nextafter(pi, 0 * pi), 0 * pi + 1e-30]
    positive = torch.stack([x + 2 * math.pi * k for x in near for k in (0, 1, 7)])
    return torch.cat([positive, -positive, torch.randn(1000, generator=generator(), dtype=dtype) * 30])


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrapped_angles_are_the_same_angles_in_the_half_open_interval(dtype):
    x = edge_cases(dtype)
    wrapped = wrap(x)
    assert wrapped.dtype == dtype
    assert (wrapped >= -torch.tensor(math.pi, dtype=dtype)).all()
    assert (wrapped < torch.tensor(math.pi, dtype=dtype)).all()
    turns = (x - wrapped) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round(), atol=100 * torch.finfo(dtype).eps, rtol=0)
    assert wrap(torch.tensor(math.pi, dtype=dtype)).item() == pytest.approx(-math.pi)


def test_wrapping_has_derivative_one():
    x = torch.tensor([-7.0, -1.0, 0.0, 3.0, 40.0], requires_grad=True)
    wrap(x).sum().backward()
    assert (x.grad == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fractional_coordinates_return_from_the_circle(dtype):
    fractional = torch.rand(1000, generator=generator(), dtype=dtype)
    angle = angle_of(fractional + torch.arange(1000) % 3 - 1)
    torch.testing.assert_close(fractional_of(angle), fractional, atol=8 * torch.finfo(dtype).eps, rtol=0)
    back = fractional_of(edge_cases(dtype))
    assert (back >= 0).all()
    assert (back < 1).all()
    assert fractional_of(torch.tensor([-math.pi, 0.0], dtype=dtype)).tolist() == pytest.approx(
        [0, 0.5], abs=1e-7
    )


@pytest.mark.parametrize(
    ("kappa", "value"),
    [
        (0, 1.837877066),
        (0.1, 1.835381745),
        (1, 1.627401459),
        (10, 0.294850890),
        (100, -0.881127544),
        (1000, -2.034688919),
        (10000, -3.186206651),
    ],
)
def test_entropy_has_its_known_values(kappa, value):
    assert float(entropy(float(kappa))) == pytest.approx(value, abs=1e-9)
    if 0 < kappa <= 1000:
        assert float(entropy(float(kappa))) == pytest.approx(vonmises(kappa).entropy(), abs=1e-9)


def test_mean_length_has_its_known_values_for_arrays_and_tensors():
    kappa = np.array([0.0, 1.0, 10.0, 1000.0])
    expected = [0.0, 0.446389966, 0.948599826, 0.999499875]
    np.testing.assert_allclose(bessel_ratio(kappa), expected, atol=1e-9)
    np.testing.assert_allclose(mean_length(torch.tensor(kappa)), bessel_ratio(kappa), rtol=1e-14)
    np.testing.assert_allclose(mean_length(torch.tensor(kappa).float()), bessel_ratio(kappa), rtol=1e-6)


@pytest.mark.parametrize("kappa", [0.0, 0.3, 5.0, 200.0])
@pytest.mark.parametrize("distance", [0.0, 0.4, -2.5])
def test_the_divergence_is_its_integral(kappa, distance):
    x = np.linspace(-np.pi, np.pi, 20001)[:-1]
    p = np.exp(kappa * (np.cos(x) - 1))
    p /= p.sum()
    integral = (p * kappa * (np.cos(x) - np.cos(x + distance))).sum()
    value = von_mises_kl(
        torch.tensor(kappa, dtype=torch.float64), torch.tensor(distance, dtype=torch.float64)
    )
    assert value.item() == pytest.approx(integral, abs=1e-10)


@pytest.mark.parametrize("kappa", [0.0, 1e-6, 0.05, 1.0, 30.0, 1e4])
def test_samples_follow_the_von_mises_distribution(kappa):
    mean = torch.full((20000,), 2.5, dtype=torch.float64)
    y = von_mises(mean, torch.tensor(kappa), generator=generator())
    offset = wrap(y - 2.5).numpy()
    law = vonmises(kappa).cdf if kappa > 1e-3 else lambda x: (x + np.pi) / (2 * np.pi)
    assert kstest(offset, law).pvalue > 0.01
    assert np.cos(offset).mean() == pytest.approx(
        float(bessel_ratio(kappa)), abs=4 / np.sqrt(20000) / (1 + kappa)
    )
    assert (y >= -np.pi).all()
    assert (y < np.pi).all()


def test_every_sample_has_its_own_mean_and_concentration():
    mean = torch.tensor([[0.0], [3.0]]).expand(2, 5000)
    concentration = torch.tensor([[1.0], [100.0]])
    y = von_mises(mean, concentration, generator=generator())
    assert y.dtype == torch.float32
    length = torch.cos(y - mean).mean(1)
    np.testing.assert_allclose(length, bessel_ratio(np.array([1.0, 100.0])), atol=0.02)
    assert von_mises(torch.zeros(0, 3), torch.tensor(1.0), generator=generator()).shape == (0, 3)


def test_samples_are_those_of_the_generator():
    mean, concentration = torch.zeros(100), torch.tensor(2.0)
    first, again, other = (von_mises(mean, concentration, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
