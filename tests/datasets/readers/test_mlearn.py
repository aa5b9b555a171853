import json

import ase.io
import numpy as np
import pytest
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from pymatgen.core import Structure

from atomml.datasets import read_ase
from atomml.datasets.readers import read_frames
from atomml.datasets.readers.documents import matpes
from atomml.datasets.readers.documents.mlearn import ALIGNN_READER, READER
from atomml.datasets.statistics import stress_sign_test
from atomml.errors import DataError
from tests.datasets.readers.halides import KBAR, assert_same, halides, pymatgen_dict

FRAMES = {"Li": 241, "Mo": 194, "Si": 214, "Ge": 228}


@pytest.fixture(scope="module", params=FRAMES)
def element(request, shared_data):
    path = shared_data / "mlearn" / request.param / "training.json"
    return request.param, path, json.loads(path.read_text()), read_frames(path, READER)


def test_the_published_files_are_read_exactly(element):
    symbol, path, docs, store = element
    assert READER.recognises(path)
    assert not matpes.READER.recognises(path)
    assert len(store) == len(docs) == FRAMES[symbol]
    assert store.label_counts() == {"energy": len(docs), "forces": len(docs), "stress": len(docs)}
    assert store.info["not_read"] == {}
    for k, doc in enumerate(docs):
        part = store.atoms_of(k)
        theirs = Structure.from_dict(doc["structure"])
        np.testing.assert_array_equal(store.positions[part], theirs.cart_coords)
        np.testing.assert_array_equal(store.cell[k], theirs.lattice.matrix)
        assert store.numbers[part].tolist() == list(theirs.atomic_numbers)
        assert store.energy[k] == doc["outputs"]["energy"]
        np.testing.assert_array_equal(store.forces[part], doc["outputs"]["forces"])
        xx, yy, zz, xy, *_ = -np.array(doc["outputs"]["virial_stress"]) * KBAR
        np.testing.assert_allclose(
            [*np.diag(store.stress[k]), store.stress[k, 0, 1]], [xx, yy, zz, xy], rtol=1e-13
        )
    assert set(store.tags["group"]) == {"AIMD-NVT", "Vacancy", "Elastic", "Surface"}
    assert store.tags["description"][0] == docs[0]["description"]


def test_the_sign_of_the_published_stress_is_that_of_a_pressure(element):
    _, path, docs, store = element
    assert stress_sign_test(store)["verdict"] == "ase"
    volume = np.array(
        [abs(np.linalg.det(d["structure"]["lattice"]["matrix"])) / len(d["structure"]["sites"]) for d in docs]
    )
    trace = np.array([sum(d["outputs"]["virial_stress"][:3]) for d in docs])
    elastic = store.tags["group"] == "Elastic"
    assert np.corrcoef(volume[elastic], trace[elastic])[0, 1] < -0.9
    with pytest.raises(DataError, match="the sign is wrong"):
        read_frames(path, READER, stress_sign="ase")


def shears(store):
    """Shear strains and stresses (yz, xz, xy) of the elastic frames."""
    cells = store.cell / np.cbrt(np.abs(np.linalg.det(store.cell)))[:, None, None]
    strain = 0.5 * (cells + cells.transpose(0, 2, 1)) - np.eye(3)
    rows = (store.tags["group"] == "Elastic") & (np.abs(strain).max(axis=(1, 2)) < 0.12)  # of a cubic cell
    strain, stress = strain[rows], full_3x3_to_voigt_6_stress(store.stress[rows])[:, 3:]
    return np.stack([strain[:, 1, 2], strain[:, 0, 2], strain[:, 0, 1]], axis=1), stress


def test_sheared_cells_decide_the_order_of_the_stress_components(element):
    symbol, path, _, store = element
    strain, stress = shears(store)
    sheared = np.abs(strain).max(axis=1) > 1e-3
    assert {0, 1, 2} <= set(np.abs(strain[sheared]).argmax(axis=1))
    np.testing.assert_array_equal(
        np.abs(strain[sheared]).argmax(axis=1), np.abs(stress[sheared]).argmax(axis=1)
    )
    if symbol != "Li":  # whose shear stresses are below 1e-3 eV/Å³ and have no clear sign
        found = np.corrcoef(np.hstack([strain, stress]).T)[:3, 3:]
        np.testing.assert_allclose(found, np.eye(3), atol=0.06)
    other = "vasp" if symbol == "Mo" else "lammps"
    wrong = shears(read_frames(path, READER, stress_order=other))[1]
    np.testing.assert_array_equal(wrong, stress[:, [1, 0, 2]])


@pytest.mark.parametrize(("element", "frames"), [("Cu", 262), ("Ni", 263)])
def test_the_extended_xyz_files_are_read_as_ase_reads_them(shared_data, element, frames):
    path = shared_data / "mlearn" / f"{element}_train.extxyz"
    store, theirs = read_ase(path), ase.io.read(path, ":")
    assert len(store) == len(theirs) == frames
    assert_same(store, theirs, tolerance=1e-16)


@pytest.mark.parametrize("element", ["Cu", "Ni"])
def test_the_order_of_copper_and_nickel_follows_from_files_converted_with_the_other_order(
    shared_data, element
):
    store = read_ase(shared_data / "mlearn" / f"{element}_train.extxyz")  # made as if xx yy zz xy yz zx
    cells = store.cell / np.cbrt(np.abs(np.linalg.det(store.cell)))[:, None, None]
    strain = np.stack([cells[:, 1, 2], cells[:, 0, 2], cells[:, 1, 0]], axis=1)
    rows = (store.n_atoms == 108) & (np.abs(strain).max(axis=1) > 1e-3)
    found = full_3x3_to_voigt_6_stress(store.stress[rows])[:, 3:]
    assert rows.sum() > 20
    np.testing.assert_array_equal(
        np.abs(strain[rows]).argmax(axis=1), np.abs(found[:, [1, 0, 2]]).argmax(axis=1)
    )


@pytest.mark.parametrize(
    ("name", "frames", "stress"),
    [
        ("mattersim_benchmarks/mpf-TP.xyz", 1069, True),
        ("mattersim_benchmarks/mptrj-random-1k.xyz", 1000, True),
        ("format_fixtures/sevennet_hfo2.extxyz", 2, True),
        ("format_fixtures/Cu-ACE-21_Cu_df2_1k.extxyz", 1000, False),
    ],
)
def test_the_other_extended_xyz_files_are_read_as_ase_reads_them(shared_data, name, frames, stress):
    store, theirs = read_ase(shared_data / name), ase.io.read(shared_data / name, ":")
    assert len(store) == len(theirs) == frames
    assert_same(store, theirs, tolerance=1e-16, stress=stress)
    assert store.label_counts()["stress"] == (frames if stress else 0)


def test_the_nine_numbers_of_a_mattersim_header_are_the_stress_in_the_sign_of_ase(shared_data):
    path = shared_data / "mattersim_benchmarks/mpf-TP.xyz"
    headers = [line for line in path.read_text().splitlines() if "Lattice=" in line][:60]
    nine = [h.split('stress="')[1].split('"')[0].split() for h in headers]
    store = read_ase(path, index=":60")
    np.testing.assert_allclose(store.stress.reshape(60, 9), np.array(nine, dtype=float), rtol=1e-14)
    assert np.mean(np.trace(store.stress, axis1=1, axis2=2) < 0) > 0.8  # high temperature and pressure


def document(atoms, places, **changes):
    """A document of mlearn; ``places`` of xx yy zz yz xz xy in the file."""
    stress = -full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False)) / KBAR
    outputs = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces().tolist(),
        "virial_stress": [stress[k] for k in places],
    }
    head = {"structure": pymatgen_dict(atoms), "num_atoms": len(atoms), "group": "AIMD-NVT", "element": "Si"}
    return {**head, "outputs": outputs, **changes}


PLACES = {"vasp": (0, 1, 2, 5, 3, 4), "lammps": (0, 1, 2, 5, 4, 3), "ase": (0, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize("order", PLACES)
def test_six_numbers_of_any_order_become_the_same_stress(tmp_path, order):
    path = tmp_path / "training.json"
    path.write_text(json.dumps([document(a, PLACES[order]) for a in halides(5)]))
    assert_same(read_frames(path, READER, stress_order=order), halides(5))
    if order == "vasp":
        assert_same(read_frames(path, READER), halides(5))


def test_the_order_of_an_unpublished_element_has_to_be_stated(tmp_path):
    path = tmp_path / "training.json"
    path.write_text(json.dumps([document(halides(1)[0], PLACES["vasp"], element="W")]))
    with pytest.raises(DataError, match="their order is not known"):
        read_frames(path, READER)
    assert_same(read_frames(path, READER, stress_order="vasp"), halides(1))


def test_energies_per_atom_are_multiplied_when_that_is_stated(tmp_path):
    (atoms,) = halides(1)
    doc = document(atoms, PLACES["vasp"])
    doc["outputs"]["energy"] /= len(atoms)
    doc["outputs"]["dipole"] = [0, 0, 0]
    path = tmp_path / "training.json"
    path.write_text(json.dumps([doc]))
    store = read_frames(path, READER, energy_per_atom=True)
    assert_same(store, [atoms])
    assert store.info["not_read"] == {"outputs.dipole": 1}
    doc["num_atoms"] = 3
    path.write_text(json.dumps([doc]))
    with pytest.raises(DataError, match="num_atoms is 3"):
        read_frames(path, READER)


def alignn_document(atoms, number, *, per_atom, cartesian=False, stress=None):
    scaled = atoms.cell.scaled_positions(atoms.positions)
    return {
        "jid": str(number),
        "atoms": {
            "lattice_mat": atoms.cell.tolist(),
            "coords": (atoms.positions if cartesian else scaled).tolist(),
            "elements": atoms.get_chemical_symbols(),
            "abc": atoms.cell.lengths().tolist(),
            "angles": atoms.cell.angles().tolist(),
            "cartesian": cartesian,
            "props": [""] * len(atoms),
        },
        "total_energy": atoms.get_potential_energy() / (len(atoms) if per_atom else 1),
        "forces": atoms.get_forces().tolist(),
        "stresses": (-atoms.get_stress(voigt=False) / KBAR).tolist() if stress is None else stress,
    }


@pytest.mark.parametrize("per_atom", [True, False])
@pytest.mark.parametrize("cartesian", [True, False])
def test_alignn_files_are_read_once_the_meaning_of_total_energy_is_stated(tmp_path, per_atom, cartesian):
    path = tmp_path / "id_prop.json"
    docs = [alignn_document(a, k, per_atom=per_atom, cartesian=cartesian) for k, a in enumerate(halides(4))]
    path.write_text(json.dumps(docs))
    assert ALIGNN_READER.recognises(path)
    assert not READER.recognises(path)
    with pytest.raises(DataError, match="per atom in some and the total in others"):
        read_frames(path, ALIGNN_READER)
    store = read_frames(path, ALIGNN_READER, energy_per_atom=per_atom)
    assert_same(store, halides(4))
    assert list(store.ids) == ["0", "1", "2", "3"]


def test_stresses_of_repacked_files_can_be_left_out(tmp_path):
    (atoms,) = halides(1)
    path = tmp_path / "id_prop.json"
    six = (-full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False)) / KBAR)[list(PLACES["vasp"])]
    path.write_text(json.dumps([alignn_document(atoms, 1, per_atom=True, stress=six.tolist())]))
    with pytest.raises(DataError, match="their order is not known"):
        read_frames(path, ALIGNN_READER, energy_per_atom=True)
    assert_same(read_frames(path, ALIGNN_READER, energy_per_atom=True, stress_order="vasp"), [atoms])
    store = read_frames(path, ALIGNN_READER, energy_per_atom=True, read_stress=False)
    assert_same(store, [atoms], stress=False)
    assert store.info["not_read"] == {"stresses": 1}
    assert voigt_6_to_full_3x3_stress(six).shape == (3, 3)
