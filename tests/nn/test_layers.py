import numpy as np
import pytest
import torch
from e3nn import o3

from atomml.kernels.coupling import coupling_tensor
from atomml.kernels.cp_factors import load_factors
from atomml.nn.attention import DegreeLayerNorm, SharedLinear, edge_softmax, gate
from atomml.nn.constants import ConstantModule
from atomml.nn.cp_product import CPConvolution, SelfProduct
from atomml.nn.cutoff import polynomial_envelope
from atomml.nn.linear import DegreeLinear, SpeciesScale
from atomml.nn.nonlinearity import Gate, NormActivation
from atomml.nn.radial import BesselBasis, GaussianBasis, RadialNetwork
from atomml.nn.repulsion import ZBL
from tests.kernels.test_ops import make_index

LMAX, CHANNELS = 2, 4


def wigner(lmax, rotation):
    """Block-diagonal representation of a rotation or a mirror, from Y(Rx) = D Y(x)."""
    points = torch.randn(200, 3, dtype=torch.float64)

    def harmonics(x):
        return o3.spherical_harmonics(list(range(lmax + 1)), x, normalize=True, normalization="component")

    return torch.linalg.lstsq(harmonics(points), harmonics(points @ rotation.T)).solution.T


@pytest.fixture(params=["rotation", "mirror"])
def rotation(request):
    torch.manual_seed(1)
    matrix = o3.rand_matrix(dtype=torch.float64)
    return matrix if request.param == "rotation" else -matrix


def test_envelope_is_one_at_zero_and_zero_with_two_derivatives_at_the_cutoff():
    r = torch.tensor([0.0, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    u = polynomial_envelope(r, 5.0)
    (first,) = torch.autograd.grad(u.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(u.detach(), torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert first.abs().max() < 1e-12
    assert second[1:].abs().max() < 1e-12


def test_bessel_basis_equals_its_formula_and_is_finite_at_zero():
    r = torch.tensor([1e-12, 0.7, 3.2], dtype=torch.float64)
    basis = BesselBasis(5, 4.0).double()(r)
    n = torch.arange(1, 6, dtype=torch.float64)
    textbook = np.sqrt(2 / 4.0) * torch.sin(n * torch.pi * r[1:, None] / 4) / r[1:, None]
    torch.testing.assert_close(basis[1:], textbook * 4.0**1.5 / np.pi)
    assert basis.isfinite().all()


def test_gaussian_basis_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in GaussianBasis(256, 4.5).parameters()) == 514


def test_radial_weights_vanish_at_the_cutoff():
    network = RadialNetwork(8, [16], groups=2, channels=3, cutoff=5.0, envelope_power=6).double()
    w = network(torch.tensor([4.999999, 5.0, 7.0], dtype=torch.float64))
    assert w.shape == (3, 2, 3)
    assert w[0].abs().max() < 1e-15
    assert not w[1:].any()


@pytest.mark.parametrize(
    "layer",
    [
        DegreeLinear(LMAX, CHANNELS, CHANNELS),
        Gate(LMAX, CHANNELS),
        NormActivation(LMAX, CHANNELS),
        SharedLinear(CHANNELS, CHANNELS),
        DegreeLayerNorm(LMAX, CHANNELS),
        lambda x: gate(torch.cat([x, x], -1)),
    ],
    ids=lambda layer: getattr(layer, "__name__", type(layer).__name__),
)
def test_node_layers_commute_with_rotations_and_mirrors(layer, rotation):
    layer = layer.double() if isinstance(layer, torch.nn.Module) else layer
    x = torch.randn(6, (LMAX + 1) ** 2, CHANNELS, dtype=torch.float64)
    d = wigner(LMAX, rotation)
    torch.testing.assert_close(d @ layer(x), layer(d @ x), rtol=1e-9, atol=1e-11)


def test_species_dependent_layers_treat_each_atom_by_its_own_species(rotation):
    species = torch.tensor([2, 0, 2, 1])
    x = torch.randn(4, (LMAX + 1) ** 2, CHANNELS, dtype=torch.float64)
    d = wigner(LMAX, rotation)
    linear = DegreeLinear(LMAX, CHANNELS, 5, n_species=3).double()
    scale = SpeciesScale(LMAX, CHANNELS, 3).double()
    for layer in (linear, scale):
        together = layer(x, species)
        apart = torch.cat([layer(x[i : i + 1], species[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(together, apart)
        torch.testing.assert_close(d @ together, layer(d @ x, species))
    expected = torch.cat(
        [x[1, degree**2 : (degree + 1) ** 2] @ linear.weight[0, degree] for degree in range(3)]
    )
    torch.testing.assert_close(linear(x, species)[1], expected)


@pytest.mark.parametrize("lmax", [1, 2])
def test_factorised_convolution_equals_the_coupling_tensor(lmax):
    """out_i[k,c] = Σ_e Σ_ab M_abk y_e[b] w_e[c] x_j[a,c], with every output component of unit variance."""
    factors = load_factors(lmax, "cg_even", "exact")
    layer = CPConvolution(factors).double()
    index = make_index(5, 20, torch.Generator().manual_seed(0))
    d = (lmax + 1) ** 2
    x = torch.randn(5, d, CHANNELS, dtype=torch.float64)
    y = torch.randn(20, d, dtype=torch.float64)
    w = torch.randn(20, 1, CHANNELS, dtype=torch.float64)
    m = torch.tensor(coupling_tensor(lmax, "cg_even"))
    m = m / m.square().sum((0, 1)).sqrt()
    message = torch.einsum("abk,eb,ec,eac->ekc", m, y, w[:, 0], x[index.neighbor])
    expected = torch.zeros_like(x).index_add(0, index.center, message)
    actual = layer(x, layer.harmonics_to_rank(y), w, index)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)


def test_products_of_features_rotate_with_the_features(rotation):
    product = SelfProduct(load_factors(LMAX, "cg_even", "exact")).double()
    x, z = torch.randn(2, 6, (LMAX + 1) ** 2, CHANNELS, dtype=torch.float64)
    d = wigner(LMAX, rotation)
    torch.testing.assert_close(d @ product(x, z), product(d @ x, d @ z), rtol=1e-8, atol=1e-8)


def test_constants_survive_a_visit_to_lower_precision():
    module = ConstantModule()
    value = np.array([1 / 3, -1e4 - 1 / 3])
    module.add_constant("rounded", value)
    module.add_constant("kept", value, always_float64=True)
    module.to(torch.float32)
    assert module.rounded.dtype == torch.float32
    assert module.kept.dtype == torch.float64
    module.to(torch.bfloat16).to(torch.float64)
    np.testing.assert_array_equal(module.rounded.numpy(), value)
    assert not module.state_dict()


def test_softmax_over_edges_sums_to_one_at_each_centre_that_has_edges():
    center = torch.tensor([0, 0, 2, 2, 2])
    alpha = edge_softmax(100 * torch.randn(5, 3, dtype=torch.float64), center, 4)
    total = torch.zeros(4, 3, dtype=torch.float64).index_add(0, center, alpha)
    torch.testing.assert_close(total[[0, 2]], torch.ones(2, 3, dtype=torch.float64))
    assert not total[[1, 3]].any()


def test_nuclear_repulsion_equals_coulomb_at_short_range_and_ends_before_the_bond():
    zbl = ZBL([6, 8], cutoff=5.0).double()
    index = make_index(2, 0, torch.Generator())._replace(
        neighbor=torch.tensor([1, 0]), center=torch.tensor([0, 1])
    )
    species = torch.tensor([0, 1])

    def energy(r):
        return zbl(torch.tensor([r, r], dtype=torch.float64), species, index).sum().item()

    assert energy(1e-4) == pytest.approx(14.399645 * 48 / 1e-4, rel=2e-3)
    assert energy(0.5) > energy(0.8) > energy(1.1) > 0
    assert energy(0.9 * (0.76 + 0.66) + 1e-6) == 0
