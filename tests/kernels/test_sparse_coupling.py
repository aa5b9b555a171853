from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from atomml.errors import UnsupportedError
from atomml.kernels.coupling import coupling_paths, path_tensors
from atomml.kernels.sparse_coupling import SparseCoupling, sparse_coupling

KINDS = ["cg_even", "so3", "gaunt"]


def dense(coupling):
    out = np.zeros((len(coupling.paths), coupling.dim_x, coupling.dim_y, coupling.dim_out))
    a, b, k, path = coupling.entries.T
    out[path, a, b, k] = coupling.values
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
def test_table_holds_every_number_of_the_path_tensors(kind, lmax):
    paths, tensors = path_tensors(lmax, kind)
    coupling = sparse_coupling(lmax, kind)
    assert list(coupling.paths) == paths
    np.testing.assert_allclose(dense(coupling), tensors, rtol=0, atol=1e-12)
    assert (np.abs(coupling.values) > 0.01).all(), "rounding noise is no entry"


@pytest.mark.parametrize(("lmax", "kind", "nnz"), [(1, "cg_even", 10), (2, "cg_even", 83), (1, "so3", 16)])
def test_number_of_entries(lmax, kind, nnz):
    assert len(sparse_coupling(lmax, kind).values) == nnz


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limits", [(0, 3, 2), (2, 3, 1), (2, 1, 3), (1, 0, 1), (3, 2, 0)])
def test_each_operand_has_a_highest_degree_of_its_own(kind, limits):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    all_paths = coupling_paths(max(limits), kind)
    allowed = [p for p in all_paths if all(degree <= limit for degree, limit in zip(p, limits, strict=True))]
    assert list(coupling.paths) == allowed == sorted(allowed)
    assert (coupling.dim_x, coupling.dim_y, coupling.dim_out) == tuple((limit + 1) ** 2 for limit in limits)
    full = dense(sparse_coupling(max(limits), kind))[[all_paths.index(p) for p in allowed]]
    x, y, out = coupling.dim_x, coupling.dim_y, coupling.dim_out
    np.testing.assert_allclose(dense(coupling), full[:, :x, :y, :out], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_sorted_by_path_output_feature_and_harmonic(kind):
    a, b, k, path = sparse_coupling(3, kind).entries.T
    assert (np.lexsort((b, a, k, path)) == np.arange(len(a))).all()


def test_tensors_share_the_memory_of_the_table():
    coupling = sparse_coupling(2, "cg_even")
    entries, values = coupling.tensors
    assert (entries.dtype, values.dtype) == (torch.int32, torch.float64)
    assert entries.data_ptr() == coupling.entries.ctypes.data
    assert values.data_ptr() == coupling.values.ctypes.data


@pytest.fixture
def unchecked_types():
    """As for users: the type checks of the test suite would be first to complain."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
def test_unknown_kinds_and_negative_degrees_are_refused():
    with pytest.raises(UnsupportedError, match="Unknown kind"):
        sparse_coupling(1, "magic")
    with pytest.raises(UnsupportedError, match="must not be negative"):
        sparse_coupling(1, "so3", lmax_y=-1)


def changed(field, row, column, value):
    coupling = sparse_coupling(2, "cg_even")
    array = getattr(coupling, field).copy()
    array[row, column] = value
    return {field: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("entries", 5, 3, 99), "out of range"),
        (changed("entries", 5, 0, -1), "out of range"),
        (changed("entries", 5, 1, 1), "outside the block"),
        ({"paths": ((0, 0, 0),)}, "out of range"),
        ({"paths": ((0, 0, 5),)}, "degrees up to"),
        ({"paths": ((0, 1, 2),)}, "degrees up to"),
        ({"values": np.ones(3)}, "shape"),
        ({"values": np.ones(83, dtype=np.float32)}, "float64"),
        ({"entries": sparse_coupling(2, "cg_even").entries[::-1]}, "not sorted"),
        ({"lmax_out": -1}, "degrees up to"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_tables_that_would_lead_a_kernel_astray_are_refused(change, message):
    with pytest.raises(UnsupportedError, match=message):
        replace(sparse_coupling(2, "cg_even"), **change)


def test_a_table_without_entries_is_allowed():
    empty = SparseCoupling(0, 0, 1, (), np.zeros((0, 4), dtype=np.int32), np.zeros(0))
    assert empty.dim_out == 4
