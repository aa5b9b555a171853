import gzip
import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.core import Structure

from atomml.datasets import isolated_atoms, rows_where
from atomml.datasets.readers import read_frames
from atomml.datasets.readers.documents import files as json_files
from atomml.datasets.readers.documents import mptrj
from atomml.datasets.readers.documents.matpes import READER, matpes_split
from atomml.datasets.statistics import stress_sign_test
from atomml.errors import ConfigError, DataError
from tests.datasets.readers.halides import KBAR, assert_same, halides, pymatgen_dict


def document(atoms, number, **changes):
    """A document of MatPES 2025.2: kbar, xx yy zz yz xz xy, the sign that VASP prints."""
    stress = -full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False)) / KBAR
    return {
        "builder_meta": {"emmet_version": "0.84"},
        "nsites": len(atoms),
        "elements": sorted(set(atoms.get_chemical_symbols())),
        "volume": atoms.get_volume(),
        "structure": pymatgen_dict(atoms),
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces().tolist(),
        "stress": stress.tolist(),
        "matpes_id": f"matpes-20240214_{number}_0",
        "bandgap": 1.5,
        "functional": "r2SCAN",
        "formation_energy_per_atom": None,
        "cohesive_energy_per_atom": -3.5,
        "bader_charges": None,
        "cm5_partial_charges": [0.1] * len(atoms),
        "provenance": {
            "original_mp_id": f"mp-{number}",
            "md_ensemble": "NpT",
            "md_temperature": 300 * (number + 1),
            "md_pressure": 1.0,
            "mlip_name": "M3GNet",
            "history": [1],
        },
        **changes,
    }


def write(path, docs, indent=None):
    path.write_text(json.dumps(docs, indent=indent))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matpes")
    return write(folder / "MatPES-R2SCAN-2025.2.json", [document(a, k) for k, a in enumerate(halides(30))])


def test_geometry_and_labels_come_back_in_the_units_and_sign_of_atomml(file):
    store = read_frames(file, READER)
    assert_same(store, halides(30))
    assert store.ids[3] == "matpes-20240214_3_0"
    assert store.info["labels"]["stress"] == {"key": "stress", "found": 30, "of": 30}
    assert store.info["stated"] == {"stress_unit": "kbar", "stress_sign": "pressure"}


def test_structures_are_those_that_pymatgen_reads(file):
    store = read_frames(file, READER)
    for k, doc in enumerate(json.loads(file.read_text())):
        theirs = Structure.from_dict(doc["structure"])
        np.testing.assert_array_equal(store.positions[store.atoms_of(k)], theirs.cart_coords)
        np.testing.assert_array_equal(store.cell[k], theirs.lattice.matrix)
        assert store.numbers[store.atoms_of(k)].tolist() == list(theirs.atomic_numbers)


def test_scalars_and_provenance_are_tags_and_the_rest_is_counted(file):
    store = read_frames(file, READER)
    assert store.tags_of(2) == {
        "bandgap": 1.5,
        "functional": "r2SCAN",
        "cohesive_energy_per_atom": -3.5,
        "original_mp_id": "mp-2",
        "md_ensemble": "NpT",
        "md_temperature": 900,
        "md_pressure": 1.0,
        "mlip_name": "M3GNet",
    }
    assert rows_where(store, "md_temperature >= 8700").tolist() == [28, 29]
    unread = store.info["not_read"]
    assert unread == {
        "builder_meta": 30,
        "elements": 30,
        "cm5_partial_charges": 30,
        "provenance.history": 30,
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_pieces_together_are_the_file_and_a_compressed_file_is_the_same(tmp_path, monkeypatch, indent):
    docs = [document(a, k) for k, a in enumerate(halides(11))]
    plain = write(tmp_path / "a.json", docs, indent)
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    whole = read_frames(plain, READER)
    monkeypatch.setattr(json_files, "PIECE_FRAMES", 4)
    cut = READER.pieces([plain], READER.options())
    assert [p.first for p in cut] == [0, 4, 8]
    stores = [READER.read(piece, READER.options()) for piece in cut]
    assert [len(s) for s in stores] == [4, 4, 3]
    assert read_frames(plain, READER).fingerprint() == whole.fingerprint()
    assert read_frames(packed, READER).fingerprint() == whole.fingerprint()


def test_the_files_are_recognised_by_their_first_bytes(file, tmp_path):
    assert READER.recognises(file)
    packed = tmp_path / "x.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert READER.recognises(packed)
    assert not mptrj.READER.recognises(file)
    assert not READER.recognises(write(tmp_path / "other.json", {"matpes_id": 1}))
    assert not READER.recognises(tmp_path)
    (tmp_path / "broken.json.gz").write_bytes(b"\x1f\x8b\x08\x00 no")
    assert not READER.recognises(tmp_path / "broken.json.gz")


def test_isolated_atoms_of_the_same_schema_give_reference_energies(tmp_path):
    docs = []
    for number, (symbol, energy) in enumerate({"Zn": -7.44297004, "Cl": -0.8}.items()):
        atoms = Atoms(symbol, cell=[15.0, 15.1, 15.2], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)), stress=np.zeros(6))
        docs.append(document(atoms, number))
    store = read_frames(write(tmp_path / "MatPES-R2SCAN-atoms.json", docs), READER)
    assert isolated_atoms(store).energies == {30: -7.44297004, 17: -0.8}


def test_labels_that_are_null_are_absent(tmp_path):
    first, second = halides(2)
    docs = [document(first, 0, stress=None, forces=None), document(second, 1, energy=None)]
    store = read_frames(write(tmp_path / "a.json", docs), READER)
    assert store.label_counts() == {"energy": 1, "forces": 1, "stress": 1}
    assert store.info["labels"]["forces"] == {"key": "forces", "found": 1, "of": 2}


def site(symbol="Li", occu=1, **more):
    return {"species": [{"element": symbol, "occu": occu}], "abc": [0, 0, 0], **more}


def changed_structure(atoms, **changes):
    return {**pymatgen_dict(atoms), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda a: {"structure": changed_structure(a, sites=[site(occu=0.5)])}, "disordered.*Li:0.5"),
        (
            lambda a: {
                "structure": changed_structure(
                    a, sites=[{**site(), "species": [{"element": e, "occu": 0.5} for e in ("Li", "Na")]}]
                )
            },
            "Li:0.5 Na:0.5",
        ),
        (lambda a: {"structure": changed_structure(a, sites=[site("Xx")])}, "'Xx' is not an element"),
        (lambda a: {"structure": changed_structure(a, sites=[site(xyz=[0, 1, 0])])}, "disagree by 1"),
        (lambda a: {"structure": changed_structure(a, sites=[])}, "no sites"),
        (lambda a: {"structure": changed_structure(a, lattice={"matrix": [[1, 2]]})}, "Error|shape"),
        (lambda a: {"structure": None}, "not the dictionary of a pymatgen structure"),
        (lambda a: {"structure": {"sites": [1]}}, "not the dictionary of a pymatgen structure"),
        (lambda a: {"forces": a.get_forces()[1:].tolist()}, "forces have shape"),
        (lambda a: {"forces": "many"}, "forces is not numeric"),
        (lambda a: {"energy": [1, 2]}, "not one number"),
        (lambda a: {"stress": [1, 2, 3]}, "6 numbers"),
        (lambda a: {"stress": [[0, 1, 0], [5, 0, 0], [0, 0, 0]]}, "not symmetric"),
    ],
)
def test_a_document_that_cannot_be_used_is_named_or_skipped_and_counted(tmp_path, changes, message):
    good, bad = halides(2)
    path = write(tmp_path / "a.json", [document(good, 0), document(bad, 1, **changes(bad)), document(bad, 2)])
    with pytest.raises(DataError, match=message) as error:
        read_frames(path, READER)
    assert "a.json, document 1 at byte" in str(error.value)
    store = read_frames(path, READER, skip_bad=True)
    assert_same(store, [good, bad])
    assert store.info["labels"]["energy"] == {"key": "energy", "found": 2, "of": 2}
    ((_, entry),) = store.info["skipped"].items()
    assert entry["frames"] == 1
    assert "document 1" in entry["examples"][0]


def test_nan_in_the_json_and_a_truncated_file_are_refused(tmp_path):
    (atoms,) = halides(1)
    path = write(tmp_path / "a.json", [document(atoms, 0), document(atoms, 1, energy=float("nan"))])
    with pytest.raises(DataError, match="document 1 at byte"):
        read_frames(path, READER)
    text = path.read_text()
    path.write_text(text[:-300])
    with pytest.raises(DataError, match="after 1 documents"):
        read_frames(path, READER)


def test_disorder_of_one_kind_is_counted_under_one_reason(tmp_path):
    docs = [
        document(a, k, structure=changed_structure(a, sites=[site(occu=0.1 * (k + 1))]))
        for k, a in enumerate(halides(4))
    ]
    store = read_frames(write(tmp_path / "a.json", docs), READER, skip_bad=True)
    assert len(store) == 0
    assert [entry["frames"] for entry in store.info["skipped"].values()] == [4]


def test_a_wrong_stress_sign_is_refused_where_the_volumes_decide(tmp_path):
    path = write(tmp_path / "a.json", [document(a, k) for k, a in enumerate(halides(150))])
    store = read_frames(path, READER)
    assert stress_sign_test(store)["verdict"] == "ase"
    with pytest.raises(DataError, match=r"the sign is wrong[\s\S]*stress_sign=pressure"):
        read_frames(path, READER, stress_sign="ase")
    opposite = read_frames(path, READER, stress_sign="ase", check_stress_sign=False)
    np.testing.assert_array_equal(opposite.stress, -store.stress)
    assert stress_sign_test(opposite)["verdict"] == "pressure"
    with pytest.raises(ConfigError, match="stress_sign"):
        read_frames(path, READER, stress_sign="vasp")


def split_file(folder, parts):
    path = folder / "MatPES-R2SCAN-split.json.gz"
    path.write_bytes(gzip.compress(json.dumps(parts).encode()))
    return path


def test_the_official_split_becomes_a_split_of_the_store(file, tmp_path):
    store = read_frames(file, READER)
    path = split_file(tmp_path, {"train": [*range(24)][::-1], "valid": [24, 26, 28], "test": [25, 27, 29]})
    split = matpes_split(store, path)
    assert split.train.tolist() == list(range(24))
    assert (split.valid.tolist(), split.test.tolist()) == ([24, 26, 28], [25, 27, 29])
    assert split.how == {"method": "official", "file": path.name}
    part = matpes_split(store, split_file(tmp_path, {"train": [1], "valid": [2]}), partial=True)
    assert part.summary() == "train 1, valid 1, test 0 (official)"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [0, 1]}, "2 rows up to 1, the data set has 30"),
        ({"train": [*range(31)]}, "31 rows up to 30"),
        ({"train": [*range(29), 5]}, "Row 5 is negative or in two parts"),
        ({"train": [*range(29)], "rest": [29]}, "unknown parts rest"),
        ({"train": [*range(29)], "valid": [], "val": [29]}, "not a split of MatPES"),
        ({"train": ["a"]}, "not a list of row numbers"),
        ({"train": [0.5]}, "not a list of row numbers"),
        ({"train": [-1]}, "not a list of row numbers"),
        ([1, 2], "not a split of MatPES"),
    ],
)
def test_a_split_of_another_version_is_refused(file, tmp_path, parts, message):
    with pytest.raises(DataError, match=message):
        matpes_split(read_frames(file, READER), split_file(tmp_path, parts))


def test_a_split_is_refused_when_frames_were_left_out(tmp_path):
    docs = [document(a, k) for k, a in enumerate(halides(3))]
    docs[1]["energy"] = "?"
    store = read_frames(write(tmp_path / "a.json", docs), READER, skip_bad=True)
    with pytest.raises(DataError, match="left out"):
        matpes_split(store, split_file(tmp_path, {"train": [0, 1]}))
