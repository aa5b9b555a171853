import numpy as np
import pytest
import torch
from ase import Atoms
from e3nn import o3

from atomml.errors import ConfigError
from atomml.graph.atom_graph import edge_index_of, edge_vectors, graph_from_ase
from atomml.nn.noise import NoiseHeads
from atomml.uncertainty.likelihood import force_nll
from tests.nn.test_layers import wigner
from tests.potentials.conftest import ethanol, make_potential

LMAX, WIDTHS, SPECIES = 2, (6, 5), 3
EQUIVARIANT = ["expm", "outer", "isotropic"]


def make_heads(forces="expm", energy="sum", loud=20.0, seed=0, widths=WIDTHS, lmax=LMAX, n_species=SPECIES):
    """Heads whose last weights are large enough that the features matter."""
    torch.manual_seed(seed)
    heads = NoiseHeads(forces, energy, lmax, widths, n_species, scale=1.5, hidden=8).double()
    with torch.no_grad():
        list(heads.network.parameters())[-1].mul_(loud)
    return heads


def draw_layers(n=7, widths=WIDTHS, lmax=LMAX, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, (lmax + 1) ** 2, c, dtype=torch.float64, generator=generator) for c in widths]


SPECIES_OF_ATOM = torch.tensor([0, 1, 2, 2, 1, 0, 1])
BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])


def evaluate(heads, layers):
    return heads(layers, SPECIES_OF_ATOM, BATCH, 2)


@pytest.fixture(params=["rotation", "mirror"])
def rotation(request):
    torch.manual_seed(5)
    matrix = o3.rand_matrix(dtype=torch.float64)
    return matrix if request.param == "rotation" else -matrix


@pytest.fixture
def cholesky():
    with pytest.warns(UserWarning, match="not equivariant"):
        return make_heads("cholesky")


def turn(matrices, rotation):
    return rotation @ matrices @ rotation.T


@pytest.mark.parametrize("forces", EQUIVARIANT)
def test_covariance_turns_with_the_features(forces, rotation):
    heads, layers = make_heads(forces), draw_layers()
    turned = evaluate(heads, [wigner(LMAX, rotation) @ x for x in layers])
    plain = evaluate(heads, layers)
    assert forces == "isotropic" or anisotropy(plain.forces.covariance).min() > 1e-3
    for a, b in [
        (turned.forces.covariance, turn(plain.forces.covariance, rotation)),
        (turned.forces.precision, turn(plain.forces.precision, rotation)),
        (turned.forces.log_det, plain.forces.log_det),
        (turned.energies_var, plain.energies_var),
        (turned.energy_var, plain.energy_var),
        (turned.stress_var, plain.stress_var),
    ]:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def anisotropy(covariance):
    values = torch.linalg.eigvalsh(covariance)
    return values[:, -1] / values[:, 0] - 1


@pytest.mark.parametrize("forces", EQUIVARIANT)
def test_likelihood_of_forces_does_not_depend_on_the_orientation(forces, rotation):
    heads, layers = make_heads(forces), draw_layers()
    d = draw_layers(7, (3,), 0)[0][:, 0]
    plain = evaluate(heads, layers).forces
    turned = evaluate(heads, [wigner(LMAX, rotation) @ x for x in layers]).forces
    torch.testing.assert_close(
        force_nll(d @ rotation.T, turned.precision, turned.log_det),
        force_nll(d, plain.precision, plain.log_det),
        rtol=1e-10,
        atol=1e-10,
    )


def test_published_matrix_does_not_turn_and_its_likelihood_depends_on_the_orientation(cholesky):
    torch.manual_seed(5)
    rotation = o3.rand_matrix(dtype=torch.float64)
    layers = draw_layers()
    plain = evaluate(cholesky, layers).forces
    turned = evaluate(cholesky, [wigner(LMAX, rotation) @ x for x in layers]).forces
    torch.testing.assert_close(turned.covariance, plain.covariance)
    error = (turned.covariance - turn(plain.covariance, rotation)).abs() / plain.covariance.abs().amax()
    assert error.max() > 0.1
    d = draw_layers(7, (3,), 0)[0][:, 0] * 0.1
    nll = force_nll(d, plain.precision, plain.log_det)
    assert ((force_nll(d @ rotation.T, turned.precision, turned.log_det) - nll).abs() > 0.1).any()


@pytest.mark.parametrize("forces", EQUIVARIANT)
def test_covariance_turns_with_a_structure_seen_by_a_network(forces, rotation):
    body = make_potential(cutoff=3.0).double().body
    heads = make_heads(forces, widths=(8, 8), n_species=5)
    plain, turned = (network_noise(body, heads, r) for r in (torch.eye(3, dtype=torch.float64), rotation))
    assert forces == "isotropic" or anisotropy(plain.covariance).max() > 1e-3
    torch.testing.assert_close(turned.covariance, turn(plain.covariance, rotation), rtol=1e-10, atol=1e-10)


def network_noise(body, heads, rotation, atoms=None):
    atoms = ethanol() if atoms is None else atoms
    atoms.positions = atoms.positions @ rotation.numpy().T
    graph = graph_from_ase(atoms, body.cutoff)
    species = torch.tensor([{1: 0, 6: 1, 8: 2}[z] for z in atoms.numbers])
    layers = body(species, edge_vectors(graph), edge_index_of(graph)).layers
    return heads(layers, species, torch.zeros_like(species), 1).forces


@pytest.mark.parametrize("forces", ["expm", "outer"])
def test_an_atom_without_neighbours_has_the_same_deviation_in_every_direction(forces):
    body = make_potential(cutoff=3.0).double().body
    heads = make_heads(forces, widths=(8, 8), n_species=5)
    eye = torch.eye(3, dtype=torch.float64)
    covariance = network_noise(body, heads, eye, Atoms("CO", [[0, 0, 0], [0, 0, 9]])).covariance
    torch.testing.assert_close(covariance, covariance[:, :1, :1] * eye, rtol=0, atol=0)
    assert (covariance[:, 0, 0] > 0).all()


@pytest.mark.parametrize("forces", [*EQUIVARIANT, "cholesky"])
@pytest.mark.filterwarnings("ignore:noise.forces")
def test_deviations_of_untrained_heads_are_fractions_of_the_scale(forces):
    noise = evaluate(make_heads(forces, loud=1.0), draw_layers())
    force_std = (noise.forces.covariance.diagonal(dim1=1, dim2=2).mean(1)).sqrt()
    n_atoms = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for std, expected in [
        (force_std, 1.0 * 1.5),
        (noise.energies_var.sqrt(), 0.2 * 1.5),
        ((noise.energy_var / n_atoms).sqrt(), 0.2 * 1.5),
        (noise.stress_var.sqrt(), 0.1 * 1.5),
    ]:
        assert (std / expected).log().abs().max() < 0.7, std / expected


def test_too_large_deviations_are_unlearned_with_a_gradient_of_order_one():
    heads, layers = make_heads(loud=1.0), draw_layers()
    d = 1e-3 * draw_layers(7, (3,), 0)[0][:, 0]
    noise = evaluate(heads, layers).forces
    nll = force_nll(d, noise.precision, noise.log_det)
    (gradient,) = torch.autograd.grad(nll.mean(), heads.log_std)
    torch.testing.assert_close(gradient[:, 0].sum(), torch.tensor(3.0).double(), rtol=1e-4, atol=0)


def test_typical_deviations_can_be_set_from_residuals():
    heads = make_heads(loud=0.0)
    heads.set_typical(forces=0.3, energy=0.07, stress=0.002)
    noise = evaluate(heads, draw_layers())
    expected = 0.3**2 * torch.eye(3, dtype=torch.float64).expand(7, 3, 3)
    torch.testing.assert_close(noise.forces.covariance, expected, rtol=1e-6, atol=0)
    np.testing.assert_allclose(noise.energies_var.detach(), 0.07**2, rtol=1e-6)
    np.testing.assert_allclose(noise.stress_var.detach(), 0.002**2, rtol=1e-6)
    with pytest.raises(ConfigError, match="positive"):
        heads.set_typical(forces=0.0, energy=0.07, stress=0.002)


def test_every_species_has_typical_deviations_of_its_own():
    heads = make_heads(loud=0.0)
    with torch.no_grad():
        heads.log_std[1] += np.log(3)
    noise = evaluate(heads, draw_layers())
    ratio = noise.energies_var / noise.energies_var[0]
    torch.testing.assert_close(ratio, torch.where(SPECIES_OF_ATOM == 1, 9.0, 1.0).double(), rtol=1e-6, atol=0)


def test_variance_of_the_energy_is_a_sum_or_a_geometric_mean():
    total, mean = evaluate(make_heads(), draw_layers()), evaluate(make_heads(energy="mean"), draw_layers())
    torch.testing.assert_close(total.energies_var, mean.energies_var)
    atomic = total.energies_var
    torch.testing.assert_close(total.energy_var, torch.stack([atomic[:3].sum(), atomic[3:].sum()]))
    expected = torch.stack([atomic[:3].log().mean().exp(), atomic[3:].log().mean().exp()])
    torch.testing.assert_close(mean.energy_var, expected)


def test_a_repeated_structure_has_more_energy_noise_but_the_same_stress_noise():
    heads, layers = make_heads(), draw_layers()
    species = SPECIES_OF_ATOM
    one = heads(layers, species, torch.zeros(7, dtype=torch.int64), 1)
    two = heads([x.repeat(2, 1, 1) for x in layers], species.repeat(2), torch.zeros(14, dtype=torch.int64), 1)
    torch.testing.assert_close(two.energy_var, 2 * one.energy_var)
    torch.testing.assert_close(two.stress_var, one.stress_var)


def test_deviations_stay_within_their_range_for_features_out_of_range():
    noise = evaluate(make_heads(), [1e6 * x for x in draw_layers()])
    assert all(torch.isfinite(x).all() for x in [*noise.forces, noise.energy_var, noise.stress_var])
    relative = (noise.energies_var / (0.2 * 1.5) ** 2).log()
    assert relative.abs().max() < 5.001
    identity = torch.eye(3, dtype=torch.float64).expand(7, 3, 3)
    torch.testing.assert_close(noise.forces.covariance @ noise.forces.precision, identity, rtol=0, atol=1e-10)


def test_single_precision_weights_give_double_precision_variances():
    noise = evaluate(make_heads().float(), [x.float() for x in draw_layers()])
    assert {x.dtype for x in [*noise.forces, noise.energies_var, noise.energy_var, noise.stress_var]} == {
        torch.float64
    }
    exact = evaluate(make_heads(), draw_layers())
    torch.testing.assert_close(noise.forces.covariance, exact.forces.covariance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("forces", [*EQUIVARIANT, "cholesky"])
@pytest.mark.filterwarnings("ignore:noise.forces")
def test_every_weight_and_feature_takes_part(forces):
    heads, layers = make_heads(forces), [x.requires_grad_() for x in draw_layers()]
    noise = evaluate(heads, layers)
    total = noise.energy_var.sum() + noise.forces.covariance.square().sum() + noise.stress_var.sum()
    gradients = torch.autograd.grad(total, [*heads.parameters(), *layers])
    assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("forces", [*EQUIVARIANT, "cholesky"])
@pytest.mark.filterwarnings("ignore:noise.forces")
def test_derivatives_of_the_likelihood_with_respect_to_features_are_right(forces):
    heads, d = make_heads(forces, widths=(2, 1)), draw_layers(7, (3,), 0)[0][:, 0]

    def nll(*layers):
        noise = evaluate(heads, layers).forces
        return force_nll(d, noise.precision, noise.log_det)

    layers = tuple(x.requires_grad_() for x in draw_layers(widths=(2, 1)))
    assert torch.autograd.gradcheck(nll, layers)


@pytest.mark.parametrize(("forces", "lmax"), [("expm", 1), ("expm", 0), ("outer", 0)])
def test_heads_say_which_degree_they_lack(forces, lmax):
    with pytest.raises(ConfigError, match="features") as caught:
        make_heads(forces, lmax=lmax)
    assert "lmax" in caught.value.fix
    assert "isotropic" in caught.value.fix


def test_outer_products_need_no_more_than_vectors():
    heads = make_heads("outer", lmax=1)
    assert anisotropy(evaluate(heads, draw_layers(lmax=1)).forces.covariance).max() > 1e-3
