"""The native library itself: every variant that was built, threads, and what it refuses."""

import ctypes

import pytest
import torch

from atomml.errors import DataError
from atomml.kernels import cpu, reference
from atomml.kernels.cpu import gradients
from atomml.kernels.cpu import library as native
from atomml.kernels.self_check import self_check
from atomml.kernels.sparse_coupling import sparse_coupling
from tests.kernels.test_cg_ops import make_inputs
from tests.kernels.test_ops import make_inputs as make_cp_inputs

pytestmark = pytest.mark.skipif(native.library() is None, reason="native kernels not built")


def fits_this_processor(variant):
    level = native.VARIANTS.index(native.variant()) if native.variant() else -1
    return native.VARIANTS.index(variant) <= level


@pytest.mark.parametrize("variant", native.VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_variant_agrees_with_the_reference(variant, dtype, monkeypatch):
    path = native._installed().get(variant)
    if path is None or not fits_this_processor(variant):
        pytest.skip("not built, or not for this processor")
    loaded = ctypes.CDLL(str(path))
    monkeypatch.setattr(native, "library", lambda: loaded)
    assert self_check(cpu, "cpu", dtype) is None


def results(threads, family):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if family == "cg":
            coupling = sparse_coupling(2, "cg_even")
            *tensors, index = make_inputs(coupling, n_atoms=60, n_edges=1500, channels=40)
            x, y, w, s = (t.float() for t in tensors)
            rest = index, coupling
            return (
                cpu.cg_conv(x, y, w, *rest),
                *cpu.cg_conv_backward(s, x, y, w, [True] * 3, *rest),
                *cpu.cg_conv_backward2(s, x, y, w, x, y, w, [True] * 4, *rest),
            )
        p, q, w, index, groups = make_cp_inputs(n_atoms=60, n_edges=1500, groups=(7, 8), channels=40)
        p, q, w, s = p.float(), q.float(), w.float(), p.float().flip(0)
        return (
            cpu.conv(p, q, w, index, groups),
            *cpu.conv_backward(s, p, q, w, [True] * 3, index, groups),
            *cpu.conv_backward2(s, p, q, w, p, q, w, [True] * 4, index, groups),
            cpu.mix(torch.ones(300, 15), p.repeat(9, 1, 1)),
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["cp", "cg"])
def test_results_are_the_same_to_the_last_bit_for_every_number_of_threads(family):
    alone = results(1, family)
    for threads in (2, 3):
        for a, b in zip(results(threads, family), alone, strict=True):
            assert torch.equal(a, b)


CHANGES = {
    "rows": lambda t: t[1:],
    "channels": lambda t: t[..., 1:],
    "dtype": lambda t: t.float(),
    "device": lambda t: t.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("broken", ["s", "p", "q", "w", "alpha", "beta", "gamma"])
def test_operands_of_another_form_are_refused_before_memory_is_touched(broken, change):
    p, q, w, index, groups = make_cp_inputs()
    operands = {"s": p, "p": p, "q": q, "w": w, "alpha": p, "beta": q, "gamma": w}
    operands[broken] = CHANGES[change](operands[broken])
    layout = gradients.Layout("cp", (6, 6, 6, 2), (native.integers(groups), 2))
    with pytest.raises(DataError, match="it must be"):
        gradients.second_derivatives(layout, *operands.values(), [True] * 4, index)


@pytest.mark.parametrize("field", ["neighbor", "center", "transpose", "row_ptr", "col_ptr"])
@pytest.mark.parametrize("value", [-1, 99])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("family", ["cp", "cg"])
def test_gradients_check_every_number_of_the_index(family, order, field, value):
    if family == "cg":
        structure = sparse_coupling(1, "cg_even")
        x, y, w, s, index = make_inputs(structure)
        first, second = cpu.cg_conv_backward, cpu.cg_conv_backward2
    else:
        x, y, w, index, structure = make_cp_inputs()
        s, first, second = x, cpu.conv_backward, cpu.conv_backward2
    numbers = getattr(index, field).clone()
    numbers[2] = value
    index = index._replace(**{field: numbers})
    operands = (s, x, y, w, [True] * 3) if order == 1 else (s, x, y, w, x, y, w, [True] * 4)
    with pytest.raises(DataError, match="out of range"):
        (first if order == 1 else second)(*operands, index, structure)


def test_an_index_of_another_length_is_refused():
    p, q, w, index, groups = make_cp_inputs()
    layout = gradients.Layout("cp", (6, 6, 6, 2), (native.integers(groups), 2))
    with pytest.raises(DataError, match="int64"):
        gradients.conv(layout, p, q, w, index._replace(center=index.center[1:]))


def test_weight_gradients_that_are_stored_past_the_cache_are_right():
    """Above 4 MB; degrees 0 and 1 have a kernel of their own."""
    for lmax, n_edges in ((1, 1100), (2, 420)):
        coupling = sparse_coupling(lmax, "cg_even")
        *tensors, index = make_inputs(coupling, n_atoms=40, n_edges=n_edges, channels=256)
        x, y, w, s = (t.float() for t in tensors)
        assert w.nbytes > 4 << 20
        dx, dy, dw = cpu.cg_conv_backward(s, x, y, w, [True] * 3, index, coupling)
        x, y, w, s = (t.double() for t in (x, y, w, s))
        expected = reference.cg_conv_yw(x, y, w, s, index, coupling)
        of_x = reference.cg_conv_x(s, y, w, index, coupling)
        torch.testing.assert_close(dx.double(), of_x, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(dy.double(), expected[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(dw.double(), expected[1], rtol=1e-4, atol=1e-4)
