from contextlib import nullcontext

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st

from atomml.errors import AtommlError
from atomml.kernels import reference_cg, torch_cg
from atomml.kernels.coupling import wigner_d
from atomml.kernels.dispatch import use_kernel
from atomml.kernels.ops_cg import cg_conv
from atomml.kernels.sparse_coupling import sparse_coupling
from tests.kernels.test_ops import BACKENDS, assert_equals_reference, make_index, run_alone

NAMES = ["cg_conv", "cg_conv_x", "cg_conv_y", "cg_conv_w", "cg_conv_yw"]


def make_inputs(coupling, n_atoms=5, n_edges=11, channels=3, seed=0, requires_grad=False):
    """x, y, w and s, and the index."""
    generator = torch.Generator().manual_seed(seed)
    index = make_index(n_atoms, n_edges, generator)
    shapes = [
        (n_atoms, coupling.dim_x, channels),
        (n_edges, coupling.dim_y),
        (n_edges, len(coupling.paths), channels),
        (n_atoms, coupling.dim_out, channels),
    ]
    tensors = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for s in shapes
    ]
    return *tensors, index


def operands(name, x, y, w, s):
    return {
        "cg_conv": (x, y, w),
        "cg_conv_x": (s, y, w),
        "cg_conv_y": (x, s, w),
        "cg_conv_w": (x, y, s),
        "cg_conv_yw": (x, y, w, s),
    }[name]


def operator_arguments(index, coupling):
    degrees = [degree for path in coupling.paths for degree in path]
    return *index, *coupling.tensors, [coupling.lmax_x, coupling.lmax_y, coupling.lmax_out], degrees


def by_loops(x, y, w, index, coupling):
    out = x.new_zeros(x.shape[0], coupling.dim_out, x.shape[2])
    for e, (j, i) in enumerate(zip(index.neighbor.tolist(), index.center.tolist(), strict=True)):
        for (a, b, k, path), v in zip(coupling.entries.tolist(), coupling.values.tolist(), strict=True):
            out[i, k] += v * w[e, path] * y[e, b] * x[j, a]
    return out


def by_e3nn(x, y, w, index, coupling, parity, **normalization):
    """Gather, e3nn's tensor product with external per-path weights, scatter."""
    n_edges, _, channels = w.shape

    def irreps(lmax, multiplicity):
        return o3.Irreps([(multiplicity, (degree, parity**degree)) for degree in range(lmax + 1)])

    def flat(features, lmax):
        return torch.cat([features[:, k * k : (k + 1) ** 2].mT.flatten(1) for k in range(lmax + 1)], 1)

    product = o3.TensorProduct(
        irreps(coupling.lmax_x, channels),
        irreps(coupling.lmax_y, 1),
        irreps(coupling.lmax_out, channels),
        [(*path, "uvu", True) for path in coupling.paths],
        shared_weights=False,
        internal_weights=False,
        **normalization,
    ).to(x.dtype)
    message = product(flat(x, coupling.lmax_x)[index.neighbor], y, w.reshape(n_edges, -1))
    start, blocks = 0, []
    for degree in range(coupling.lmax_out + 1):
        size = (2 * degree + 1) * channels
        blocks.append(message[:, start : start + size].view(n_edges, channels, -1).mT)
        start += size
    out = x.new_zeros(x.shape[0], coupling.dim_out, channels)
    return out.index_add(0, index.center, torch.cat(blocks, 1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["cg_even", "so3", "gaunt"])
@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 1, 0), (0, 2, 2)])
def test_convolution_equals_its_definition(backend, kind, limits):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    x, y, w, _, index = make_inputs(coupling)
    with use_kernel(backend):
        torch.testing.assert_close(cg_conv(x, y, w, index, coupling), by_loops(x, y, w, index, coupling))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "parity"), [("cg_even", -1), ("so3", 1)])
@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 3, 2)])
def test_convolution_equals_the_tensor_product_of_e3nn(backend, kind, parity, limits):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    x, y, w, _, index = make_inputs(coupling, n_edges=20)
    expected = by_e3nn(
        x, y, w, index, coupling, parity, irrep_normalization="none", path_normalization="none"
    )
    with use_kernel(backend):
        torch.testing.assert_close(cg_conv(x, y, w, index, coupling), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_second_derivatives(backend):
    coupling = sparse_coupling(1, "so3", lmax_y=1, lmax_out=1)
    x, y, w, _, index = make_inputs(coupling, 3, 4, 2, requires_grad=True)
    with use_kernel(backend):
        assert torch.autograd.gradcheck(lambda *t: cg_conv(*t, index, coupling), (x, y, w))
        assert torch.autograd.gradgradcheck(lambda *t: cg_conv(*t, index, coupling), (x, y, w))


def test_every_operator_has_correct_derivatives():
    coupling = sparse_coupling(1, "cg_even", lmax_y=2, lmax_out=2)
    x, y, w, s, index = make_inputs(coupling, 3, 4, 2, requires_grad=True)
    rest, operators = operator_arguments(index, coupling), torch.ops.atomml
    cotangents = [torch.randn_like(t).requires_grad_() for t in (x, y, w)]
    check = torch.autograd.gradcheck
    assert check(lambda *t: operators.cg_conv(*t, *rest), (x, y, w))
    assert check(lambda *t: operators.cg_backward(*t, [True] * 3, *rest), (s, x, y, w))
    assert check(lambda *t: operators.cg_backward2(*t, [True] * 4, *rest), (s, x, y, w, *cotangents))


@pytest.mark.parametrize("wanted", ["x", "y", "w", "xy", "yw", "xw"])
def test_only_some_gradients_may_be_wanted(wanted):
    coupling = sparse_coupling(1, "cg_even")
    *tensors, _, index = make_inputs(coupling)
    for name, tensor in zip("xyw", tensors, strict=True):
        tensor.requires_grad_(name in wanted)
    out = cg_conv(*tensors, index, coupling)
    chosen = [t for t in tensors if t.requires_grad]
    gradients = torch.autograd.grad(out.square().sum(), chosen, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), chosen)
    everything = [t.detach().requires_grad_() for t in tensors]
    by_autograd = reference_cg.cg_conv(*everything, index, coupling)
    expected = torch.autograd.grad(by_autograd.square().sum(), everything, create_graph=True)
    expected = [g for g, name in zip(expected, "xyw", strict=True) if name in wanted]
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)
    second_expected = torch.autograd.grad(sum(g.square().sum() for g in expected), everything)
    second_expected = [g for g, name in zip(second_expected, "xyw", strict=True) if name in wanted]
    for a, b in zip(second, second_expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@settings(max_examples=25, deadline=None)
@given(
    n_atoms=st.integers(1, 6),
    n_edges=st.integers(0, 12),
    channels=st.integers(1, 5),
    limits=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    kind=st.sampled_from(["cg_even", "so3", "gaunt"]),
    seed=st.integers(0, 999),
)
def test_backends_agree_with_the_reference_up_to_third_derivatives(
    backend, n_atoms, n_edges, channels, limits, kind, seed
):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    *tensors, _, index = make_inputs(coupling, n_atoms, n_edges, channels, seed, requires_grad=True)

    assert_equals_reference(backend, lambda *x: cg_conv(*x, index, coupling), tensors)


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_size_of_a_block_of_edges(name, monkeypatch):
    coupling = sparse_coupling(2, "so3")
    *tensors, index = make_inputs(coupling, n_edges=37)
    whole = getattr(torch_cg, name)(*operands(name, *tensors), index, coupling)
    monkeypatch.setattr(torch_cg, "BLOCK_BYTES", 5 * 8 * 3 * 100)
    in_blocks = getattr(torch_cg, name)(*operands(name, *tensors), index, coupling)
    torch.testing.assert_close(in_blocks, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_lower_precision_stays_near_the_reference_in_double(name, dtype):
    coupling = sparse_coupling(2, "cg_even")
    *tensors, index = make_inputs(coupling, n_edges=30)
    rounded = [t.to(dtype) for t in operands(name, *tensors)]
    actual = getattr(torch_cg, name)(*rounded, index, coupling)
    expected = getattr(reference_cg, name)(*[t.double() for t in rounded], index, coupling)
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (actual, expected)), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= 8 * torch.finfo(dtype).eps * b.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs_give_the_same_result(backend):
    coupling = sparse_coupling(2, "cg_even")
    *tensors, _, index = make_inputs(coupling)
    strided = [torch.stack([t, t], -1)[..., 0].requires_grad_() for t in tensors]
    dense = [t.requires_grad_() for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    with use_kernel(backend):
        results = [cg_conv(*t, index, coupling) for t in (strided, dense)]
        gradients = [
            torch.autograd.grad(r.square().sum(), t) for r, t in zip(results, (strided, dense), strict=True)
        ]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_isolated_atoms_receive_and_send_nothing(backend):
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, _, index = make_inputs(coupling, n_atoms=9, n_edges=4, requires_grad=True)
    with use_kernel(backend):
        out = cg_conv(x, y, w, index, coupling)
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
    for atoms, result in ((index.center, out), (index.neighbor, gradient)):
        isolated = torch.ones(9, dtype=torch.bool)
        isolated[atoms] = False
        assert isolated.any()
        assert not result[isolated].any()
        assert result[~isolated].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_edges_give_zeros_and_zero_derivatives(backend):
    coupling = sparse_coupling(2, "cg_even")
    x, y, w, _, index = make_inputs(coupling, n_edges=0, requires_grad=True)
    with use_kernel(backend):
        out = cg_conv(x, y, w, index, coupling)
        gradients = torch.autograd.grad(out.sum(), (x, y, w))
    assert out.shape == (5, 9, 3)
    assert not out.any()
    assert not gradients[0].any()
    assert [g.shape for g in gradients] == [x.shape, y.shape, w.shape]


@pytest.mark.parametrize("module", [reference_cg, torch_cg])
def test_adjoints_are_adjoint(module):
    """⟨s, S(x,y,w)⟩ is the same number through every one of the operations."""
    coupling = sparse_coupling(2, "so3", lmax_y=1)
    x, y, w, s, index = make_inputs(coupling)
    forward = (s * module.cg_conv(x, y, w, index, coupling)).sum()
    of_y, of_w = module.cg_conv_yw(x, y, w, s, index, coupling)
    for other in (
        (x * module.cg_conv_x(s, y, w, index, coupling)).sum(),
        (y * module.cg_conv_y(x, s, w, index, coupling)).sum(),
        (w * module.cg_conv_w(x, y, s, index, coupling)).sum(),
        (y * of_y).sum(),
        (w * of_w).sum(),
    ):
        torch.testing.assert_close(other, forward)


@pytest.mark.parametrize("kind", ["cg_even", "so3", "gaunt"])
@pytest.mark.parametrize("improper", [False, True])
def test_convolution_commutes_with_rotations_and_reflections(kind, improper):
    if improper and kind == "so3":
        pytest.skip("paths of odd l1 + l2 + l3 change sign under a reflection")
    torch.manual_seed(3)
    matrix = o3.rand_matrix(dtype=torch.float64) * (-1 if improper else 1)
    coupling = sparse_coupling(2, kind, lmax_y=3, lmax_out=2)
    x, y, w, _, index = make_inputs(coupling)
    d_x, d_y = (torch.from_numpy(wigner_d(lmax, matrix.numpy())) for lmax in (2, 3))
    rotated = cg_conv(d_x @ x, y @ d_y.T, w, index, coupling)
    torch.testing.assert_close(rotated, d_x @ cg_conv(x, y, w, index, coupling))


def test_paths_of_odd_sum_are_pseudotensors():
    coupling = sparse_coupling(1, "so3")
    x, y, w, _, index = make_inputs(coupling)
    odd = torch.tensor([sum(path) % 2 == 1 for path in coupling.paths])
    parity = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    w = w * odd[:, None]
    mirrored = cg_conv(parity[:, None] * x, y * parity, w, index, coupling)
    torch.testing.assert_close(mirrored, -parity[:, None] * cg_conv(x, y, w, index, coupling))


def test_mixed_precision_is_promoted():
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    out = cg_conv(x.bfloat16(), y.float(), w.bfloat16(), index, coupling)
    assert out.dtype == torch.float32


def test_operators_pass_the_registration_checks_of_torch():
    coupling = sparse_coupling(1, "cg_even", lmax_y=2)
    x, y, w, s, index = make_inputs(coupling, requires_grad=True)
    alpha, beta, gamma = (torch.randn_like(t).requires_grad_() for t in (x, y, w))
    rest, operators = operator_arguments(index, coupling), torch.ops.atomml
    torch.library.opcheck(operators.cg_conv, (x, y, w, *rest))
    torch.library.opcheck(operators.cg_backward, (s, x, y, w, [True] * 3, *rest))
    torch.library.opcheck(operators.cg_backward2, (s, x, y, w, alpha, beta, gamma, [True] * 4, *rest))


@pytest.mark.slow
def test_public_function_and_its_gradient_compile_and_export(tmp_path):
    script = """
import torch
from tests.kernels.test_cg_ops import make_inputs
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.nn.cg_convolution import CGConvolution
coupling = sparse_coupling(1, "so3", lmax_y=2)
conv = CGConvolution(coupling)
x, y, w, _, index = make_inputs(coupling)
exported = torch.export.export(conv, (x, y, w, index)).module()
torch.testing.assert_close(exported(x, y, w, index), conv(x, y, w, index))
compiled = torch.compile(conv, fullgraph=True)
tensors = [t.requires_grad_() for t in (x, y, w)]
gradients = [torch.autograd.grad(f(x, y, w, index).sin().sum(), tensors) for f in (compiled, conv)]
torch.testing.assert_close(*gradients)
"""
    run_alone(script, tmp_path)


@pytest.mark.parametrize("broken", ["components", "harmonics", "edges", "channels", "paths", "atoms"])
def test_shapes_that_do_not_fit_are_refused_before_anything_is_computed(broken):
    coupling = sparse_coupling(2, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    x = {"components": x[:, 1:], "atoms": x[1:]}.get(broken, x)
    y = {"harmonics": y[:, 1:], "edges": y[1:]}.get(broken, y)
    w = {"channels": w[..., 1:], "paths": w[:, 1:]}.get(broken, w)
    with pytest.raises(AtommlError, match="Shapes do not fit"):
        cg_conv(x, y, w, index, coupling)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("field", ["neighbor", "center", "transpose", "row_ptr", "col_ptr"])
@pytest.mark.parametrize("value", [-1, 99])
def test_an_index_out_of_range_is_refused_where_it_is_first_followed(backend, field, value):
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, s, index = make_inputs(coupling)
    numbers = getattr(index, field).clone()
    numbers[2] = value
    rest = operator_arguments(index._replace(**{field: numbers}), coupling)

    def there_and_back():
        torch.ops.atomml.cg_conv(x, y, w, *rest)
        torch.ops.atomml.cg_backward(s, x, y, w, [True, False, False], *rest)

    message = r"outside the 5 atoms|do not describe|out of range"
    with use_kernel(backend), pytest.raises(AtommlError, match=message):
        there_and_back()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_of_short_integers_is_refused(backend):
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    rest = operator_arguments(type(index)(*(part.int() for part in index)), coupling)
    with use_kernel(backend), pytest.raises(AtommlError, match="int64"):
        torch.ops.atomml.cg_conv(x, y, w, *rest)


def test_tensors_on_several_devices_are_refused():
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    with pytest.raises(AtommlError, match="several devices"):
        cg_conv(x, y.to("meta"), w, index, coupling)


def test_operators_run_by_default_agree_with_the_reference():
    coupling = sparse_coupling(2, "cg_even")
    x, y, w, s, index = make_inputs(coupling)
    rest, operators = operator_arguments(index, coupling), torch.ops.atomml
    torch.testing.assert_close(
        operators.cg_conv(x, y, w, *rest), reference_cg.cg_conv(x, y, w, index, coupling)
    )
    expected = (
        reference_cg.cg_conv_x(s, y, w, index, coupling),
        *reference_cg.cg_conv_yw(x, y, w, s, index, coupling),
    )
    torch.testing.assert_close(operators.cg_backward(s, x, y, w, [True] * 3, *rest), expected)


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lmax", [1, 2])
def test_second_derivatives_for_some_cotangents(backend, present, lmax):
    coupling = sparse_coupling(lmax, "cg_even")
    x, y, w, s, index = make_inputs(coupling, channels=19)
    operands = [t.requires_grad_() for t in (s, x, y, w)]
    cotangents = [torch.randn_like(t) if k in present else None for k, t in enumerate((x, y, w))]
    first = (
        reference_cg.cg_conv_x(s, y, w, index, coupling),
        *reference_cg.cg_conv_yw(x, y, w, s, index, coupling),
    )
    total = sum((f * c).sum() for f, c in zip(first, cotangents, strict=True) if c is not None)
    expected = torch.autograd.grad(total, operands, allow_unused=True)
    with use_kernel(backend), torch.no_grad():
        actual = torch.ops.atomml.cg_backward2(
            *operands, *cotangents, [True] * 4, *operator_arguments(index, coupling)
        )
    for a, b, operand in zip(actual, expected, operands, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(operand) if b is None else b)


@pytest.mark.parametrize("kind", ["cg_even", "so3", "gaunt"])
@pytest.mark.parametrize("lmax", [0, 1, 2, 3, 4, 5])
def test_every_degree_agrees_with_the_reference(kind, lmax):
    """Degrees 1, 2 to 3, 4 and above run kernels of their own."""
    coupling = sparse_coupling(lmax, kind, lmax_y=min(lmax, 2), lmax_out=lmax)
    tensors = make_inputs(coupling, n_edges=7, channels=35)
    x, y, w, s, index = tensors
    rest, operators = operator_arguments(index, coupling), torch.ops.atomml
    results = []
    for backend in ("reference", None):
        with use_kernel(backend) if backend else nullcontext():
            first = operators.cg_backward(s, x, y, w, [True] * 3, *rest)
            results.append((operators.cg_conv(x, y, w, *rest), *first))
    torch.testing.assert_close(*results)
