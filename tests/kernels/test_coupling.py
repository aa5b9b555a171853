from __future__ import annotations

import numpy as np
import pytest
import torch
from e3nn import o3

from atomml.errors import UnsupportedError
from atomml.kernels.coupling import (
    coupling_paths,
    coupling_tensor,
    dimension,
    gaunt_square_constants,
    group_tensors,
    path_tensors,
    spherical_harmonics,
    wigner_d,
)

KINDS = ("cg_even", "so3", "gaunt")


def random_rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def transformed(tensor: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.einsum("abk,ai,bj,km->ijm", tensor, d, d, d, optimize=True)


@pytest.mark.parametrize("lmax", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_coupling_is_invariant_under_rotations(lmax, kind):
    tensor = coupling_tensor(lmax, kind)
    for seed in range(3):
        rotated = transformed(tensor, wigner_d(lmax, random_rotation(seed)))
        assert np.abs(rotated - tensor).max() < 1e-12 * max(1.0, np.linalg.norm(tensor))


@pytest.mark.parametrize("kind", ["cg_even", "gaunt"])
def test_parity_even_couplings_are_invariant_under_reflections(kind):
    tensor = coupling_tensor(3, kind)
    reflection = random_rotation(1) @ np.diag([1.0, 1.0, -1.0])
    assert np.abs(transformed(tensor, wigner_d(3, reflection)) - tensor).max() < 1e-12 * np.linalg.norm(
        tensor
    )


def test_so3_coupling_is_not_invariant_under_inversion():
    tensor = coupling_tensor(1, "so3")
    inverted = transformed(tensor, wigner_d(1, -np.eye(3)))
    assert np.abs(inverted - tensor).max() > 0.5


@pytest.mark.parametrize(
    ("lmax", "all_paths", "even_paths"), [(1, 5, 4), (2, 15, 11), (3, 34, 23), (4, 65, 42)]
)
def test_number_of_paths_is_the_squared_norm(lmax, all_paths, even_paths):
    for kind, count in (("so3", all_paths), ("cg_even", even_paths)):
        assert len(coupling_paths(lmax, kind)) == count
        assert np.sum(coupling_tensor(lmax, kind) ** 2) == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_sum_to_the_coupling_and_stay_in_their_blocks(kind):
    paths, tensors = path_tensors(3, kind)
    np.testing.assert_array_equal(tensors.sum(axis=0), coupling_tensor(3, kind))
    for path, tensor in zip(paths, tensors, strict=True):
        block = tensor[tuple(slice(degree**2, (degree + 1) ** 2) for degree in path)]
        assert np.sum(block**2) == pytest.approx(np.sum(tensor**2), rel=1e-14)
        assert np.any(block != 0.0)


@pytest.mark.parametrize("path", [(1, 1, 0), (1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_blocks_are_the_wigner_symbols_of_e3nn(path):
    paths, tensors = path_tensors(2, "so3")
    block = tensors[paths.index(path)][tuple(slice(degree**2, (degree + 1) ** 2) for degree in path)]
    np.testing.assert_array_equal(block, o3.wigner_3j(*path, dtype=torch.float64).numpy())


def test_first_degree_products_are_the_dot_and_the_cross_product():
    tensor = coupling_tensor(1, "so3")
    u, v = np.array([0.0, 1.0, 2.0, -0.5]), np.array([0.0, 0.3, -1.0, 0.7])
    out = np.einsum("abk,a,b->k", tensor, u, v)
    assert out[0] == pytest.approx(u[1:] @ v[1:] / np.sqrt(3.0))
    np.testing.assert_allclose(np.abs(out[1:]), np.abs(np.cross(u[1:], v[1:])) / np.sqrt(6.0), atol=1e-14)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_even_couplings_are_symmetric_and_so3_is_cyclic(lmax):
    for kind in ("cg_even", "gaunt"):
        tensor = coupling_tensor(lmax, kind)
        np.testing.assert_allclose(tensor, tensor.transpose(1, 0, 2), atol=1e-14)
        np.testing.assert_allclose(tensor, tensor.transpose(0, 2, 1), atol=1e-14)
    tensor = coupling_tensor(lmax, "so3")
    np.testing.assert_allclose(tensor, tensor.transpose(1, 2, 0), atol=1e-14)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_gaunt_square_of_the_harmonics_is_the_harmonics_times_a_constant_per_degree(lmax):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    y = spherical_harmonics(lmax, vectors)
    constants = np.repeat(gaunt_square_constants(lmax), [2 * degree + 1 for degree in range(lmax + 1)])
    product = np.einsum("abk,pa,pb->pk", coupling_tensor(lmax, "gaunt"), y, y)
    np.testing.assert_allclose(product, constants * y, rtol=1e-12, atol=1e-12)
    assert constants[0] == pytest.approx((lmax + 1) ** 2)


def test_gaunt_product_multiplies_functions_on_the_sphere():
    rng = np.random.default_rng(3)
    x, y = np.zeros(25), np.zeros(25)
    x[:9], y[:9] = rng.normal(size=9), rng.normal(size=9)
    points = rng.normal(size=(20, 3))
    harmonics = spherical_harmonics(4, points)
    product = np.einsum("abk,a,b->k", coupling_tensor(4, "gaunt"), x, y)
    np.testing.assert_allclose(harmonics @ product, (harmonics @ x) * (harmonics @ y), atol=1e-12)


def test_wigner_d_rotates_the_harmonics_as_e3nn_does():
    rotation = random_rotation(5)
    d = wigner_d(3, rotation)
    expected = o3.Irreps("0e + 1o + 2e + 3o").D_from_matrix(torch.from_numpy(rotation)).numpy()
    np.testing.assert_allclose(d, expected, atol=1e-6)
    np.testing.assert_allclose(d @ d.T, np.eye(16), atol=1e-13)
    np.testing.assert_allclose(d[1:4, 1:4], rotation, atol=1e-13)


@pytest.mark.parametrize(("grouping", "count"), [("fused", 1), ("per_l2", 3), ("per_path", 11)])
def test_groups_partition_the_paths(grouping, count):
    groups, tensors = group_tensors(2, "cg_even", grouping)
    assert len(groups) == len(tensors) == count
    assert sorted(path for group in groups for path in group) == coupling_paths(2, "cg_even")
    np.testing.assert_array_equal(tensors.sum(axis=0), coupling_tensor(2, "cg_even"))
    if grouping == "per_l2":
        assert all(path[1] == degree for degree, group in enumerate(groups) for path in group)


def test_negative_lmax_is_refused():
    with pytest.raises(UnsupportedError, match="lmax"):
        dimension(-1)
