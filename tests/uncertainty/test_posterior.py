"""Spread over members and over the last layer: by hand, by differences, under rotations and in supercells."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch

from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.graph.atom_graph import graph_from_ase
from atomml.potentials.build import build_potential
from atomml.potentials.config import TDNConfig
from atomml.training.llpr import estimated_scales
from atomml.uncertainty.bayesian import BayesianPotential
from atomml.uncertainty.last_layer import spread_factor
from atomml.uncertainty.model_file import head_posterior
from atomml.uncertainty.posterior import LastLayer, Members, PointEstimate
from tests.potentials.conftest import E0, ELEMENTS, ethanol, make_paper_potential, make_potential, rock_salt

STRUCTURES = (molecule("H2O"), rock_salt(), Atoms("C"))
ALL = {"forces": True, "stress": True, "exact": False, "members": False}
MOMENTS = ("energy_var_epistemic", "energies_var_epistemic", "forces_cov_epistemic", "stress_var_epistemic")


def batch_of(*structures):
    return Batch.from_data_list([graph_from_ase(a, 4.0) for a in structures])


def potentials(count=3, **keys):
    return [make_potential(seed, **keys).double() for seed in range(count)]


def gaussian_factor(potential, rank=6, seed=0, size=0.1):
    n_features = potential.last_layer().shape[0]
    return size * np.random.default_rng(seed).normal(size=(n_features, rank))


def last_layer(**keys):
    potential = make_potential(**keys).double()
    return LastLayer(
        potential,
        gaussian_factor(potential),
        "llpr",
        per_force=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        per_stress=0.7,
    )


def detached(out):
    return {name: value.detach() for name, value in out.items()}


POSTERIORS = {
    "ensemble": lambda: Members(potentials()),
    "last layer": last_layer,
    "heads": lambda: head_posterior(make_potential(heads=4).double()),
    "noisy ensemble": lambda: Members(potentials(noise={})),
    "noisy heads": lambda: head_posterior(make_potential(heads=4, noise={"forces": "outer"}).double()),
    "noise alone": lambda: PointEstimate(make_potential(noise={}).double()),
}


EXACT_OR_NOT = pytest.mark.parametrize(
    ("make", "exact"),
    [
        pytest.param(make, exact, id=name + " exact" * exact)
        for name, make in POSTERIORS.items()
        for exact in ((False, True) if name in ("last layer", "heads") else (False,))
    ],
)


@EXACT_OR_NOT
def test_a_batch_gives_what_each_structure_gives_alone(make, exact):
    posterior = make()
    options = ALL | {"exact": exact}
    together = detached(posterior(batch_of(*STRUCTURES), **options))
    ends = np.cumsum([len(a) for a in STRUCTURES])
    for k, (end, atoms) in enumerate(zip(ends, STRUCTURES, strict=True)):
        alone = detached(posterior(batch_of(atoms), **options))
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            per_atom = name.startswith(("energies", "forces"))
            rows = slice(end - len(atoms), end) if per_atom else slice(k, k + 1)
            torch.testing.assert_close(value, together[name][rows], rtol=1e-9, atol=1e-12, equal_nan=True)


@EXACT_OR_NOT
def test_deviations_turn_with_the_structure(make, exact):
    posterior = make()
    matrix = Rotation.random(random_state=1).as_matrix()
    turned = rock_salt()
    turned.set_cell(turned.cell.array @ matrix.T, scale_atoms=True)
    before, after = (
        detached(posterior(batch_of(a), **ALL | {"exact": exact})) for a in (rock_salt(), turned)
    )
    rotation = torch.from_numpy(matrix)
    for name in ("energy", "energies", "energy_var", "energies_var", *MOMENTS[:2]):
        if name in before:
            torch.testing.assert_close(after[name], before[name], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after["forces"], before["forces"] @ rotation.T, rtol=0, atol=1e-10)
    for name in ("forces_cov", "forces_cov_epistemic"):
        if name in before:
            expected = rotation @ before[name] @ rotation.T
            torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-10)
            assert before[name].abs().max() > 1e-6


@pytest.mark.parametrize("make", POSTERIORS.values(), ids=POSTERIORS)
def test_variances_are_not_negative_and_covariances_symmetric(make):
    out = detached(make()(batch_of(*STRUCTURES), **ALL | {"exact": True}))
    for name, value in out.items():
        if "_var" in name:
            assert value[~value.isnan()].min() >= 0
        if "_cov" in name:
            torch.testing.assert_close(value, value.transpose(1, 2))
            assert torch.linalg.eigvalsh(value).min() > -1e-12


# -- members


def rounded(covariance, members):
    """The covariance drawn towards a sphere, as `Members` says."""
    w = 3 / (members + 3)
    trace = torch.einsum("nii->n", covariance)
    return (1 - w) * covariance + w * trace[:, None, None] / 3 * torch.eye(3, dtype=covariance.dtype)


def test_spread_of_members_by_hand():
    members, graph = potentials(noise={}), batch_of(*STRUCTURES)
    out = detached(Members(members)(graph, **ALL))
    each = [detached(p(graph, stress=True)) for p in members]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0] if name != "features"}
    for name in ("energy", "energies", "forces", "stress"):
        torch.testing.assert_close(out[name], stacked[name].mean(0), rtol=1e-12, atol=1e-9, equal_nan=True)
    for name in ("energy", "energies", "stress"):
        expected = stacked[name].var(0, correction=0)
        torch.testing.assert_close(
            out[f"{name}_var_epistemic"], expected, rtol=1e-6, atol=1e-12, equal_nan=True
        )
    deviation = stacked["forces"] - stacked["forces"].mean(0)
    covariance = rounded(torch.einsum("mni,mnj->nij", deviation, deviation) / len(members), len(members))
    torch.testing.assert_close(out["forces_cov_epistemic"], covariance, rtol=1e-10, atol=1e-14)
    for name in ("energy_var", "energies_var", "forces_cov", "stress_var"):
        torch.testing.assert_close(out[name], stacked[name].mean(0), rtol=1e-12, atol=1e-14)


def test_mean_force_is_the_gradient_of_the_mean_energy():
    model, atoms, h = BayesianPotential(Members(potentials())), rock_salt(), 1e-4
    prediction = model.predict(atoms)[0]
    for i, k in [(0, 1), (1, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, k] += sign * h
            energies.append(model.predict(moved)[0].energy)
        slope = (energies[0] - energies[1]) / (2 * h)
        assert prediction.forces[i, k] == pytest.approx(-slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("stretch", [1.0, 50.0])
def test_members_are_consistent_with_mean_and_spread(stretch):
    posterior, graph = Members(potentials(), "swag", stretch=stretch), batch_of(*STRUCTURES)
    out = detached(posterior(graph, **ALL | {"members": True}))
    assert out["energy_members"].shape == (len(STRUCTURES), 3)
    assert out["forces_members"].shape == (3, graph.num_nodes, 3)
    assert out["stress_members"].shape == (3, len(STRUCTURES), 3, 3)
    torch.testing.assert_close(out["energy_members"].mean(1), out["energy"], rtol=0, atol=1e-8)
    torch.testing.assert_close(
        out["energy_members"].var(1, correction=0), out["energy_var_epistemic"], rtol=1e-5, atol=1e-9
    )
    deviation = out["forces_members"] - out["forces"]
    torch.testing.assert_close(
        rounded(torch.einsum("mni,mnj->nij", deviation, deviation) / len(deviation), len(deviation)),
        out["forces_cov_epistemic"],
        rtol=1e-9,
        atol=1e-12,
    )
    torch.testing.assert_close(
        out["stress_members"].var(0, correction=0),
        out["stress_var_epistemic"],
        rtol=1e-8,
        atol=1e-14,
        equal_nan=True,
    )


def test_stretch_multiplies_the_spread_and_leaves_the_mean():
    graph = batch_of(*STRUCTURES)
    one, ten = (detached(Members(potentials(), "ivon", stretch=s)(graph, **ALL)) for s in (1.0, 10.0))
    for name in MOMENTS:
        torch.testing.assert_close(ten[name], 100 * one[name], rtol=1e-12, atol=0, equal_nan=True)
    torch.testing.assert_close(ten["forces"], one["forces"], rtol=0, atol=0)


def test_a_broken_member_is_named():
    members = potentials(noise={})
    with torch.no_grad():
        members[2].body.embedding.fill_(torch.nan)
    with pytest.raises(DataError, match="not finite") as caught:
        Members(members)(batch_of(ethanol()), **ALL)
    assert "member 2" in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (lambda: potentials(1), "no spread"),
        (
            lambda: [make_potential(), make_potential(channels=4)],
            "Member 1 has other elements or another network",
        ),
        (lambda: [make_potential(), make_potential(noise={})], "Member 1"),
        (
            lambda: [
                make_potential(),
                build_potential(
                    TDNConfig(**make_potential().config.model_dump()),
                    elements=ELEMENTS[:3],
                    e0=E0,
                    average_neighbors=12.0,
                    scale=0.8,
                    seed=0,
                ),
            ],
            "Member 1",
        ),
    ],
)
def test_members_that_make_no_ensemble_are_refused(members, message):
    with pytest.raises(ConfigError, match=message):
        Members(members())


@pytest.mark.parametrize("stretch", [0.0, -1.0, float("nan"), float("inf")])
def test_a_stretch_must_be_positive(stretch):
    with pytest.raises(ConfigError, match="stretch"):
        Members(potentials(2), stretch=stretch)


def test_molecules_have_no_stress_and_no_deviation_of_it():
    slab = Atoms("Li", cell=[4, 4, 20], pbc=[True, True, False])
    for make in POSTERIORS.values():
        out = BayesianPotential(make())(batch_of(ethanol(), rock_salt(), slab), stress=True)
        for name in ("stress", "stress_std"):
            assert out[name][0].isnan().all()
            assert out[name][2].isnan().all()
            assert out[name][1].isfinite().all()
        assert all(value.isfinite().all() for name, value in out.items() if "stress" not in name)


def test_members_with_direct_forces_have_deviations_without_stress():
    members = []
    for seed in range(3):
        potential = make_paper_potential().double()
        with torch.no_grad():
            potential.body.embedding.weight.mul_(1 + 0.1 * seed)
        members.append(potential)
    model = BayesianPotential(Members(members))
    prediction = model.predict(ethanol())[0]
    assert "stress_std" not in model.deviations
    assert prediction.stress is None
    assert prediction.stress_std is None
    assert prediction.energy_std > 0
    assert prediction.forces_std.min() > 0


# -- last layer


def test_energy_spread_of_the_last_layer_by_hand():
    posterior, graph = last_layer(), batch_of(*STRUCTURES)
    out = detached(posterior(graph, **ALL))
    features = posterior.potential(graph, forces=False)["features"].detach().numpy()
    covariance = posterior.factor.numpy() @ posterior.factor.numpy().T
    scale = posterior.potential.scale
    expected = scale**2 * np.einsum("np,pq,nq->n", features, covariance, features)
    np.testing.assert_allclose(out["energies_var_epistemic"], expected, rtol=1e-10)
    for k in range(len(STRUCTURES)):
        summed = features[graph.batch.numpy() == k].sum(0)
        assert out["energy_var_epistemic"][k].item() == pytest.approx(
            scale**2 * summed @ covariance @ summed, rel=1e-10
        )


def test_estimated_spread_of_forces_and_stress_by_hand():
    posterior, graph = last_layer(), batch_of(*STRUCTURES)
    out = detached(posterior(graph, **ALL))
    kappa = torch.tensor([float(1 + ELEMENTS.index(z)) for z in graph.z], dtype=torch.float64)
    expected = (kappa**2 * out["energies_var_epistemic"])[:, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(out["forces_cov_epistemic"], expected)
    salt = graph.batch == 1
    variance = 0.7**2 * out["energies_var_epistemic"][salt].sum() / rock_salt().get_volume() ** 2
    torch.testing.assert_close(out["stress_var_epistemic"][1], variance.expand(3, 3))


def test_exact_spread_of_forces_and_stress_is_that_of_differences_of_energies():
    """With W + √ε A_r in place of W the energy changes by ∂E/∂W·A_r: its derivatives give each column."""
    posterior, atoms, h = last_layer(), rock_salt(), 1e-4
    out = detached(posterior(batch_of(atoms), **ALL | {"exact": True}))

    def energies(moved):
        summed = posterior.potential(batch_of(moved), forces=False)["features"].detach().sum(0)
        return posterior.potential.scale * summed @ posterior.factor

    def slope(change):
        up, down = atoms.copy(), atoms.copy()
        change(up, h)
        change(down, -h)
        return (energies(up) - energies(down)) / (2 * h)

    def move(k):
        return lambda a, step: a.positions.__setitem__((1, k), a.positions[1, k] + step)

    def strain(a, step):
        matrix = np.eye(3)
        matrix[0, 1] = matrix[1, 0] = step / 2
        a.set_cell(a.cell.array @ matrix, scale_atoms=True)

    columns = torch.stack([-slope(move(k)) for k in range(3)])
    torch.testing.assert_close(out["forces_cov_epistemic"][1], columns @ columns.T, rtol=1e-5, atol=1e-9)
    shear = slope(strain) / atoms.get_volume()
    assert out["stress_var_epistemic"][0, 0, 1].item() == pytest.approx(shear.square().sum().item(), rel=1e-5)


def test_the_mean_does_not_depend_on_what_is_said_about_it():
    posterior, graph = last_layer(), batch_of(*STRUCTURES)
    plain = detached(posterior.potential(graph, stress=True))
    for options in ({}, {"exact": True}, {"members": True}):
        out = detached(posterior(graph, **ALL | options))
        for name in ("energy", "energies", "forces", "stress"):
            torch.testing.assert_close(out[name], plain[name], rtol=0, atol=1e-12, equal_nan=True)


def test_a_shallow_ensemble_is_the_spread_of_its_heads():
    """Each head as a potential of its own gives the same mean and the same spread as the posterior."""
    potential, graph = make_potential(heads=5).double(), batch_of(*STRUCTURES)
    posterior = head_posterior(potential)
    assert isinstance(posterior, LastLayer)
    out = detached(posterior(graph, **ALL | {"members": True}))
    heads = potential.last_layer()[:, None] + potential.spread - potential.spread.mean(1, True)
    members = []
    for head in heads.detach().T:
        one = make_potential().double()
        one.load_state_dict({k: v for k, v in potential.state_dict().items() if k != "spread"})
        with torch.no_grad():
            layers = one.body._last_layers()
            for layer, weights in zip(layers, head.split([w.weight.shape[1] for w in layers]), strict=True):
                layer.weight.copy_(weights[None])
        torch.testing.assert_close(one.last_layer(), head)
        members.append(one)
    explicit = detached(Members(members)(graph, **ALL | {"members": True}))
    out["forces_cov_epistemic"] = rounded(out["forces_cov_epistemic"], 5)
    for name in ("energy", "forces", "stress", *MOMENTS):
        torch.testing.assert_close(out[name], explicit[name], rtol=1e-6, atol=1e-9, equal_nan=True)
    for name in ("energy_members", "forces_members", "stress_members"):
        torch.testing.assert_close(out[name], explicit[name], rtol=0, atol=1e-8, equal_nan=True)


def test_heads_have_the_spread_that_is_reported_with_them():
    posterior = head_posterior(make_potential(heads=4).double())
    out = detached(posterior(batch_of(*STRUCTURES), **ALL | {"members": True}))
    torch.testing.assert_close(out["energy_members"].mean(1), out["energy"], rtol=0, atol=1e-8)
    torch.testing.assert_close(
        out["energy_members"].var(1, correction=0), out["energy_var_epistemic"], rtol=1e-6, atol=1e-10
    )
    deviation = out["forces_members"] - out["forces"]
    covariance = torch.einsum("mni,mnj->nij", deviation, deviation) / len(deviation)
    torch.testing.assert_close(covariance, out["forces_cov_epistemic"], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("exact", [False, True])
def test_draws_from_the_last_layer_leave_the_reported_spread_alone(exact):
    posterior, graph = last_layer(), batch_of(*STRUCTURES)
    plain = detached(posterior(graph, **ALL | {"exact": exact}))
    out = detached(posterior(graph, **ALL | {"exact": exact, "members": True}))
    for name in MOMENTS:
        torch.testing.assert_close(out[name], plain[name], rtol=1e-9, atol=1e-12, equal_nan=True)
    for name, axis in (("energy", 1), ("forces", 0), ("stress", 0)):
        off = out[f"{name}_members"].mean(axis) - out[name]
        assert off.nan_to_num().abs().max() < 1e-8
    assert out["energy_members"].shape[1] == 16


def test_draws_from_the_last_layer_are_the_same_every_time_and_as_wide_as_it():
    potential = make_potential().double()
    factor = gaussian_factor(potential, rank=400)
    drawn, again = (LastLayer(potential, factor, "llpr").draws() for _ in range(2))
    assert torch.equal(drawn, again)
    assert drawn.sum(1).abs().max() < 1e-12
    # 400 directions with 15 degrees of freedom each
    assert drawn.square().sum().item() == pytest.approx((factor**2).sum(), rel=0.1)


def test_the_estimate_is_exact_on_average_over_what_it_was_scaled_with():
    graphs = [batch_of(ethanol(), rock_salt()), batch_of(molecule("H2O"), bulk("Li", "bcc", 3.4))]
    posterior = estimated_scales(last_layer(), graphs)
    sums = {"exact": torch.zeros(5), "estimate": torch.zeros(5)}
    stress = {"exact": 0.0, "estimate": 0.0}
    for graph in graphs:
        species = posterior.potential.species_of_z[graph.z]
        for name in sums:
            out = detached(posterior(graph, **ALL | {"exact": name == "exact"}))
            trace = out["forces_cov_epistemic"].diagonal(dim1=1, dim2=2).sum(1)
            sums[name] = sums[name].double().index_add(0, species, trace)
            stress[name] += out["stress_var_epistemic"].diagonal(dim1=1, dim2=2).nansum().item()
    torch.testing.assert_close(sums["estimate"], sums["exact"], rtol=1e-9, atol=0)
    assert stress["estimate"] == pytest.approx(stress["exact"], rel=1e-9)
    assert len(set(posterior.per_force.tolist())) == 5


def test_an_element_that_was_never_seen_has_the_common_scale():
    posterior = estimated_scales(last_layer(), [batch_of(molecule("H2O"), molecule("OH"))])
    h, c, o, li, cl = posterior.per_force.tolist()
    assert c == li == cl
    assert min(h, o) < c < max(h, o)


@pytest.mark.parametrize(
    ("factor", "keys", "message"),
    [
        (np.zeros((3, 2)), {}, "3 rows for"),
        (None, {"per_force": np.ones(2)}, "2 scales of forces for 5 elements"),
    ],
)
def test_a_covariance_of_another_network_is_refused(factor, keys, message):
    potential = make_potential()
    factor = gaussian_factor(potential) if factor is None else factor
    with pytest.raises(ConfigError, match=message):
        LastLayer(potential, factor, "llpr", **keys)


def test_a_network_without_a_last_layer_is_refused():
    with pytest.raises(UnsupportedError, match="no linear last layer"):
        LastLayer(make_paper_potential(), np.zeros((3, 2)), "llpr")


def test_one_head_is_a_point():
    assert isinstance(head_posterior(make_potential()), PointEstimate)
    assert isinstance(head_posterior(make_paper_potential()), PointEstimate)


def test_spread_factor_is_what_the_heads_are_stored_as():
    potential = make_potential(heads=3).double()
    posterior = head_posterior(potential)
    torch.testing.assert_close(posterior.factor, spread_factor(potential.spread.detach()))


# -- size


@pytest.mark.parametrize("name", ["ensemble", "last layer", "heads"])
def test_what_is_not_known_grows_with_the_number_of_replicas(name):
    """The same mistake k times: epistemic deviations of exact replicas add up, they do not average out."""
    posterior, atoms = POSTERIORS[name](), rock_salt()
    one, eight = (
        detached(posterior(batch_of(a), **ALL | {"exact": True})) for a in (atoms, atoms * (2, 2, 2))
    )
    assert eight["energy_var_epistemic"].sqrt().item() == pytest.approx(
        8 * one["energy_var_epistemic"].sqrt().item(), rel=1e-6
    )
    torch.testing.assert_close(
        eight["forces_cov_epistemic"].reshape(8, 2, 3, 3),
        one["forces_cov_epistemic"].expand(8, 2, 3, 3),
        rtol=1e-6,
        atol=1e-12,
    )
    torch.testing.assert_close(
        eight["stress_var_epistemic"], one["stress_var_epistemic"], rtol=1e-6, atol=1e-14
    )


@pytest.mark.parametrize(("energy", "factor"), [("sum", 8**0.5), ("mean", 1.0)])
def test_noise_of_replicas_adds_up_as_configured(energy, factor):
    """``sum``: independent noise of the atoms, √k; ``mean``: of the structure as a whole, 1."""
    potential = make_potential(noise={"energy": energy}).double()
    one, eight = (
        detached(potential(batch_of(a), stress=True)) for a in (rock_salt(), rock_salt() * (2, 2, 2))
    )
    ratio = (eight["energy_var"] / one["energy_var"]).sqrt().item()
    assert ratio == pytest.approx(factor, rel=1e-9)
    torch.testing.assert_close(eight["stress_var"], one["stress_var"])
