"""Compiled potentials: the same energy surface as their source, with either engine."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from torch_geometric.data import Batch, Data

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex, graph_from_ase, transpose_index
from atomml.graph.neighbors import neighbor_list
from atomml.nn.radial_table import tabulate
from atomml.potentials.compiled import CompiledPotential, native_available
from atomml.potentials.potential import _Structure
from atomml.simulate import Calculator, run_md
from tests.potentials.conftest import E0, ethanol, make_potential, rock_salt

VARIANTS = {
    "default": {},
    "L=1": {"lmax": 1},
    "L=3": {"lmax": 3, "layers": 1, "channels": 4},
    "three layers": {"layers": 3, "lmax": 1},
    "norm": {"nonlinearity": "norm"},
    "no nonlinearity, no products": {"nonlinearity": "none", "products": 0},
    "zbl": {"zbl": True},
    "per path": {"path_weights": "per_path"},
    "per l2": {"path_weights": "per_l2"},
    "so3": {"coupling": "so3", "lmax": 1},
    "gaunt": {"coupling": "gaunt", "lmax": 1},
    "three products": {"products": 3, "lmax": 1},
    "published rank": {"rank": "7L2", "lmax": 1},
    "odd channels": {"channels": 5, "lmax": 1},
}


class Evaluator:
    """What the native evaluator does, in plain torch: pairs beyond the cutoff are skipped."""

    def __init__(self, compiled):
        self.compiled = compiled

    def evaluate(self, species, pos, cell, batch, neighbor, center, shift, *, stress, threads):
        vectors = pos[neighbor] - pos[center] + torch.einsum("ea,eab->eb", shift, cell[batch[center]])
        keep = vectors.norm(dim=1) < self.compiled.cutoff
        vectors, neighbor, center = vectors[keep], neighbor[keep], center[keep]
        pointers = [
            torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(i, minlength=len(pos)).cumsum(0)])
            for i in (center, neighbor)
        ]
        index = EdgeIndex(neighbor, center, pointers[0], transpose_index(neighbor), pointers[1])
        with torch.enable_grad():
            edges = vectors.to(self.compiled.dtype).requires_grad_()
            structure = _Structure(species, index, batch, Data(cell=cell))
            energies, body = self.compiled._energies(structure, edges)
            pair = torch.autograd.grad(energies.sum(), edges)[0].double() if len(edges) else edges.double()
        forces = torch.zeros_like(pos).index_add(0, center, pair).index_add(0, neighbor, -pair)
        virial = torch.zeros_like(cell).index_add(0, batch[center], vectors[:, :, None] * pair[:, None])
        assert threads == torch.get_num_threads()
        out = {"energies": energies.detach(), "forces": forces.detach(), "features": body.features.detach()}
        return out | {"virial": virial.detach()}


@pytest.fixture(params=["torch", "arrays", "native"])
def engine(request, monkeypatch):
    """Functions that prepare a compiled potential; ``arrays`` is the way of the native engine without it."""
    if request.param == "native" and not native_available():
        pytest.skip("the native engine was not built")

    def prepare(compiled):
        if request.param != "arrays":
            return compiled.use_engine(request.param)
        compiled._wanted, compiled._native = "native", Evaluator(compiled)
        return compiled

    return prepare


def compile_with(potential, knots=1025, dtype=torch.float64):
    exact = copy.deepcopy(potential).double()
    tables = [tabulate(layer.radial, potential.cutoff, knots=knots) for layer in exact.body.layers]
    return CompiledPotential(exact, tables).to(dtype)


def structures():
    slab = fcc111("Li", (2, 2, 2), a=4.3, vacuum=4.0)
    slab.numbers[:3] = 8
    slab.rattle(0.1, seed=1)
    crystal = rock_salt() * (2, 2, 2)
    crystal.rattle(0.1, seed=2)
    return [ethanol(), rock_salt(), slab, Atoms("C"), bulk("Li", "bcc", 3.0), molecule("H2O"), crystal]


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_a_compiled_potential_says_what_its_source_says(keys, engine):
    potential = make_potential(**keys)
    compiled = engine(compile_with(potential, dtype=torch.float32))
    exact, single = potential.double().predict(structures()), compiled.predict(structures())
    for a, b, atoms in zip(single, exact, structures(), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-5 * len(atoms))
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-4)
        np.testing.assert_allclose(a.energies, b.energies, atol=1e-4)
        assert (a.stress is None) == (b.stress is None)
        if b.stress is not None:
            np.testing.assert_allclose(a.stress, b.stress, atol=1e-5)


@pytest.mark.parametrize("knots", [33, 1025])
def test_forces_and_stress_are_the_exact_gradient_of_the_tabulated_energy(knots, engine):
    compiled, h = engine(compile_with(make_potential(zbl=True), knots)), 1e-5
    atoms = rock_salt()
    prediction = compiled.predict(atoms)[0]

    def slope(move):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            move(moved, sign * h)
            energies.append(compiled.predict(moved)[0].energy)
        return (energies[0] - energies[1]) / (2 * h)

    def push(moved, step):
        moved.positions[1, 2] += step

    def shear(moved, step):
        strain = np.eye(3)
        strain[0, 1] = strain[1, 0] = step / 2
        moved.set_cell(moved.cell.array @ strain, scale_atoms=True)

    assert prediction.forces[1, 2] == pytest.approx(-slope(push), rel=1e-5, abs=1e-6)
    assert prediction.stress[5] == pytest.approx(slope(shear) / atoms.get_volume(), rel=1e-5, abs=1e-7)


def test_energy_and_force_are_continuous_at_the_cutoff_and_at_a_knot(engine):
    compiled = engine(compile_with(make_potential(), knots=65))

    def pull(r):
        atoms = Atoms("CHOC", [[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, r]])
        p = compiled.predict(atoms)[0]
        return np.array([p.energy, p.forces[3, 2]])

    h = 1e-6
    for r in (4.0, 40 * compiled.tables[0].spacing):
        assert abs(pull(r - h)[1] - pull(r + h)[1]) < 1e-4 * abs(pull(2.5)[1])
    assert abs(pull(4.0 - h) - pull(4.0)).max() < 1e-8
    np.testing.assert_array_equal(pull(4.0), pull(4.0 + h))


def test_a_batch_gives_what_each_structure_gives_alone(engine):
    compiled = engine(compile_with(make_potential()))
    together = compiled.predict(structures())
    graph = Batch.from_data_list([graph_from_ase(a, compiled.cutoff) for a in structures()])
    out = compiled(graph, forces=True, stress=True)
    assert {"energy", "energies", "features", "forces", "stress"} == out.keys()
    assert not any(value.requires_grad for value in out.values())
    assert "forces" not in compiled(graph, forces=False)
    start = 0
    for k, (one, atoms) in enumerate(zip(together, structures(), strict=True)):
        alone = compiled.predict(atoms)[0]
        rows = slice(start, start + len(atoms))
        start += len(atoms)
        assert one.energy == pytest.approx(alone.energy, abs=1e-9)
        assert out["energy"][k] == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(one.forces, alone.forces, atol=1e-12)
        np.testing.assert_allclose(out["forces"][rows], alone.forces, atol=1e-12)
        if alone.stress is None:
            assert torch.isnan(out["stress"][k]).all()
        else:
            assert out["stress"][k, 0, 1] == pytest.approx(alone.stress[5], abs=1e-12)


def test_pairs_beyond_the_cutoff_are_skipped(engine):
    compiled = engine(compile_with(make_potential()))
    if not compiled.takes_arrays:
        pytest.skip("the torch engine takes graphs")
    atoms = rock_salt()
    results = []
    for reach in (compiled.cutoff, compiled.cutoff + 1.5):
        pairs = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        arrays = (
            atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array[None], atoms.pbc[None],
            np.zeros(len(atoms), dtype=np.int64), *pairs,
        )  # fmt: skip
        results.append(compiled.evaluate_arrays(*arrays, stress=True))
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("skin", [0.0, 0.6])
def test_the_calculator_gives_the_same_along_a_trajectory(engine, skin):
    potential = make_potential(lmax=1).double()
    compiled = engine(compile_with(potential))
    atoms, rng = structures()[-1], np.random.default_rng(0)
    fast, plain = Calculator(compiled, skin=skin), Calculator(potential, skin=0.0)
    for step in range(12):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        if step == 6:
            atoms.wrap()
            atoms.positions[3] += 2 * atoms.cell[0] - atoms.cell[2]
        a, b = atoms.copy(), atoms.copy()
        a.calc, b.calc = fast, plain
        assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-5)
        np.testing.assert_allclose(a.get_stress(), b.get_stress(), atol=1e-6)
        assert fast.min_distance() == pytest.approx(plain.min_distance(), abs=1e-12)
    assert skin == 0 or fast._neighbors.builds < 10


def test_dynamics_conserve_the_energy_as_with_the_source(engine):
    potential = make_potential(lmax=1).double()
    atoms = bulk("LiCl", "rocksalt", 5.1, cubic=True)
    drift = []
    for pot in (potential, engine(compile_with(potential, knots=257))):
        result = run_md(atoms, pot, temperature=300.0, steps=60, timestep=2.0, ensemble="nve", seed=1)
        total = result.log["total_eV"]
        drift.append(np.ptp(total) / len(atoms))
    assert drift[1] == pytest.approx(drift[0], rel=0.05, abs=1e-7)


def test_constants_are_folded_and_reference_energies_are_kept():
    potential = make_potential()
    torch.nn.init.normal_(potential.body.bias, std=3.0)
    compiled = compile_with(potential)
    assert compiled.e0 == {z: E0[z] for z in potential.elements}
    assert not compiled.body.bias.any()
    folded = potential.references.e0 + potential.scale * potential.body.bias.double()
    assert compiled.offsets == pytest.approx(folded.tolist(), abs=1e-12)
    assert compiled.predict(ethanol())[0].energy == pytest.approx(
        potential.double().predict(ethanol())[0].energy, abs=1e-6
    )


def test_unknown_elements_are_refused_by_name(engine):
    compiled = engine(compile_with(make_potential(layers=1), knots=33))
    with pytest.raises(UnsupportedError, match="does not know N"):
        compiled.predict(molecule("NH3"))
    ammonia = molecule("NH3")
    ammonia.calc = Calculator(compiled)
    with pytest.raises(UnsupportedError, match="does not know N"):
        ammonia.get_forces()


def test_it_cannot_be_trained_or_differentiated_again():
    compiled = compile_with(make_potential(layers=1), knots=33)
    graph = graph_from_ase(ethanol(), compiled.cutoff)
    with pytest.raises(UnsupportedError, match="cannot be differentiated again"):
        compiled(graph, create_graph=True)
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        compiled.train()
    assert not compiled.eval().training
    assert not any(p.requires_grad for p in compiled.parameters())


def test_the_source_is_left_alone():
    potential = make_potential()
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    energy = potential.predict(ethanol())[0].energy
    compile_with(potential).predict(ethanol())
    assert potential.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in potential.state_dict().items())
    assert potential.predict(ethanol())[0].energy == energy


def test_a_copy_in_another_precision_is_independent(engine):
    single = engine(compile_with(make_potential(), dtype=torch.float32))
    first = single.predict(ethanol())[0]
    double = copy.deepcopy(single).double().use_engine("torch")
    second = double.predict(ethanol())[0]
    assert first.energy != second.energy
    np.testing.assert_allclose(first.forces, second.forces, atol=1e-5)
    assert single.predict(ethanol())[0].energy == first.energy


def test_engines_can_be_chosen_and_bad_choices_are_refused():
    compiled = compile_with(make_potential(layers=1), knots=33)
    assert compiled.engine == ("native" if native_available() else "torch")
    assert compiled.use_engine("torch").engine == "torch"
    assert not compiled.takes_arrays
    with pytest.raises(UnsupportedError, match="no engine 'fortran'"):
        compiled.use_engine("fortran")
    if not native_available():
        with pytest.raises(UnsupportedError, match="was not built"):
            compiled.use_engine("native")


def test_a_potential_needs_a_table_for_each_layer():
    potential = make_potential(layers=2).double()
    table = tabulate(potential.body.layers[0].radial, potential.cutoff, knots=33)
    with pytest.raises(ValueError, match="shorter"):
        CompiledPotential(potential, [table])
