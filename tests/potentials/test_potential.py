import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch

from atomml.errors import ConfigError, UnsupportedError
from atomml.graph.atom_graph import graph_from_ase
from atomml.potentials.config import PaperTDNConfig
from tests.potentials.conftest import E0, ethanol, make_paper_potential, make_potential, rock_salt

VARIANTS = {
    "default": {},
    "L=1": {"lmax": 1},
    "norm": {"nonlinearity": "norm"},
    "no nonlinearity, no products": {"nonlinearity": "none", "products": 0},
    "zbl": {"zbl": True},
    "per path": {"path_weights": "per_path"},
    "per l2": {"path_weights": "per_l2"},
    "so3": {"coupling": "so3", "lmax": 1},
    "gaunt": {"coupling": "gaunt", "lmax": 1},
    "three products": {"products": 3, "lmax": 1},
}


def energy_of(potential, atoms, strain=None):
    moved = atoms.copy()
    if strain is not None:
        moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return potential.predict(moved)[0].energy


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_forces_and_stress_are_derivatives_of_the_energy(keys):
    potential = make_potential(**keys).double()
    atoms, h = rock_salt(), 1e-4
    prediction = potential.predict(atoms)[0]
    for i, k in [(0, 0), (1, 2)]:
        moved = []
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[i, k] += sign * h
            moved.append(energy_of(potential, other))
        assert prediction.forces[i, k] == pytest.approx(-(moved[0] - moved[1]) / (2 * h), rel=1e-5, abs=1e-7)
    strain = np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = h / 2
    slope = (energy_of(potential, atoms, strain) - energy_of(potential, atoms, -strain)) / (2 * h)
    assert prediction.stress[5] == pytest.approx(slope / atoms.get_volume(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("mirror", [1, -1])
def test_energy_is_invariant_and_forces_rotate(keys, mirror):
    if mirror == -1 and keys.get("coupling") == "so3":
        pytest.skip("parity-odd paths tell a molecule from its mirror image")
    potential = make_potential(**keys).double()
    atoms = ethanol()
    matrix = mirror * Rotation.random(random_state=3).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.T + [3.0, -2.0, 11.0]
    before, after = potential.predict([atoms, turned])
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, before.forces @ matrix.T, atol=1e-9)


def test_a_batch_gives_what_each_structure_gives_alone(potential):
    structures = [ethanol(), rock_salt(), Atoms("C"), bulk("Li", "bcc", 3.4), molecule("H2O")]
    together = potential.predict(structures)
    for one, atoms in zip(together, structures, strict=True):
        alone = potential.predict(atoms)[0]
        assert one.energy == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(one.forces, alone.forces, atol=1e-12)
        assert one.energies.sum() == pytest.approx(one.energy, abs=1e-9)
        assert (one.stress is None) == (not atoms.pbc.all())
    assert [p.energy for p in potential.predict(structures, max_atoms=3)] == pytest.approx(
        [p.energy for p in together]
    )


def test_permuting_atoms_permutes_the_result(potential):
    atoms = ethanol()
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = potential.predict([atoms, atoms[order]])
    assert after.energy == pytest.approx(before.energy, abs=1e-10)
    np.testing.assert_allclose(after.forces, before.forces[order], atol=1e-12)


@pytest.mark.parametrize("make", [rock_salt, lambda: bulk("Li", "bcc", 3.4)])
def test_energy_is_extensive(potential, make):
    atoms = make()
    one, eight = potential.predict([atoms, atoms * (2, 2, 2)])
    assert eight.energy == pytest.approx(8 * one.energy, rel=1e-12)
    np.testing.assert_allclose(eight.stress, one.stress, atol=1e-12)


def test_distant_fragments_do_not_see_each_other(potential):
    a, b = ethanol(), molecule("H2O")
    far = a + Atoms(b.symbols, b.positions + [30.0, 0, 0])
    ea, eb, both = (p.energy for p in potential.predict([a, b, far]))
    assert both == pytest.approx(ea + eb, abs=1e-9)


def test_energy_force_and_slope_of_the_force_are_continuous_at_the_cutoff(potential):
    """A fourth atom crosses the cutoff: E, F and dF/dr change by less than their slope times the step."""

    def pull(r):
        atoms = Atoms("CHOC", [[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, r]])
        p = potential.predict(atoms)[0]
        return np.array([p.energy, p.forces[3, 2]])

    h = 1e-3
    inside, at, outside = pull(4.0 - h), pull(4.0), pull(4.0 + h)
    assert abs(inside - at).max() < 1e-6
    assert abs(outside - at).max() < 1e-12
    slopes = [(pull(4.0 - (k + 1) * h)[1] - pull(4.0 - k * h)[1]) / h for k in (0, 1)]
    assert abs(slopes[0]) < 1e-3
    assert abs(slopes[0]) < abs(slopes[1])


def test_wrapping_atoms_into_the_cell_changes_nothing(potential):
    atoms = rock_salt() * (2, 1, 1)
    moved = atoms.copy()
    moved.positions += np.array([[2, -1, 0], [0, 0, 3], [1, 1, 1], [-4, 0, 0]]) @ atoms.cell.array
    before, after = potential.predict([atoms, moved])
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, before.forces, atol=1e-10)


def test_single_precision_stays_close_to_double():
    potential = make_potential()
    atoms = [ethanol(), rock_salt() * (2, 2, 2)]
    single, double = potential.predict(atoms), potential.double().predict(atoms)
    for s, d in zip(single, double, strict=True):
        assert s.energy == pytest.approx(d.energy, abs=1e-4)
        np.testing.assert_allclose(s.forces, d.forces, atol=1e-4)


def test_isolated_atoms_and_empty_edges_have_no_forces(potential):
    lone, periodic = potential.predict([Atoms("O"), Atoms("O", cell=[20, 20, 20], pbc=True)])
    assert not lone.forces.any()
    assert not periodic.stress.any()
    assert lone.energy == pytest.approx(periodic.energy)
    assert abs(lone.energy - E0[8]) < 10


def test_unknown_element_is_refused_by_name(potential):
    with pytest.raises(UnsupportedError, match="does not know N") as error:
        potential.predict(molecule("NH3"))
    assert "H, C, O, Li, Cl" in str(error.value)


def test_prediction_leaves_global_state_alone(potential):
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    with torch.no_grad():
        potential.predict(ethanol())
        assert not torch.is_grad_enabled()
    make_potential(seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert all(p.grad is None for p in potential.parameters())


def test_same_seed_same_weights_other_seed_other_weights():
    a, b, c = (make_potential(seed=s).predict(ethanol())[0].energy for s in (1, 1, 2))
    assert a == b != c


def test_force_errors_can_be_differentiated_for_training(potential):
    graph = Batch.from_data_list([graph_from_ase(ethanol(), 4.0), graph_from_ase(rock_salt(), 4.0)])
    out = potential(graph, forces=True, stress=True, create_graph=True)
    loss = out["forces"].square().sum() + out["stress"][1].square().sum()
    loss.backward()
    weight = potential.body.layers[0].linear_in.weight
    with torch.no_grad():
        weight[0, 0, 0] += 1e-5
        up = potential(graph, forces=True, stress=True)
        weight[0, 0, 0] -= 2e-5
        down = potential(graph, forces=True, stress=True)
    slope = sum(
        s * (o["forces"].square().sum() + o["stress"][1].square().sum()) for s, o in ((1, up), (-1, down))
    )
    assert weight.grad[0, 0, 0].item() == pytest.approx(slope.item() / 2e-5, rel=1e-5)
    assert torch.isnan(out["stress"][0]).all()


def test_missing_reference_energy_is_an_error():
    from atomml.potentials.build import build_potential
    from atomml.potentials.config import TDNConfig

    with pytest.raises(ConfigError, match="No reference energy"):
        build_potential(TDNConfig(), elements=[1, 6], e0={1: 0.0}, average_neighbors=1.0, scale=1.0, seed=0)


def test_path_weights_need_the_couplings_they_exist_for():
    with pytest.raises(ConfigError, match="path_weights"):
        make_potential(path_weights="per_path", coupling="gaunt")


def test_published_network_has_the_published_number_of_parameters():
    potential = make_paper_potential(**PaperTDNConfig().model_dump(exclude={"kind"}))
    assert sum(p.numel() for p in potential.parameters()) == 4_476_676


def test_published_network_is_invariant_with_exact_factors_only():
    atoms = ethanol()
    turned = atoms.copy()
    matrix = Rotation.random(random_state=3).as_matrix()
    turned.positions = atoms.positions @ matrix.T

    def errors(rank):
        potential = make_paper_potential(rank=rank).double()
        before, after = potential.predict([atoms, turned], stress=False)
        assert np.abs(before.forces).max() > 0
        return (
            abs(after.energy - before.energy),
            np.abs(after.forces - before.forces @ matrix.T).max() / np.abs(before.forces).max(),
        )

    assert max(errors("exact")) < 1e-9
    assert max(errors("7L2")) > 1e-6


def test_published_network_predicts_energy_per_atom_and_no_stress():
    potential = make_paper_potential().double()
    a, b = ethanol(), molecule("H2O")
    p = potential.predict([a, b])
    assert [x.stress for x in p] == [None, None]
    assert p[0].energies.sum() == pytest.approx(p[0].energy)
    graph = Batch.from_data_list([graph_from_ase(x, potential.cutoff) for x in (a, b)])
    with pytest.raises(UnsupportedError, match="no stress"):
        potential(graph, stress=True)
    body = potential.body(potential.species_of_z[graph.z], *_edges(graph)).energies
    expected = 9 * body[:9].sum().item() + sum(E0[z] for z in a.numbers)
    assert p[0].energy == pytest.approx(expected)


def test_published_network_sees_only_the_nearest_neighbours():
    crystal = bulk("Li", "bcc", 3.4) * (2, 2, 2)
    crystal.rattle(0.05, seed=0)
    few, many = (make_paper_potential(max_neighbors=n).double().predict(crystal)[0] for n in (4, 100))
    assert few.energy != many.energy


def _edges(graph):
    from atomml.graph.atom_graph import edge_index_of, edge_vectors

    return edge_vectors(graph), edge_index_of(graph)


def batch_of(*structures):
    return Batch.from_data_list([graph_from_ase(a, 4.0) for a in structures])


def directions(potential, count, seed=0):
    n_features = potential.last_layer().shape[0]
    return torch.randn(n_features, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STRUCTURES = (ethanol(), rock_salt(), Atoms("C"), bulk("Li", "bcc", 3.4))


def test_derivatives_along_the_weights_of_the_last_layer_are_those_of_the_potential(potential):
    """E = E0 + scale (bias + Σ f·w): w itself and any combination of directions is known."""
    w = potential.last_layer().detach()[:, None]
    other, mix = directions(potential, 2), torch.tensor([0.3, -1.7, 2.0], dtype=torch.float64)
    along = torch.cat([w, other], 1)
    out = potential(batch_of(*STRUCTURES), stress=True, along=torch.cat([along, (along @ mix)[:, None]], 1))
    constant = potential.references.e0[potential._species(batch_of(*STRUCTURES).z)]
    torch.testing.assert_close(
        out["energies_along"][:, 0] + potential.scale * potential.body.bias.detach()[0] + constant,
        out["energies"],
        rtol=0,
        atol=1e-9,
    )
    torch.testing.assert_close(out["forces_along"][0], out["forces"], rtol=0, atol=1e-12)
    torch.testing.assert_close(out["stress_along"][0], out["stress"], rtol=0, atol=1e-12, equal_nan=True)
    for name in ("forces_along", "stress_along"):
        combined = torch.einsum("r,r...->...", mix, out[name][:3])
        torch.testing.assert_close(out[name][3], combined, rtol=0, atol=1e-11, equal_nan=True)


def test_derivatives_along_a_direction_are_differences_of_its_energies(potential):
    atoms, h, d = rock_salt(), 1e-4, directions(potential, 2)

    def summed(strain=None, move=None):
        moved = atoms.copy()
        if strain is not None:
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        if move is not None:
            moved.positions[move[:2]] += move[2]
        return potential(batch_of(moved), forces=False, along=d)["energies_along"].sum(0)

    out = potential(batch_of(atoms), stress=True, along=d)
    for i, k in [(0, 0), (1, 2)]:
        slope = (summed(move=(i, k, h)) - summed(move=(i, k, -h))) / (2 * h)
        torch.testing.assert_close(out["forces_along"][:, i, k], -slope, rtol=1e-5, atol=1e-7)
    strain = np.zeros((3, 3))
    strain[0, 2] = strain[2, 0] = h / 2
    slope = (summed(strain) - summed(-strain)) / (2 * h) / atoms.get_volume()
    torch.testing.assert_close(out["stress_along"][:, 0, 0, 2], slope, rtol=1e-5, atol=1e-9)


def test_derivatives_along_directions_are_the_same_alone_and_in_a_batch(potential):
    d = directions(potential, 3)
    together = potential(batch_of(*STRUCTURES), stress=True, along=d)
    start = 0
    for k, atoms in enumerate(STRUCTURES):
        alone = potential(batch_of(atoms), stress=True, along=d)
        rows = slice(start, start := start + len(atoms))
        for name, value in (
            ("energies_along", together["energies_along"][rows]),
            ("forces_along", together["forces_along"][:, rows]),
            ("stress_along", together["stress_along"][:, k : k + 1]),
        ):
            torch.testing.assert_close(alone[name], value, rtol=0, atol=1e-11, equal_nan=True)


def test_without_pairs_nothing_changes_along_a_direction(potential):
    out = potential(
        batch_of(Atoms("O"), Atoms("O", cell=[20, 20, 20], pbc=True)),
        stress=True,
        along=directions(potential, 2),
    )
    assert not out["forces_along"].any()
    assert out["stress_along"][:, 0].isnan().all()
    assert not out["stress_along"][:, 1].any()
    assert out["energies_along"].any()


def test_without_derivatives_only_energies_are_projected(potential):
    d = directions(potential, 2)
    out = potential(batch_of(ethanol()), forces=False, along=d)
    assert "forces_along" not in out
    torch.testing.assert_close(out["energies_along"], potential.scale * out["features"] @ d)


def test_a_network_without_a_last_layer_has_no_directions():
    potential = make_paper_potential()
    assert potential.heads == 1
    with pytest.raises(UnsupportedError, match="no linear last layer"):
        potential(batch_of(ethanol()), along=torch.ones(8, 1))


def test_heads_are_members_around_the_energy():
    potential = make_potential(heads=5).double()
    out = potential(batch_of(*STRUCTURES))
    body = out["features"] @ potential.spread.detach()
    torch.testing.assert_close(
        out["energies_members"] - out["energies_members"][:, :1],
        potential.scale * (body - body[:, :1]),
        rtol=0,
        atol=1e-9,
    )
    torch.testing.assert_close(out["energies_members"].mean(1), out["energies"], rtol=0, atol=1e-9)
    torch.testing.assert_close(out["energy_members"].mean(1), out["energy"], rtol=0, atol=1e-9)
    ethanol_rows = out["energies_members"][: len(ethanol())]
    torch.testing.assert_close(out["energy_members"][0], ethanol_rows.sum(0), rtol=0, atol=1e-9)


def test_heads_leave_the_energy_alone():
    """Mean and spread have no weight in common: nothing that the spread learns changes the mean."""
    one, several = make_potential().double(), make_potential(heads=4).double()
    several.load_state_dict(one.state_dict() | {"spread": 100 * several.spread.detach()})
    plain, spread = one(batch_of(*STRUCTURES)), several(batch_of(*STRUCTURES))
    for name, value in plain.items():
        torch.testing.assert_close(spread[name], value, rtol=0, atol=0)


def test_one_head_has_no_members(potential):
    assert not [name for name in potential(batch_of(ethanol())) if "members" in name]


def body_gradient(potential, quantity, feedback):
    """Gradient with respect to the body of a sum over what the deviations are made of."""
    potential.zero_grad()
    out = potential(batch_of(ethanol(), rock_salt()), create_graph=True, noise_feedback=feedback)
    value = out[quantity]
    (value.var(1).sum() if value.ndim == 2 else value.log().sum()).backward()
    names = ("body.embedding", "body.layers.0.linear_in.weight")
    parameters = dict(potential.named_parameters())
    return torch.cat(
        [
            (parameters[n].grad if parameters[n].grad is not None else 0 * parameters[n]).flatten()
            for n in names
        ]
    )


@pytest.mark.parametrize("quantity", ["energy_var", "energies_members"])
def test_feedback_is_a_factor_of_the_gradient_from_deviations_to_the_body(quantity):
    potential = make_potential(heads=3, noise={"forces": "isotropic"}).double()
    full, half, none = (body_gradient(potential, quantity, f) for f in (1.0, 0.5, 0.0))
    assert full.abs().max() > 0
    torch.testing.assert_close(half, full / 2, rtol=1e-10, atol=1e-10 * full.abs().max().item())
    assert none.abs().max() < 1e-10 * full.abs().max()  # rounding of total energies


def test_feedback_changes_no_number():
    potential = make_potential(heads=3, noise={}).double()
    one, other = (potential(batch_of(*STRUCTURES), noise_feedback=f) for f in (1.0, 0.3))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-14, atol=1e-14)


def test_the_spread_of_heads_has_no_gradient_to_their_mean():
    """What the heads differ in does not pull at the energy."""
    potential = make_potential(heads=4).double()
    out = potential(batch_of(ethanol()), create_graph=True, noise_feedback=0.0)
    out["energy_members"].var(1).sum().backward()
    assert potential.spread.grad.abs().max() > 0
    limit = 1e-10 * potential.spread.grad.abs().max()  # rounding of total energies
    assert all(p.grad is None or p.grad.abs().max() < limit for p in potential.body.parameters())
