import numpy as np
import pytest
import torch

from atomml.errors import AtommlError
from atomml.nn.radial import RadialNetwork
from atomml.nn.radial_table import RadialTable, table_error, tabulate

CUTOFF = 5.0


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RadialNetwork(8, [32, 32], 2, 5, CUTOFF, 6).double()


def slope_of(table, r):
    r = r.clone().requires_grad_()
    return torch.stack(
        [torch.autograd.grad(w.sum(), r, retain_graph=True)[0] for w in table(r).flatten(1).T], 1
    )


def test_a_table_has_the_values_and_slopes_of_the_network_at_its_knots(network):
    table = tabulate(network, CUTOFF, knots=33)
    r = torch.linspace(0, CUTOFF, 33, dtype=torch.float64)[1:-1]
    torch.testing.assert_close(table.double()(r), network(r), atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(table.slopes[1:-1].flatten(1), slope_of(network, r), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_intervals_are_halved_until_the_error_is_small_enough(network, tolerance):
    table = tabulate(network, CUTOFF, tolerance=tolerance)
    assert table_error(table, network) <= tolerance
    assert table_error(tabulate(network, CUTOFF, knots=(table.knots + 1) // 2), network) > tolerance
    r = CUTOFF * torch.rand(500, dtype=torch.float64)
    exact, slope = network(r).detach(), slope_of(network, r)
    assert (table.double()(r) - exact).abs().max() <= tolerance * exact.abs().max() * 1.1
    assert (slope_of(table, r) - slope).abs().max() <= tolerance * slope.abs().max() * 1.1


def test_errors_fall_with_the_third_power_of_the_spacing(network):
    coarse, fine = (table_error(tabulate(network, CUTOFF, knots=k), network) for k in (129, 257))
    assert coarse / fine == pytest.approx(8, rel=0.2)


def test_derivatives_are_those_of_the_interpolant(network):
    table = tabulate(network, CUTOFF, knots=20).double()
    r = torch.rand(7, dtype=torch.float64) * 1.2 * CUTOFF
    assert torch.autograd.gradcheck(table, r.requires_grad_())
    assert torch.autograd.gradgradcheck(table, r)


def test_a_table_ends_smoothly_at_the_cutoff(network):
    table = tabulate(network, CUTOFF, knots=65).double()
    beyond = torch.tensor([CUTOFF, np.nextafter(CUTOFF, 6), 7.0, 1e6, torch.inf], dtype=torch.float64)
    assert not table(beyond).any()
    assert not slope_of(table, beyond[:-1]).any()
    near = CUTOFF - torch.tensor([1e-3, 1e-4], dtype=torch.float64)
    assert slope_of(table, near).abs().max() < 1e-2
    assert slope_of(table, near)[1].abs().max() < 0.11 * slope_of(table, near)[0].abs().max()


def test_a_table_in_single_precision_is_rounded_once(network):
    table = tabulate(network, CUTOFF)
    r = torch.rand(300) * CUTOFF
    double, slope = table.double()(r.double()), slope_of(table, r.double())
    single, single_slope = table.float()(r), slope_of(table, r)
    assert single.dtype == torch.float32
    scale, steep = double.abs().max(), slope.abs().max()
    assert (single - double).abs().max() < 1e-6 * scale
    assert (single_slope - slope).abs().max() < 3e-6 * steep
    assert torch.equal(table.double()(r.double()), double)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_edges_give_no_weights(network, dtype):
    assert tabulate(network, CUTOFF, knots=9).to(dtype)(torch.zeros(0, dtype=dtype)).shape == (0, 2, 5)


def test_a_function_that_does_not_end_at_the_cutoff_is_refused():
    with pytest.raises(AtommlError, match="does not vanish at the cutoff"):
        tabulate(lambda r: torch.cos(r)[:, None, None], CUTOFF)


def test_a_function_that_is_not_smooth_is_refused():
    def rough(r):
        return (torch.sin(1e5 * r) * (CUTOFF - r) ** 2)[:, None, None]

    with pytest.raises(AtommlError, match="still has a relative error"):
        tabulate(rough, CUTOFF)


@pytest.mark.parametrize(("shape", "end"), [((1, 1, 1), 0.0), ((5, 1, 1), 0.1)])
def test_arrays_that_are_no_table_are_refused(shape, end):
    values = np.zeros(shape)
    values[-1] = end
    with pytest.raises(AtommlError, match="Not a radial table"):
        RadialTable(values, np.zeros(shape), CUTOFF)
