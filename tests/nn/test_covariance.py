import numpy as np
import pytest
import torch
from e3nn import o3

from atomml.nn.covariance import (
    BOUND,
    bounded,
    cholesky_noise,
    exponential_noise,
    isotropic_noise,
    outer_noise,
    traceless_basis,
)


def draw(*shape, size=1.0, seed=0):
    return size * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KINDS = {
    "expm": lambda n, size: exponential_noise(
        bounded(draw(n, size=size)[:, None])[:, 0], bounded(draw(n, 5, size=size))
    ),
    "outer": lambda n, size: outer_noise(draw(n), draw(n, 3, 4, size=size)),
    "isotropic": lambda n, size: isotropic_noise(draw(n, size=size)),
    "cholesky": lambda n, size: cholesky_noise(draw(n), draw(n, 6, size=min(size, 2))),
}


@pytest.fixture(params=KINDS)
def noise(request):
    return KINDS[request.param](200, 3.0)


def test_basis_is_orthonormal_symmetric_and_traceless():
    q = traceless_basis()
    np.testing.assert_allclose(np.einsum("mij,nij->mn", q, q), np.eye(5), atol=1e-15)
    np.testing.assert_array_equal(q, q.transpose(0, 2, 1))
    np.testing.assert_allclose(np.trace(q, axis1=1, axis2=2), 0, atol=1e-15)


def test_basis_has_the_order_and_the_signs_of_the_second_degree_harmonics():
    """uᵀ Q_m u = √(2/15) Y_2m(u) for component-normalised Y."""
    u = torch.nn.functional.normalize(draw(50, 3), dim=1)
    y = o3.spherical_harmonics(2, u, normalize=True, normalization="component")
    form = torch.einsum("ni,mij,nj->nm", u, torch.tensor(traceless_basis()), u)
    torch.testing.assert_close(form, y * np.sqrt(2 / 15))


def test_bounded_keeps_directions_saturates_and_never_loses_its_derivative():
    x = draw(100, 5, size=100.0)
    y = bounded(x)
    assert (y.norm(dim=1) < BOUND).all()
    torch.testing.assert_close(y / y.norm(dim=1, keepdim=True), x / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(bounded(1e-4 * x / 100), 1e-4 * x / 100, rtol=1e-6, atol=0)
    far = torch.tensor([50.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bounded(far).sum(), far)
    assert slope > 9e-4  # a hyperbolic tangent has 8e-9 there


def test_covariance_is_symmetric_and_positive(noise):
    torch.testing.assert_close(noise.covariance, noise.covariance.transpose(1, 2), rtol=1e-12, atol=1e-12)
    assert (torch.linalg.eigvalsh(noise.covariance) > 0).all()


@pytest.mark.parametrize("kind", ["expm", "outer", "isotropic"])
def test_covariance_stays_positive_and_invertible_for_enormous_features(kind):
    n = KINDS[kind](200, 1e6) if kind == "expm" else KINDS[kind](200, 30.0)
    assert (torch.linalg.eigvalsh(n.covariance) > 0).all()
    identity = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    torch.testing.assert_close(n.covariance @ n.precision, identity, rtol=0, atol=1e-9)


def test_log_determinant_is_that_of_the_covariance(noise):
    sign, log_det = torch.linalg.slogdet(noise.covariance)
    assert (sign == 1).all()
    torch.testing.assert_close(noise.log_det, log_det, rtol=1e-10, atol=1e-9)


def test_precision_is_the_inverse(noise):
    identity = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    torch.testing.assert_close(noise.covariance @ noise.precision, identity, rtol=0, atol=1e-8)


def test_exponential_of_degenerate_tensors_is_exact_and_differentiable():
    """S = 0, two equal eigenvalues (an axis), and nearly equal ones."""
    axis = torch.zeros(3, 5, dtype=torch.float64)
    axis[1, 2] = 1.3
    axis[2] = axis[1] + 1e-9 * draw(5)
    s = torch.tensor([0.0, 0.4, 0.4], dtype=torch.float64)
    noise = exponential_noise(s, axis)
    torch.testing.assert_close(noise.covariance[0], torch.eye(3, dtype=torch.float64))
    along, across = 1.3 * 2 / np.sqrt(6), -1.3 / np.sqrt(6)
    expected = torch.tensor([across, along, across], dtype=torch.float64).add(0.4).exp().diag()
    torch.testing.assert_close(noise.covariance[1], expected)
    inputs = (s.requires_grad_(), axis.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: tuple(exponential_noise(a, b)), inputs)


def test_exponential_equals_that_of_the_eigenvalues():
    s, t = draw(20), draw(20, 5, size=1.5, seed=1)
    matrix = torch.einsum("nm,mij->nij", t, torch.tensor(traceless_basis()))
    values, vectors = torch.linalg.eigh(matrix + s[:, None, None] * torch.eye(3, dtype=torch.float64))
    expected = vectors @ torch.diag_embed(values.exp()) @ vectors.transpose(1, 2)
    torch.testing.assert_close(exponential_noise(s, t).covariance, expected)


def test_outer_products_add_to_the_isotropic_part():
    s, v = draw(6), draw(6, 3, 4, seed=1)
    expected = s.exp()[:, None, None] * (
        torch.eye(3, dtype=torch.float64) + torch.einsum("nik,njk->nij", v, v)
    )
    torch.testing.assert_close(outer_noise(s, v).covariance, expected)


@pytest.mark.parametrize(
    ("function", "shape"), [(outer_noise, (2, 3, 4)), (cholesky_noise, (2, 6))], ids=["outer", "cholesky"]
)
def test_derivatives_of_the_factorised_covariances_are_right(function, shape):
    inputs = (draw(2).requires_grad_(), draw(*shape, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: tuple(function(a, b)), inputs)


@pytest.mark.parametrize("kind", ["expm", "outer", "isotropic", "cholesky"])
def test_nan_stays_visible(kind):
    nan = torch.full((1,), torch.nan, dtype=torch.float64)
    extra = {
        "expm": lambda: exponential_noise(nan * 0 + 1, nan.expand(1, 5)),
        "outer": lambda: outer_noise(nan * 0 + 1, nan.expand(1, 3, 4)),
        "isotropic": lambda: isotropic_noise(nan),
        "cholesky": lambda: cholesky_noise(nan * 0 + 1, nan.expand(1, 6)),
    }
    noise = extra[kind]()
    assert noise.covariance.isnan().any()
