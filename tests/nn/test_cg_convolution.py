import pytest
import torch

from atomml.kernels.cp_factors import load_group_factors
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.nn.cg_convolution import CGConvolution, unit_variance
from atomml.nn.cp_product import CPConvolution
from tests.kernels.test_cg_ops import by_e3nn, make_inputs
from tests.kernels.test_ops import make_index


@pytest.mark.parametrize("kind", ["cg_even", "so3", "gaunt"])
@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 3, 1), (0, 2, 2)])
def test_random_operands_of_unit_variance_give_messages_of_unit_variance(kind, limits):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    conv, n = CGConvolution(coupling), 4000
    generator = torch.Generator().manual_seed(0)
    x, y, w = (
        torch.randn(*s, generator=generator)
        for s in [(n, coupling.dim_x, 8), (n, coupling.dim_y), (n, conv.n_paths, 8)]
    )
    index = make_index(n, n, generator)
    index = index._replace(neighbor=torch.arange(n), transpose=torch.arange(n), col_ptr=torch.arange(n + 1))
    index = index._replace(center=torch.arange(n), row_ptr=torch.arange(n + 1))
    out = conv(x, y, w, index)
    for degree in range(limits[2] + 1):
        assert abs(float(out[:, degree**2 : (degree + 1) ** 2].var()) - 1) < 0.1


@pytest.mark.parametrize(("kind", "parity"), [("cg_even", -1), ("so3", 1)])
@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 3, 1)])
def test_module_equals_the_normalised_tensor_product_of_e3nn(kind, parity, limits):
    coupling = sparse_coupling(limits[0], kind, lmax_y=limits[1], lmax_out=limits[2])
    x, y, w, _, index = make_inputs(coupling)
    expected = by_e3nn(
        x, y, w, index, coupling, parity, irrep_normalization="component", path_normalization="element"
    )
    torch.testing.assert_close(CGConvolution(coupling)(x, y, w, index), expected)


def test_equal_weights_of_all_paths_give_the_factorised_convolution():
    coupling = sparse_coupling(2, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    w = w[:, :1]
    factorised = CPConvolution(load_group_factors(2, "cg_even", "fused")).double()
    by_factors = factorised(x, factorised.harmonics_to_rank(y), w, index)
    by_paths = CGConvolution(coupling)(x, y, w.expand(-1, len(coupling.paths), -1), index)
    torch.testing.assert_close(by_paths, by_factors, rtol=1e-5, atol=1e-5)


def test_normalising_twice_changes_nothing():
    once = unit_variance(sparse_coupling(3, "gaunt"))
    torch.testing.assert_close(unit_variance(once).tensors, once.tensors)


def test_an_output_degree_without_a_path_is_zero():
    coupling = sparse_coupling(0, "cg_even", lmax_y=1, lmax_out=2)
    x, y, w, _, index = make_inputs(coupling)
    out = CGConvolution(coupling)(x, y, w, index)
    assert out.shape[1] == 9
    assert out[:, 1:4].any()
    assert not out[:, 4:].any()


def test_module_follows_the_dtype_of_its_operands():
    coupling = sparse_coupling(1, "cg_even")
    x, y, w, _, index = make_inputs(coupling)
    conv = CGConvolution(coupling)
    single = conv(x.float(), y.float(), w.float(), index)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), conv(x, y, w, index), rtol=1e-5, atol=1e-5)
