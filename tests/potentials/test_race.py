import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from e3nn import o3
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from atomml.errors import ConfigError
from atomml.graph.atom_graph import edge_index_of, edge_vectors, graph_from_ase
from atomml.nn.linear import DegreeLinear
from atomml.potentials.race import RACE
from atomml.potentials.race_config import RACEConfig, race_preset
from tests.potentials.conftest import ethanol

SPECIES = {1: 0, 6: 1, 8: 2}
SMALL = {"channels": 4, "layers": 3, "cutoff": 4.0, "radial_hidden": [16], "readout_hidden": 8}
VARIANTS = {
    "natural": {},
    "both parities": {"parity": "both", "layers": 4},
    "both parities, L=1": {"parity": "both", "layers": 5, "lmax": 1},
    "features beyond harmonics": {"lmax": 3, "lmax_harmonics": 1, "parity": "both", "layers": 4},
    "harmonics beyond features": {"lmax": 1, "lmax_harmonics": 3},
    "one layer": {"layers": 1},
    "heads": {"heads": 5},
}
every_variant = pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)


class Evaluated(NamedTuple):
    out: NamedTuple
    energy: torch.Tensor
    forces: torch.Tensor


def make_body(seed=0, **keys):
    torch.manual_seed(seed)
    body = RACE(RACEConfig(**SMALL | keys), len(SPECIES), 8.0).double()
    torch.nn.init.normal_(body.bias)
    return body


def evaluate(body, atoms, create_graph=False):
    graph = graph_from_ase(atoms, body.cutoff)
    species = torch.tensor([SPECIES[z] for z in atoms.numbers.tolist()])
    vectors, index = edge_vectors(graph).requires_grad_(), edge_index_of(graph)
    out = body(species, vectors, index)
    energy = out.energies.sum()
    (pair,) = torch.autograd.grad(energy, vectors, create_graph=create_graph, allow_unused=True)
    pair = torch.zeros_like(vectors) if pair is None else pair
    zero = torch.zeros(len(atoms), 3, dtype=torch.float64)
    return Evaluated(out, energy, zero.index_add(0, index.center, pair).index_add(0, index.neighbor, -pair))


def moved(atoms, positions):
    return Atoms(atoms.numbers, positions)


@every_variant
@pytest.mark.parametrize("mirror", [1, -1])
def test_energy_is_invariant_and_features_and_forces_turn(keys, mirror):
    body, atoms = make_body(**keys), ethanol()
    matrix = mirror * Rotation.random(random_state=3).as_matrix()
    before = evaluate(body, atoms)
    after = evaluate(body, moved(atoms, atoms.positions @ matrix.T + [3.0, -2.0, 11.0]))
    torch.testing.assert_close(after.out.energies, before.out.energies, rtol=0, atol=1e-11)
    torch.testing.assert_close(after.out.features, before.out.features, rtol=0, atol=1e-11)
    torch.testing.assert_close(after.forces, before.forces @ torch.from_numpy(matrix).T, rtol=0, atol=1e-11)
    assert before.forces.abs().max() > 1e-3
    assert len(before.out.layers) == len(body.layers)
    lmax = RACEConfig(**SMALL | keys).lmax
    irreps = o3.Irreps([(1, (degree, (-1) ** degree)) for degree in range(lmax + 1)])
    wigner = irreps.D_from_matrix(torch.from_numpy(matrix))
    for x, turned in zip(before.out.layers, after.out.layers, strict=True):
        assert x.shape == (len(atoms), (lmax + 1) ** 2, SMALL["channels"])
        # e3nn makes its matrices from angles, which costs digits
        torch.testing.assert_close(turned, torch.einsum("ab,nbc->nac", wigner, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("parity", ["natural", "both"])
@pytest.mark.parametrize("layers", [1, 3, 4, 5])
def test_every_parameter_has_an_effect_on_the_energy(layers, parity):
    body = make_body(layers=layers, parity=parity)
    named = dict(body.named_parameters())
    gradients = torch.autograd.grad(evaluate(body, ethanol(), create_graph=True).energy, list(named.values()))
    assert all(gradient.any() for gradient in gradients)
    assert any("radial.1" in name for name in named) == (parity == "both" and layers > 3)


@every_variant
def test_forces_are_the_derivative_of_the_energy(keys):
    body, atoms, h = make_body(**keys), ethanol(), 1e-4
    forces = evaluate(body, atoms).forces
    for i, k in [(0, 0), (2, 1), (8, 2)]:
        step = np.zeros((9, 3))
        step[i, k] = h
        up, down = (evaluate(body, moved(atoms, atoms.positions + s * step)).energy for s in (1, -1))
        assert forces[i, k].item() == pytest.approx((down - up).item() / (2 * h), rel=1e-5, abs=1e-8)
    assert forces.sum(0).abs().max() < 1e-12


def test_permuting_atoms_permutes_the_result():
    body, atoms = make_body(layers=4, parity="both"), ethanol()
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = evaluate(body, atoms), evaluate(body, atoms[order])
    torch.testing.assert_close(after.out.energies, before.out.energies[order])
    torch.testing.assert_close(after.forces, before.forces[order])


def test_energy_is_extensive():
    body, atoms = make_body(), ethanol()
    two = atoms + moved(atoms, atoms.positions + [50.0, 0, 0])
    crystal = Atoms("CO", [[0, 0, 0], [1.1, 0.9, 1.4]], cell=np.eye(3) * 3.1, pbc=True)
    for many, one, factor in [(two, atoms, 2), (crystal * (2, 1, 3), crystal, 6)]:
        torch.testing.assert_close(evaluate(body, many).energy, factor * evaluate(body, one).energy)


@pytest.mark.parametrize("power", [2, 6])
def test_energy_force_and_slope_of_the_force_vanish_at_the_cutoff(power):
    """The fourth atom crosses the cutoff of the first along z, far from the others."""
    body = make_body(envelope_power=power)

    def pull(r):
        one = evaluate(body, Atoms("CHOC", [[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, r]]))
        return np.array([one.energy.item(), one.forces[3, 2].item()])

    h = 1e-2
    at, outside = pull(4.0), pull(4.0 + h)
    np.testing.assert_allclose(at, outside, atol=1e-13)
    np.testing.assert_allclose([outside[1], pull(9.0)[1]], 0, atol=1e-13)
    near, twice = (pull(4.0 - k * h) - at for k in (1, 2))
    # the envelope falls as (r_c − r)³, the Bessel functions as r_c − r
    np.testing.assert_allclose(twice / near, [2**4, 2**3], rtol=0.1)


@every_variant
def test_an_isolated_atom_has_finite_energy_and_no_force(keys):
    one = evaluate(make_body(**keys), Atoms("O"))
    assert torch.isfinite(one.energy)
    assert not one.forces.any()
    assert not one.out.layers[-1][:, 1:].any()


@pytest.mark.parametrize(("parity", "layers"), [("natural", 3), ("both", 4)])
def test_derivatives_of_first_and_second_order_are_right(parity, layers):
    body = make_body(layers=layers, channels=2, lmax=1, lmax_harmonics=1, radial_hidden=[3], parity=parity)
    graph = graph_from_ase(molecule("H2O"), body.cutoff)
    species, index = torch.tensor([2, 0, 0]), edge_index_of(graph)
    weight = body.layers[1].up.parts[0].weight.detach().clone().requires_grad_()

    def energies(vectors, weight):
        weights = {"layers.1.up.parts.0.weight": weight}
        return torch.func.functional_call(body, weights, (species, vectors, index)).energies

    inputs = (edge_vectors(graph).requires_grad_(), weight)
    assert torch.autograd.gradcheck(energies, inputs)
    assert torch.autograd.gradgradcheck(energies, inputs)


def test_energies_are_linear_in_the_last_layer():
    body, atoms = make_body(), ethanol()
    out = evaluate(body, atoms).out
    weights = body.last_layer()
    assert out.features.shape == (9, SMALL["layers"] * SMALL["readout_hidden"])
    assert weights.shape == out.features.shape[1:]
    bias = body.bias[[SPECIES[z] for z in atoms.numbers.tolist()]]
    torch.testing.assert_close(out.energies, bias + out.features @ weights)


def test_untrained_energies_are_small():
    torch.manual_seed(0)
    body = RACE(RACEConfig(), len(SPECIES), 8.0).double()
    assert 1e-4 < evaluate(body, ethanol()).out.energies.abs().max() < 0.5


@pytest.mark.parametrize("degree", [0, 2])
def test_species_table_equals_the_outer_product_with_a_species_embedding(degree):
    """Σ_fc a_z[f] m[c] W[f, c, c'] of e3nn is m V_z with V_z = Σ_f a_z[f] W[f]."""
    torch.manual_seed(0)
    width, channels, n, parity = 5, 3, 7, (-1) ** degree
    embedding = torch.randn(len(SPECIES), width)
    species = torch.randint(0, len(SPECIES), (n,))
    irreps = o3.Irreps([(channels, (degree, parity))])
    product = o3.FullTensorProduct(f"{width}x0e", irreps)
    linear = o3.Linear(product.irreps_out, irreps)
    m = torch.randn(n, 2 * degree + 1, channels)
    published = linear(product(embedding[species], m.transpose(1, 2).flatten(1)))

    table = DegreeLinear(degree, channels, channels, n_species=len(SPECIES))
    mixing = linear.weight.view(width, channels, channels) / (width * channels) ** 0.5
    with torch.no_grad():
        table.weight[:, degree] = torch.einsum("zf,fcd->zcd", embedding, mixing)
    x = torch.zeros(n, (degree + 1) ** 2, channels)
    x[:, degree**2 :] = m
    ours = table(x, species)[:, degree**2 :]
    torch.testing.assert_close(ours.transpose(1, 2).flatten(1), published, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parity", ["natural", "both"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_after_layer_t_are_of_body_order_t_plus_one(layer, parity):
    """The connected (t + 1)-neighbour part of x^t at the centre is zero, that of t neighbours is not.

    For one layer: the scalars are a sum over pairs before the SiLU of the readout (and not after it).
    """
    body = make_body(layers=5 if parity == "both" else 3, parity=parity)
    atoms = Atoms("CHOHO", [[0, 0, 0], [1.1, 0.1, 0], [-0.3, 1.3, 0.2], [0.2, -0.5, 1.2], [-1.1, -0.6, -0.5]])

    def connected(others, what):
        """Σ_{S ⊆ others} (−1)^|others − S| x_0(centre and S)."""
        total = 0
        for size in range(others + 1):
            for subset in itertools.combinations(range(1, others + 1), size):
                total += (-1) ** (others - size) * what(evaluate(body, atoms[[0, *subset]]).out)
        return total.abs().max().item()

    def feature(out):
        return out.layers[layer - 1][0]

    def stratum(out):
        return out.features[0].unflatten(0, (len(body.layers), -1))[layer - 1]

    assert connected(layer, feature) > 1e-4
    assert connected(layer + 1, feature) < 1e-13
    assert connected(layer + 1, stratum) > 1e-7


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("small", 136_995),
        ("rmd17", 1_544_707),
        ("3bpa", 1_352_195),
        ("qm9", 979_459),
        ("psb3", 979_459),
        ("obn25", 156_787),
    ],
)
def test_presets_have_the_published_depth_and_a_fixed_number_of_parameters(name, parameters):
    config = race_preset(name)
    body = RACE(config, 3, 8.0)
    assert sum(p.numel() for p in body.parameters()) == parameters
    assert (config.layers, config.parity) == ((3, "natural") if name == "small" else (5, "both"))


def test_unknown_presets_and_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="rMD18") as error:
        race_preset("rMD18")
    assert "rmd17" in str(error.value)
    with pytest.raises(ValidationError, match="lmax"):
        RACEConfig(lmax=0)
