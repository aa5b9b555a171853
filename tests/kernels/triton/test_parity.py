"""The Triton kernels against the reference: on a GPU where there is one, otherwise in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import reference, reference_cg
from atomml.kernels import triton as backend
from atomml.kernels.dispatch import use_kernel
from atomml.kernels.ops import cp_conv
from atomml.kernels.ops_cg import cg_conv
from atomml.kernels.sparse_coupling import SparseCoupling, sparse_coupling
from atomml.kernels.triton import cg, cp
from atomml.kernels.triton.tiles import Device, cg_node_tiles, cp_node_tiles
from tests.kernels.test_cg_ops import NAMES as CG_NAMES
from tests.kernels.test_cg_ops import make_inputs as make_cg_inputs
from tests.kernels.test_cg_ops import operands as cg_operands
from tests.kernels.test_ops import make_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CP_NAMES = ["conv", "conv_p", "conv_q", "conv_w", "conv_qw"]


def cp_inputs(dtype=torch.float64, **shape):
    """p, q, w and s, the index and the groups."""
    p, q, w, index, groups = make_inputs(**shape)
    s = torch.randn(p.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    tensors = [t.to(DEVICE, dtype) for t in (p, q, w, s)]
    return *tensors, EdgeIndex(*[t.to(DEVICE) for t in index]), groups


def cg_inputs(coupling, dtype=torch.float64, **shape):
    *tensors, index = make_cg_inputs(coupling, **shape)
    return *[t.to(DEVICE, dtype) for t in tensors], EdgeIndex(*[t.to(DEVICE) for t in index])


def cp_operands(name, p, q, w, s):
    return {
        "conv": (p, q, w),
        "conv_p": (s, q, w),
        "conv_q": (p, s, w),
        "conv_w": (p, q, s),
        "conv_qw": (p, q, w, s),
    }[name]


def assert_equal(actual, expected, dtype=torch.float64):
    """Equal to the rounding of one sum in the accumulator and one rounding of the result."""
    rtol = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    if isinstance(actual, torch.Tensor):
        actual, expected = (actual,), (expected,)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * scale)


def check_cp(name, dtype=torch.float64, **shape):
    *tensors, index, groups = cp_inputs(dtype, **shape)
    actual = getattr(backend, name)(*cp_operands(name, *tensors), index, groups)
    wide = [t.double() for t in tensors]
    assert_equal(actual, getattr(reference, name)(*cp_operands(name, *wide), index, groups), dtype)


def check_cg(name, coupling, dtype=torch.float64, **shape):
    *tensors, index = cg_inputs(coupling, dtype, **shape)
    actual = getattr(backend, name)(*cg_operands(name, *tensors), index, coupling)
    wide = [t.double() for t in tensors]
    assert_equal(actual, getattr(reference_cg, name)(*cg_operands(name, *wide), index, coupling), dtype)


@pytest.mark.parametrize("name", CP_NAMES)
@pytest.mark.parametrize("groups", [(6,), (2, 4), (1, 2, 3), (1, 3, 5, 3, 3, 6)])
def test_factorised_operators_equal_the_reference(name, groups):
    check_cp(name, groups=groups)


@pytest.mark.parametrize("name", CP_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_taken_in_single_precision_or_better(name, dtype):
    check_cp(name, dtype, groups=(2, 4), channels=9)


@pytest.mark.parametrize("name", CP_NAMES)
@pytest.mark.parametrize(
    "shape",
    [
        {"groups": (70,), "channels": 3},  # more ranks than a tile
        {"groups": (60, 10), "channels": 70},  # more of both, with a group that ends inside a tile
        {"groups": (3,), "channels": 300},  # a row of channels over several warps
        {"groups": (1,), "channels": 1},
        {"groups": (2, 1), "channels": 4, "n_atoms": 9, "n_edges": 3},  # isolated atoms
        {"groups": (2, 1), "channels": 4, "n_atoms": 1, "n_edges": 9},
        {"groups": (2, 1), "channels": 4, "n_edges": 0},
        {"groups": (2, 1), "channels": 0},
    ],
    ids=str,
)
def test_any_shape_of_the_factorised_operators(name, shape):
    check_cp(name, **shape)


@settings(max_examples=15)
@given(
    name=st.sampled_from(CP_NAMES),
    n_atoms=st.integers(1, 5),
    n_edges=st.integers(0, 17),
    channels=st.integers(1, 40),
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_random_shapes_of_the_factorised_operators(name, n_atoms, n_edges, channels, groups, seed):
    check_cp(name, n_atoms=n_atoms, n_edges=n_edges, channels=channels, groups=tuple(groups), seed=seed)


@pytest.mark.parametrize("name", CG_NAMES)
@pytest.mark.parametrize(
    ("lmaxes", "kind"),
    [
        ((0, 0, 0), "so3"),
        ((1, 1, 1), "cg_even"),
        ((2, 2, 2), "so3"),
        ((0, 2, 2), "gaunt"),
        ((2, 1, 0), "so3"),
    ],
    ids=str,
)
def test_sparse_operators_equal_the_reference(name, lmaxes, kind):
    lmax, lmax_y, lmax_out = lmaxes
    check_cg(name, sparse_coupling(lmax, kind, lmax_y=lmax_y, lmax_out=lmax_out))


@pytest.mark.parametrize("name", CG_NAMES)
def test_outputs_in_several_parts_equal_the_reference(name):
    """Degrees above 3 of the output are summed by kernels of their own."""
    check_cg(name, sparse_coupling(1, "so3", lmax_y=4, lmax_out=4), n_atoms=2, n_edges=3, channels=2)


@pytest.mark.parametrize("name", CG_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sparse_operators_sum_in_single_precision_or_better(name, dtype):
    check_cg(name, sparse_coupling(1, "cg_even"), dtype, channels=9)


@pytest.mark.parametrize("name", CG_NAMES)
@pytest.mark.parametrize(
    "shape",
    [
        {"channels": 70},
        {"channels": 1},
        {"channels": 0},
        {"n_edges": 0},
        {"n_atoms": 9, "n_edges": 3},
    ],
    ids=str,
)
def test_any_shape_of_the_sparse_operators(name, shape):
    check_cg(name, sparse_coupling(1, "so3"), **shape)


@pytest.mark.parametrize("name", CG_NAMES)
def test_components_without_any_entry_are_zero(name):
    full = sparse_coupling(1, "so3")
    kept = (full.entries[:, 3] == 1) & (full.entries[:, 1] != 2)
    coupling = SparseCoupling(1, 1, 1, full.paths, full.entries[kept], full.values[kept])
    check_cg(name, coupling)


@pytest.mark.parametrize("name", CP_NAMES)
def test_non_contiguous_operands(name):
    *tensors, index, groups = cp_inputs()
    strided = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    function = getattr(backend, name)
    assert_equal(
        function(*cp_operands(name, *strided), index, groups),
        function(*cp_operands(name, *tensors), index, groups),
    )


@pytest.mark.parametrize("name", CG_NAMES)
def test_non_contiguous_operands_of_the_sparse_operators(name):
    coupling = sparse_coupling(1, "cg_even")
    *tensors, index = cg_inputs(coupling)
    strided = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    function = getattr(backend, name)
    assert_equal(
        function(*cg_operands(name, *strided), index, coupling),
        function(*cg_operands(name, *tensors), index, coupling),
    )


def test_persistent_programs_do_all_the_work(monkeypatch):
    """On a device of one warp a program walks over many items."""
    tiny = Device(multiprocessors=1, warps=1)
    tiles = cp_node_tiles(30, 40, 6, 3, 8, tiny), cg_node_tiles(30, 40, 4, 3, 8, tiny)
    assert all(t.programs < t.items for t in tiles)
    monkeypatch.setattr(cp, "device_of", lambda tensor: tiny)
    monkeypatch.setattr(cg, "device_of", lambda tensor: tiny)
    for name in CP_NAMES:
        check_cp(name, n_atoms=30, n_edges=40)
    for name in CG_NAMES:
        check_cg(name, sparse_coupling(1, "cg_even"), n_atoms=30, n_edges=40)


def derivatives(function, tensors):
    """Value, gradients and gradients of gradients."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors)
    first = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(f.square().sum() for f in first), tensors)
    return out, *first, *second


def test_factorised_operators_up_to_second_derivatives():
    p, q, w, _, index, groups = cp_inputs(n_atoms=4, n_edges=7)
    results = {}
    for kernel in ("reference", "triton"):
        with use_kernel(kernel):
            results[kernel] = derivatives(lambda *t: cp_conv(*t, index, groups), (p, q, w))
    assert_equal(results["triton"], results["reference"])


def test_sparse_operators_up_to_second_derivatives():
    coupling = sparse_coupling(1, "so3")
    x, y, w, _, index = cg_inputs(coupling, n_atoms=4, n_edges=7)
    results = {}
    for kernel in ("reference", "triton"):
        with use_kernel(kernel):
            results[kernel] = derivatives(lambda *t: cg_conv(*t, index, coupling), (x, y, w))
    assert_equal(results["triton"], results["reference"])


def test_unknown_devices_are_refused():
    p, q, w, _, index, groups = cp_inputs()
    with pytest.raises(UnsupportedError, match="do not run on meta"):
        backend.conv(p.to("meta"), q.to("meta"), w.to("meta"), index, groups)
