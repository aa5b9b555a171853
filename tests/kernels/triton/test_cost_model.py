from functools import partial

import numpy as np
import torch

from atomml.kernels import cost_model, reference
from atomml.kernels.cost_model import (
    GPU,
    H100,
    Cost,
    Shape,
    bound,
    cg_convolution_cost,
    cg_cost,
    cp_convolution_cost,
    cp_cost,
    mix_cost,
    seconds,
    total,
)
from atomml.kernels.dispatch import use_kernel
from atomml.kernels.ops import cp_conv
from atomml.kernels.sparse_coupling import sparse_coupling
from tests.kernels.test_ops import make_inputs

SMALL = Shape(nodes=357, edges=9996, channels=64, itemsize=4)
LARGE = Shape(nodes=35_700, edges=1_000_000, channels=64, itemsize=4)


def test_bytes_of_the_factorised_convolution_are_its_operands_and_results():
    cost = cp_cost("conv", SMALL, rank=6, groups=1)
    numbers = 2 * 357 * 6 * 64 + 9996 * (6 + 64)
    assert cost.memory == 4 * numbers + 8 * (2 * 9996 + 357)
    assert cost.cache == cost.memory + 4 * 64 * 6 * (9996 - 357)  # features once per edge, not once per node
    assert cost.operations == 3 * 9996 * 6 * 64


def test_operations_of_the_sparse_convolution_count_the_distinct_rows_of_the_table():
    coupling = sparse_coupling(2, "cg_even")
    dense = np.zeros((len(coupling.paths), coupling.dim_x, coupling.dim_y, coupling.dim_out))
    a, b, k, path = coupling.entries.T
    dense[path, a, b, k] = coupling.values
    products, rows = (dense != 0).any(2).sum(), (dense != 0).any((1, 2)).sum()
    per_edge = 2 * products + 2 * rows + (dense != 0).sum()
    assert cg_cost("conv", SMALL, coupling).operations == SMALL.edges * SMALL.channels * per_edge


def test_both_adjoints_together_cost_less_than_one_after_the_other():
    coupling = sparse_coupling(2, "so3")
    for cost in (lambda op: cp_cost(op, LARGE, 18, 1), lambda op: cg_cost(op, LARGE, coupling)):
        apart = total([cost("conv_q"), cost("conv_w")])
        assert seconds(cost("conv_qw")) < apart


def test_features_that_do_not_fit_the_cache_are_read_again():
    fits = H100._replace(cache_size=1e12)
    assert cp_cost("conv", LARGE, 18, 1).memory > cp_cost("conv", LARGE, 18, 1, fits).memory
    assert cp_cost("conv", SMALL, 18, 1).memory == cp_cost("conv", SMALL, 18, 1, fits).memory


def test_the_slowest_resource_decides():
    gpu = GPU("toy", memory=10.0, cache=10.0, arithmetic=10.0, cache_size=0.0, launch=1.0)
    assert seconds(Cost(20.0, 5.0, 5.0, 2), gpu) == 2.0 + 2.0
    assert bound(Cost(20.0, 5.0, 5.0, 1), gpu) == "memory"
    assert bound(Cost(5.0, 20.0, 5.0, 1), gpu) == "cache"
    assert bound(Cost(5.0, 5.0, 20.0, 1), gpu) == "arithmetic"
    assert bound(Cost(5.0, 5.0, 5.0, 1), gpu) == "launch"


def test_half_precision_halves_what_is_moved_but_the_index():
    single, half = (cp_cost("conv", SMALL._replace(itemsize=size), 6, 1) for size in (4, 2))
    index = 8 * (2 * SMALL.edges + SMALL.nodes)
    assert half.memory - index == (single.memory - index) / 2


def test_modes_are_sums_of_their_launches():
    coupling = sparse_coupling(1, "cg_even")
    forward = cg_convolution_cost("forward", SMALL, coupling)
    backward = cg_convolution_cost("backward", SMALL, coupling)
    assert forward == [cg_cost("conv", SMALL, coupling)]
    assert len(backward) == 3
    assert len(cg_convolution_cost("double", SMALL, coupling)) == 11
    assert cp_convolution_cost("forward", SMALL, 4, 6, 1) == [
        mix_cost(SMALL, 4, 6),
        mix_cost(SMALL, 4, 6),
        cp_cost("conv", SMALL, 6, 1),
    ]


def test_counts_of_launches_are_those_that_autograd_makes(monkeypatch):
    calls = []

    def counted(name, function, *args):
        calls.append(name)
        return function(*args)

    for name in ("conv", "conv_p", "conv_q", "conv_w", "conv_qw"):
        monkeypatch.setattr(reference, name, partial(counted, name, getattr(reference, name)))
    p, q, w, index, groups = make_inputs(requires_grad=True)
    cotangent = torch.randn_like(p).requires_grad_()
    with use_kernel("reference"):
        first = torch.autograd.grad(cp_conv(p, q, w, index, groups), (p, q, w), cotangent, create_graph=True)
        torch.autograd.grad(first, (p, q, w, cotangent), [torch.randn_like(t) for t in (p, q, w)])
    counts = {name: calls.count(name) for name in cost_model.OPERATORS["double"]}
    for name in ("conv_q", "conv_w"):  # the reference takes conv_qw as these two
        counts[name] -= counts["conv_qw"]
    assert counts == cost_model.OPERATORS["double"]
