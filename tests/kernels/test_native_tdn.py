"""The fused native evaluation: numbers are compared with the torch engine in tests/potentials/test_compiled.py."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from atomml.errors import DataError, UnsupportedError
from atomml.graph.neighbors import neighbor_list
from atomml.kernels.cpu.library import library
from atomml.kernels.cpu.tdn import NativeTDN
from atomml.potentials.compile import compile_potential
from tests.potentials.conftest import make_potential

pytestmark = pytest.mark.skipif(library() is None, reason="native kernels not built")

CUTOFF = 4.0
LOOSE = {"tolerance_energy": 1e9, "tolerance_forces": 1e9, "knots": 129}  # the table is not what is tested


def compiled(dtype="float64", **keys):
    return compile_potential(make_potential(**keys).double(), dtype=dtype, **LOOSE).use_engine("native")


def structure(repeat, seed=0, symbol="LiCl", a=5.1):
    atoms = bulk(symbol, "rocksalt", a, cubic=True).repeat(repeat)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def arrays(atoms, cutoff=CUTOFF):
    cell, pbc = atoms.cell.array, np.asarray(atoms.pbc)
    pairs = neighbor_list(atoms.positions, cell, pbc, cutoff)
    n = len(atoms)
    graph = (
        atoms.numbers.astype(np.int64),
        atoms.positions,
        cell[None].copy(),
        pbc[None],
        np.zeros(n, np.int64),
    )
    return [*graph, *pairs]


@pytest.fixture(scope="module")
def model():
    return compiled(channels=16, layers=3)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("repeat", [2, 6])
def test_results_are_the_same_bits_for_every_number_of_threads(model, threads, repeat):
    args = arrays(structure(repeat))
    results = []
    for n in (1, 2, 3, 5):
        threads(n)
        results.append(model.evaluate_arrays(*args, stress=True))
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name, value in results[0].items():
            np.testing.assert_array_equal(value, other[name])


def test_large_structures_are_evaluated_in_another_order_with_the_same_result(model):
    """Above 1024 atoms near atoms get near numbers; results come back in the order of the user."""
    atoms = structure(6)
    assert len(atoms) > 1024
    shuffled = atoms[np.random.default_rng(1).permutation(len(atoms))]
    for given in (atoms, shuffled):
        native = model.evaluate_arrays(*arrays(given), stress=True)
        reference = model.use_engine("torch").predict([given])[0]
        model.use_engine("native")
        np.testing.assert_allclose(native["energies"], reference.energies, rtol=0, atol=1e-10)
        np.testing.assert_allclose(native["forces"], reference.forces, rtol=0, atol=1e-10)


def test_atoms_outside_the_cell_do_not_matter(model):
    atoms = structure(6)
    moved = atoms.copy()
    moved.positions += np.random.default_rng(2).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    a, b = (model.evaluate_arrays(*arrays(s), stress=True) for s in (atoms, moved))
    np.testing.assert_allclose(a["forces"], b["forces"], rtol=0, atol=1e-9)


def test_pairs_beyond_the_cutoff_are_skipped(model):
    atoms = structure(2)
    exact, skinned = (model.evaluate_arrays(*arrays(atoms, c), stress=True) for c in (CUTOFF, CUTOFF + 1.5))
    for name, value in exact.items():
        np.testing.assert_allclose(skinned[name], value, rtol=0, atol=1e-12)


def test_a_model_of_no_pairs_gives_the_offsets(model):
    args = arrays(bulk("LiCl", "rocksalt", 40.0, cubic=True))
    out = model.evaluate_arrays(*args, stress=True)
    assert not out["forces"].any()
    assert not out["stress"].any()
    reference = model.use_engine("torch").predict([bulk("LiCl", "rocksalt", 40.0, cubic=True)])[0]
    model.use_engine("native")
    np.testing.assert_allclose(out["energies"], reference.energies, atol=1e-10)


def test_positions_that_are_not_numbers_do_not_vanish(model):
    args = arrays(structure(2))
    args[1] = args[1].copy()
    args[1][3] = np.nan
    assert np.isnan(model.evaluate_arrays(*args, stress=True)["forces"]).any()


def broken(args, name):
    z, pos, cell, pbc, batch, neighbor, center, shift = (np.array(x) for x in args)
    if name == "neighbor beyond the atoms":
        neighbor[7] = len(z)
    elif name == "negative neighbor":
        neighbor[7] = -1
    elif name == "centres not sorted":
        center = center[::-1].copy()
    elif name == "graph beyond the cells":
        batch[0] = 1
    elif name == "positions too short":
        pos = pos[:-1]
    elif name == "shift too short":
        shift = shift[:-1]
    elif name == "wrong precision":
        pos = pos.astype(np.float32)
    return z, pos, cell, pbc, batch, neighbor, center, shift


@pytest.mark.parametrize(
    "name",
    [
        "neighbor beyond the atoms",
        "negative neighbor",
        "centres not sorted",
        "graph beyond the cells",
        "positions too short",
        "shift too short",
        "wrong precision",
    ],
)
def test_arrays_that_do_not_fit_are_refused(model, name):
    native = NativeTDN(model)
    z, pos, cell, _, batch, neighbor, center, shift = broken(arrays(structure(2)), name)
    species = model.species_of_z.numpy()[z]
    columns = [torch.from_numpy(x) for x in (species, pos, cell, batch, neighbor, center, shift)]
    with pytest.raises(DataError):
        native.evaluate(*columns)


def test_precisions_without_native_code_are_refused(model):
    with pytest.raises(UnsupportedError, match="bfloat16"):
        NativeTDN(compiled(layers=1).to(torch.bfloat16))


def test_single_precision_agrees_to_its_rounding():
    """All widths: full and partial vectors, several blocks of them."""
    for channels in (3, 16, 24, 32, 64, 80):
        keys = {"channels": channels, "lmax": 1, "layers": 2, "seed": channels}
        single, double = compiled("float32", **keys), compiled("float64", **keys)
        a, b = (m.evaluate_arrays(*arrays(structure(2)), stress=True) for m in (single, double))
        for name in ("energies", "forces", "stress"):
            scale = max(1.0, float(np.abs(b[name]).max()))
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=2e-5 * scale)
