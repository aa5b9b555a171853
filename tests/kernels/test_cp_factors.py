from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from atomml.errors import ModelFileError, UnsupportedError
from atomml.kernels import coupling
from atomml.kernels.coupling import group_tensors, wigner_d
from atomml.kernels.cp_factors import (
    CPFactors,
    balance,
    conditioning_of,
    factor_files,
    file_name,
    load_factors,
    load_group_factors,
    read_factors,
    reconstruct,
    save_factors,
)
from atomml.kernels.cp_fit import fit_coupling, fit_groups, main
from atomml.kernels.cp_solvers import fit_factors

coupling_tensor = functools.cache(coupling.coupling_tensor)
FILES = factor_files()
EXACT_RANK = {
    "cg_even": {1: 6, 2: 18, 3: 52, 4: 118},
    "so3": {1: 8, 2: 28, 3: 85, 4: 210},
    "gaunt": {1: 6, 2: 18, 3: 32, 4: 58},
}
PUBLISHED_ERROR = {1: 1.56e-2, 2: 1.66e-2, 3: 5.46e-2, 4: 5.29e-2}
CASES = [(lmax, kind) for kind in EXACT_RANK for lmax in (1, 2, 3, 4)]


def relative_error(factors) -> float:
    tensor = coupling_tensor(factors.lmax, factors.kind)
    return float(np.linalg.norm(reconstruct(factors) - tensor) / np.linalg.norm(tensor))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_shipped_file_has_the_error_and_the_name_it_states(path):
    factors = read_factors(path)
    assert relative_error(factors) == pytest.approx(factors.error, rel=1e-6, abs=1e-13)
    assert conditioning_of(factors.a, factors.b, factors.d) == pytest.approx(factors.conditioning, rel=1e-6)
    assert path.name in (file_name(factors), file_name(factors, published=True))
    if "7L2" not in path.stem:
        assert factors.conditioning < 10.0
        assert factors.error < (1e-9 if factors.lmax <= 2 else 1e-6) or factors.rank == 7 * factors.lmax**2


@pytest.mark.parametrize(("lmax", "kind"), CASES)
def test_exact_ranks_are_those_documented(lmax, kind):
    factors = load_factors(lmax, kind, "exact")
    assert factors.exact
    assert relative_error(factors) < (1e-9 if lmax <= 2 else 1e-6)
    assert factors.rank == EXACT_RANK[kind][lmax]
    assert factors.groups == (factors.rank,)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_published_rank_of_so3_has_the_published_error(lmax):
    factors = load_factors(lmax, "so3", "7L2")
    assert factors.rank == 7 * lmax**2
    assert relative_error(factors) == pytest.approx(PUBLISHED_ERROR[lmax], rel=0.1)
    assert not factors.exact


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["cg_even", "gaunt"])
def test_published_rank_of_other_kinds_is_never_wasted(lmax, kind):
    factors = load_factors(lmax, kind, "7L2")
    exact = load_factors(lmax, kind, "exact")
    assert factors.rank == min(7 * lmax**2, exact.rank)


@pytest.mark.parametrize(("lmax", "kind"), CASES)
def test_factorised_product_is_the_exact_product_in_both_precisions(lmax, kind):
    factors, tensor = load_factors(lmax, kind), coupling_tensor(lmax, kind)
    x, y = np.random.default_rng(0).normal(size=(2, 100, len(tensor)))
    exact = np.einsum("abk,na,nb->nk", tensor, x, y, optimize=True)
    for dtype, limit in ((np.float64, 1e-6), (np.float32, 1e-5)):
        a, b, d = (part.astype(dtype) for part in (factors.a, factors.b, factors.d))
        product = ((x.astype(dtype) @ a) * (y.astype(dtype) @ b)) @ d.T
        assert product.dtype == dtype
        assert np.linalg.norm(product - exact) < limit * np.linalg.norm(exact)


@pytest.mark.parametrize(("lmax", "kind"), CASES)
def test_exact_product_is_equivariant_to_rounding(lmax, kind):
    factors = load_factors(lmax, kind)
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation = q * np.linalg.det(q) if kind == "so3" else -q * np.linalg.det(q)
    d = wigner_d(lmax, rotation)
    x, y = rng.normal(size=(2, 50, len(d)))
    rotated = ((x @ d.T @ factors.a) * (y @ d.T @ factors.b)) @ factors.d.T
    expected = ((x @ factors.a) * (y @ factors.b)) @ factors.d.T @ d.T
    assert np.linalg.norm(rotated - expected) < (1e-9 if lmax <= 2 else 1e-6) * np.linalg.norm(expected)


@pytest.mark.parametrize("grouping", ["per_l2", "per_path"])
@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_every_path_group_is_exact_by_itself(lmax, grouping):
    factors = load_group_factors(lmax, "cg_even", grouping)
    _, tensors = group_tensors(lmax, "cg_even", grouping)
    assert len(factors.groups) == len(tensors)
    assert sum(factors.groups) == factors.rank == factors.a.shape[1]
    for group, tensor in enumerate(tensors):
        error = np.linalg.norm(reconstruct(factors, group) - tensor) / np.linalg.norm(tensor)
        assert error < 1e-9


def test_fused_grouping_is_the_exact_factorisation():
    np.testing.assert_array_equal(
        load_group_factors(2, "cg_even", "fused").a, load_factors(2, "cg_even", "exact").a
    )


def test_scalar_groups_have_the_smallest_ranks_possible():
    assert load_group_factors(1, "cg_even", "per_path").groups == (1, 3, 3, 3)
    assert load_group_factors(2, "cg_even", "per_l2").groups[0] == 9


@pytest.mark.parametrize(("kind", "rank", "triples"), [("cg_even", 6, 0), ("gaunt", 6, 0), ("so3", 8, 2)])
def test_refit_from_the_same_seed_gives_the_same_exact_factors(kind, rank, triples):
    first, second = (fit_coupling(1, kind, rank, triples=triples, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.a, second.a)
    assert first.error == second.error < 1e-12


def test_shipped_file_is_remade_from_its_seed():
    shipped = load_factors(1, "cg_even", "exact")
    again = fit_coupling(1, "cg_even", shipped.rank, seed=shipped.seed, restarts=1)
    np.testing.assert_allclose(again.a, shipped.a, atol=1e-8)


def test_rank_below_the_exact_one_is_reported_as_not_exact():
    factors = fit_coupling(1, "cg_even", 5, restarts=2)
    assert 0.1 < factors.error < 0.5
    assert not factors.exact


@pytest.mark.parametrize("method", ["free", "als"])
def test_unconstrained_methods_recover_a_known_low_rank_tensor(method):
    rng = np.random.default_rng(0)
    a, b, d = rng.normal(size=(3, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    fit = fit_factors(np.einsum("ar,br,kr->abk", a, b, d), 3, method=method, tolerance=1e-9)
    assert (fit.a.shape, fit.b.shape, fit.d.shape) == ((3, 3), (4, 3), (5, 3))
    assert fit.error < 1e-6


def test_groups_are_found_without_given_ranks():
    factors = fit_groups(1, "cg_even", "per_path")
    assert factors.groups == (1, 3, 3, 3)
    assert factors.error < 1e-9
    with pytest.raises(UnsupportedError, match="4 groups need 4 ranks"):
        fit_groups(1, "cg_even", "per_path", ranks=[1, 3])
    with pytest.raises(UnsupportedError, match="not exact at rank 2"):
        fit_groups(1, "cg_even", "per_path", ranks=[1, 2, 3, 3], restarts=2)


def test_impossible_ansatz_is_refused():
    tensor = coupling_tensor(1, "so3")
    for request in ({"method": "symmetric"}, {"method": "cyclic", "triples": 4}, {"triples": 1}):
        with pytest.raises(UnsupportedError):
            fit_factors(tensor, 8, **request)
    with pytest.raises(UnsupportedError, match="start"):
        fit_factors(tensor, 8, restarts=0)


def test_unknown_rank_names_the_shipped_ones_and_the_fit():
    with pytest.raises(UnsupportedError, match=r"ranks shipped: \[.*18.*\](.|\n)*cp_fit --lmax 2") as caught:
        load_factors(2, "cg_even", 13)
    assert "fit_factors" in str(caught.value)
    with pytest.raises(UnsupportedError, match="none"):
        load_factors(9, "cg_even")
    with pytest.raises(UnsupportedError, match="--grouping per_l2"):
        load_group_factors(9, "cg_even", "per_l2")


def test_columns_are_one_group_by_default():
    factors = load_factors(1, "cg_even")
    bare = CPFactors(1, "cg_even", 6, factors.a, factors.b, factors.d, factors.error)
    assert bare.groups == (6,)
    assert bare.grouping == "fused"


def test_balance_keeps_the_product_and_evens_the_norms():
    factors = load_factors(1, "cg_even")
    skewed = dataclasses.replace(factors, a=factors.a * 100.0, d=factors.d / 100.0)
    even = balance(skewed)
    np.testing.assert_allclose(reconstruct(even), reconstruct(factors), atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(even.a, axis=0), np.linalg.norm(even.d, axis=0), rtol=1e-12)


def test_file_round_trip_and_damage(tmp_path):
    factors = load_group_factors(1, "cg_even", "per_path")
    path = tmp_path / file_name(factors)
    save_factors(factors, path)
    again = read_factors(path)
    np.testing.assert_array_equal(again.b, factors.b)
    assert (again.groups, again.grouping, again.error) == (factors.groups, factors.grouping, factors.error)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelFileError, match="Cannot read"):
        read_factors(path)
    save_factors(dataclasses.replace(factors, groups=(1, 3, 3, 2)), path)
    with pytest.raises(ModelFileError, match="must be float64"):
        read_factors(path)


def test_command_line_writes_the_file_it_names(tmp_path, capsys):
    assert main(["--lmax", "1", "--kind", "cg_even", "--rank", "6", "--out", str(tmp_path)]) == 0
    assert "cg_even_l1_r6.safetensors: rank 6" in capsys.readouterr().out
    assert read_factors(tmp_path / "cg_even_l1_r6.safetensors").exact
    assert main(["--lmax", "1", "--kind", "cg_even"]) == 2
    assert "give --rank" in capsys.readouterr().err
