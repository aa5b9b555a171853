import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomml.errors import AtommlError, UnsupportedError
from atomml.graph.atom_graph import EdgeIndex, transpose_index
from atomml.kernels import reference
from atomml.kernels.cpu.library import library
from atomml.kernels.dispatch import use_kernel
from atomml.kernels.ops import cp_conv

BACKENDS = [
    "reference",
    "torch",
    pytest.param("cpu", marks=pytest.mark.skipif(library() is None, reason="native kernels not built")),
]


def make_index(n_atoms, n_edges, generator):
    center = torch.randint(0, n_atoms, (n_edges,), generator=generator).sort().values
    neighbor = torch.randint(0, n_atoms, (n_edges,), generator=generator)

    def pointer(index):
        count = torch.bincount(index, minlength=n_atoms)
        return torch.cat([count.new_zeros(1), count.cumsum(0)])

    return EdgeIndex(neighbor, center, pointer(center), transpose_index(neighbor), pointer(neighbor))


def make_inputs(n_atoms=5, n_edges=11, groups=(2, 4), channels=3, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    index = make_index(n_atoms, n_edges, generator)
    shapes = [(n_atoms, sum(groups), channels), (n_edges, sum(groups)), (n_edges, len(groups), channels)]
    tensors = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for s in shapes
    ]
    return *tensors, index, groups


def run_alone(script, folder):
    """In a process of its own; its compiled code is new, since a cache may hold that of older operators."""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)},
    )


def by_loops(p, q, w, index, groups):
    out = torch.zeros_like(p)
    group = [g for g, size in enumerate(groups) for _ in range(size)]
    for e, (j, i) in enumerate(zip(index.neighbor.tolist(), index.center.tolist(), strict=True)):
        for r in range(p.shape[1]):
            for c in range(p.shape[2]):
                out[i, r, c] += q[e, r] * w[e, group[r], c] * p[j, r, c]
    return out


def assert_equals_reference(backend, function, operands):
    """Values and derivatives up to the third."""

    def derivatives():
        out = function(*operands)
        first = torch.autograd.grad(out.square().sum(), operands, create_graph=True)
        second = torch.autograd.grad(sum(f.square().sum() for f in first), operands, create_graph=True)
        third = torch.autograd.grad(sum(s.square().sum() for s in second), operands)
        return out, *first, *second, *third

    with use_kernel("reference"):
        expected = derivatives()
    with use_kernel(backend):
        actual = derivatives()
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [(6,), (2, 4), (1, 2, 3)])
def test_convolution_equals_its_definition(backend, groups):
    p, q, w, index, groups = make_inputs(groups=groups)
    with use_kernel(backend):
        torch.testing.assert_close(cp_conv(p, q, w, index, groups), by_loops(p, q, w, index, groups))


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_second_derivatives(backend):
    p, q, w, index, groups = make_inputs(4, 5, (1, 2), 2, requires_grad=True)
    with use_kernel(backend):
        assert torch.autograd.gradcheck(lambda *x: cp_conv(*x, index, groups), (p, q, w))
        assert torch.autograd.gradgradcheck(lambda *x: cp_conv(*x, index, groups), (p, q, w))


@pytest.mark.parametrize("backend", BACKENDS[1:])
@settings(max_examples=25, deadline=None)
@given(
    n_atoms=st.integers(1, 6),
    n_edges=st.integers(0, 12),
    channels=st.integers(1, 5),
    groups=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
def test_backends_agree_with_reference_up_to_third_derivatives(
    backend, n_atoms, n_edges, channels, groups, seed
):
    p, q, w, index, groups = make_inputs(n_atoms, n_edges, tuple(groups), channels, seed, requires_grad=True)

    assert_equals_reference(backend, lambda *x: cp_conv(*x, index, groups), (p, q, w))


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs_give_the_same_result(backend):
    p, q, w, index, groups = make_inputs()
    strided = [torch.stack([t, t], -1)[..., 0] for t in (p, q, w)]
    assert not any(t.is_contiguous() for t in strided)
    with use_kernel(backend):
        torch.testing.assert_close(cp_conv(*strided, index, groups), cp_conv(p, q, w, index, groups))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_edges_give_zeros_and_zero_derivatives(backend):
    p, q, w, index, groups = make_inputs(n_edges=0, requires_grad=True)
    with use_kernel(backend):
        out = cp_conv(p, q, w, index, groups)
        gradients = torch.autograd.grad(out.sum(), (p, q, w))
    assert not out.any()
    assert not gradients[0].any()
    assert gradients[1].shape == q.shape
    assert gradients[2].shape == w.shape


def test_adjoints_are_adjoint():
    """⟨s, T(p,q,w)⟩ is the same number through every one of the four operations."""
    p, q, w, index, groups = make_inputs()
    s = torch.randn_like(p)
    forward = (s * reference.conv(p, q, w, index, groups)).sum()
    for other in (
        (p * reference.conv_p(s, q, w, index, groups)).sum(),
        (q * reference.conv_q(p, s, w, index, groups)).sum(),
        (w * reference.conv_w(p, q, s, index, groups)).sum(),
    ):
        torch.testing.assert_close(other, forward)


def compiled_loss(p, q, w, index, groups):
    return torch.ops.atomml.cp_conv(p * 2, q, w, *index, list(groups)).square().sum()


def test_compiled_convolution_and_gradient_equal_eager():
    p, q, w, index, groups = make_inputs(requires_grad=True)
    compiled = torch.compile(compiled_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(p, q, w, index, groups), compiled_loss(p, q, w, index, groups))
    for a, b in zip(
        torch.autograd.grad(compiled(p, q, w, index, groups), (p, q, w)),
        torch.autograd.grad(compiled_loss(p, q, w, index, groups), (p, q, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_inductor_compiles_the_public_function_without_the_shape_checks_of_the_test_suite(tmp_path):
    script = """
import torch
from tests.kernels.test_ops import make_inputs
from atomml.kernels.ops import cp_conv
p, q, w, index, groups = make_inputs()
compiled = torch.compile(lambda *x: cp_conv(*x, index, groups).sin(), fullgraph=True)
torch.testing.assert_close(compiled(p, q, w), cp_conv(p, q, w, index, groups).sin())
"""
    run_alone(script, tmp_path)


def test_operators_pass_the_registration_checks_of_torch():
    p, q, w, index, groups = make_inputs(requires_grad=True)
    s, alpha = (torch.randn_like(p).requires_grad_() for _ in range(2))
    beta, gamma = torch.randn_like(q).requires_grad_(), torch.randn_like(w).requires_grad_()
    rest = (*index, list(groups))
    operators = torch.ops.atomml
    torch.library.opcheck(operators.cp_conv, (p, q, w, *rest))
    torch.library.opcheck(operators.cp_backward, (s, p, q, w, [True] * 3, *rest))
    torch.library.opcheck(operators.cp_backward, (s, p, q, w, [False, True, False], *rest))
    torch.library.opcheck(operators.cp_backward2, (s, p, q, w, alpha, beta, gamma, [True] * 4, *rest))
    torch.library.opcheck(
        operators.cp_backward2, (s, p, q, w, None, beta, None, [True, False, True, True], *rest)
    )
    torch.library.opcheck(
        operators.cp_mix, (torch.randn(3, p.shape[1], dtype=p.dtype, requires_grad=True), p)
    )


@pytest.mark.parametrize("broken", ["rank", "edges", "channels", "groups"])
def test_shapes_that_do_not_fit_are_refused_before_anything_is_computed(broken):
    p, q, w, index, groups = make_inputs()
    p = p[:, 1:] if broken == "rank" else p
    q = q[1:] if broken == "edges" else q
    w = w[..., 1:] if broken == "channels" else w
    groups = (3, 4) if broken == "groups" else groups
    with pytest.raises(AtommlError, match="Shapes do not fit"):
        cp_conv(p, q, w, index, groups)


def test_unknown_backend_is_refused_and_the_choice_is_scoped():
    with pytest.raises(UnsupportedError, match="no kernel backend"), use_kernel("magic"):
        pass
    p, q, w, index, groups = make_inputs()
    with use_kernel("reference"):
        inside = cp_conv(p, q, w, index, groups)
    torch.testing.assert_close(cp_conv(p, q, w, index, groups), inside)
