import numpy as np
import pytest
from ase import Atoms

from atomml.datasets.readers import deepmd, read_frames
from atomml.datasets.readers.deepmd import READER
from atomml.errors import DataError
from tests.datasets.readers.halides import assert_same, halides

TYPE_MAP = ("F", "Cl", "Li")


def write_set(folder, frames, dtype=np.float64, **changes):
    """DeePMD's arrays: the virial is −V σ in eV."""
    folder.mkdir(parents=True)
    arrays = {
        "coord": np.stack([a.positions.ravel() for a in frames]),
        "box": np.stack([a.cell.array.ravel() for a in frames]),
        "energy": np.array([a.get_potential_energy() for a in frames]),
        "force": np.stack([a.get_forces().ravel() for a in frames]),
        "virial": np.stack([-a.get_volume() * a.get_stress(voigt=False).ravel() for a in frames]),
    } | changes
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", np.asarray(array).astype(dtype))


def write_system(folder, frames, sets=1, type_map=TYPE_MAP, **options):
    for k, part in enumerate(np.array_split(np.arange(len(frames)), sets)):
        write_set(folder / f"set.{k:03d}", [frames[i] for i in part], **options)
    types = [TYPE_MAP.index(symbol) for symbol in frames[0].get_chemical_symbols()]
    (folder / "type.raw").write_text("\n".join(map(str, types)) + "\n")
    if type_map:
        (folder / "type_map.raw").write_text("\n".join(type_map) + "\n")
    return folder


@pytest.fixture
def system(tmp_path):
    return write_system(tmp_path / "LiCl", halides(7), sets=2)


def test_a_system_comes_back_in_the_units_and_sign_of_atomml(system):
    store = read_frames(system, READER)
    assert_same(store, halides(7))
    assert list(store.ids)[:2] == ["LiCl/0", "LiCl/1"]
    assert store.ids[6] == "LiCl/6"
    assert set(store.tags["system"]) == {"LiCl"}
    parts = store.info["parts"]
    assert [p["labels"]["stress"] for p in parts] == [
        {"key": "virial.npy", "found": n, "of": n} for n in (4, 3)
    ]
    assert parts[0]["precision"]["energy"] == "float64"


def test_single_precision_is_read_and_stated(tmp_path):
    store = read_frames(write_system(tmp_path / "s", halides(3), dtype=np.float32), READER)
    assert_same(store, halides(3), tolerance=1e-5)
    assert store.info["precision"] == dict.fromkeys(("coord", "force", "box", "energy", "virial"), "float32")


def test_energies_of_shape_n_1_and_missing_labels(tmp_path):
    energy = np.array([[a.get_potential_energy()] for a in halides(3)])
    store = read_frames(write_system(tmp_path / "a", halides(3), energy=energy), READER)
    assert_same(store, halides(3))
    bare = read_frames(write_system(tmp_path / "b", halides(3), energy=None, force=None, virial=None), READER)
    assert bare.label_counts() == {"energy": 0, "forces": 0, "stress": 0}
    assert bare.info["labels"]["energy"] == {"key": None, "found": 0, "of": 3}


def test_systems_are_found_in_a_tree_and_arrays_that_are_not_read_are_named(tmp_path):
    frames = halides(6)
    write_system(tmp_path / "b" / "hot", frames[3:], aparam=np.zeros((3, 16)))
    write_system(tmp_path / "a" / "cold", frames[:3])
    assert READER.recognises(tmp_path)
    assert not READER.recognises(tmp_path / "b" / "hot" / "set.000")
    assert not READER.recognises(tmp_path / "a" / "cold" / "type.raw")
    store = read_frames(tmp_path, READER)
    assert_same(store, frames)
    assert store.tags["system"].tolist() == ["a/cold"] * 3 + ["b/hot"] * 3
    assert [p["not_read"] for p in store.info["parts"]] == [{}, {"aparam.npy": 1}]


def test_pieces_are_ranges_of_the_sets(system, monkeypatch):
    whole = read_frames(system, READER)
    monkeypatch.setattr(deepmd, "PIECE_FRAMES", 2)
    cut = READER.pieces([system], READER.options())
    assert [(p.member, p.start, p.stop, p.first) for p in cut] == [
        ("set.000", 0, 2, 0),
        ("set.000", 2, 4, 2),
        ("set.001", 0, 2, 4),
        ("set.001", 2, 3, 6),
    ]
    again = read_frames(system, READER)
    assert again.fingerprint() == whole.fingerprint()
    assert list(again.ids) == list(whole.ids)


def test_a_molecule_has_no_cell(tmp_path):
    frames = halides(2)
    folder = write_system(tmp_path / "m", frames, box=None, virial=None)
    with pytest.raises(DataError, match="nopbc"):
        read_frames(folder, READER)
    (folder / "nopbc").touch()
    store = read_frames(folder, READER)
    assert not store.pbc.any()
    assert not store.cell.any()
    np.testing.assert_array_equal(store.positions[:16], frames[0].positions)


def test_frames_of_mixed_types_and_sizes(tmp_path):
    one, two = halides(2)
    other = Atoms(two.get_chemical_symbols()[::-1], two.positions, cell=two.cell, pbc=True)
    folder = tmp_path / "mixed"
    write_set(folder / "set.000", [one, two])
    (folder / "type.raw").write_text("0 " * 16)
    (folder / "type_map.raw").write_text(" ".join(TYPE_MAP))
    types = np.array([[TYPE_MAP.index(s) for s in a.get_chemical_symbols()] for a in (one, other)])
    types[1, 14:] = -1  # padding
    np.save(folder / "set.000" / "real_atom_types.npy", types)
    store = read_frames(folder, READER)
    assert store.n_atoms.tolist() == [16, 14]
    np.testing.assert_array_equal(store.numbers[:16], one.numbers)
    np.testing.assert_array_equal(store.numbers[16:], other.numbers[:14])
    np.testing.assert_array_equal(store.forces[16:], two.get_forces()[:14])
    assert store.info["padding_atoms"] == 2


def test_a_type_map_can_be_stated(tmp_path):
    folder = write_system(tmp_path / "s", halides(2), type_map=None)
    with pytest.raises(DataError, match="state type_map"):
        read_frames(folder, READER)
    assert_same(read_frames(folder, READER, type_map=TYPE_MAP), halides(2))
    with pytest.raises(DataError, match="Type 2 has no element"):
        read_frames(folder, READER, type_map=["F", "Cl"])


def damage(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: damage(s / "set.000/force.npy", -8), "cannot be read"),
        (lambda s: damage(s / "set.000/coord.npy", 20), "cannot be read"),
        (lambda s: damage(s / "set.000/coord.npy", 0), "cannot be read"),
        (
            lambda s: np.save(s / "set.000/energy.npy", np.array([{}] * 3), allow_pickle=True),
            "cannot be read",
        ),
        (lambda s: np.save(s / "set.000/energy.npy", np.array(["a"] * 3)), "not an array of numbers"),
        (lambda s: np.save(s / "set.000/energy.npy", np.float64(3)), "not an array of numbers"),
        (lambda s: np.save(s / "set.000/energy.npy", np.zeros(2)), "different numbers of frames"),
        (lambda s: np.save(s / "set.000/force.npy", np.zeros((3, 45))), "force.npy has 135 numbers"),
        (lambda s: np.save(s / "set.000/box.npy", np.zeros((3, 6))), "box.npy has 18 numbers"),
        (lambda s: np.save(s / "set.000/real_atom_types.npy", np.zeros((3, 4), int)), "real_atom_types"),
        (lambda s: (s / "type.raw").write_text("0 1"), "for 3 frames of 2 atoms"),
        (lambda s: (s / "type.raw").write_text("0 one"), "A type is not a number"),
        (lambda s: (s / "type_map.raw").write_text("F Cl Qq"), "'Qq' is not an element"),
        (lambda s: (s / "type_map.raw").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda s: np.save(s / "set.000/virial.npy", np.full((3, 9), np.nan)), "NaN"),
        (lambda s: (s / "set.000/coord.npy").unlink(), "no DeePMD system"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, spoil, message):
    folder = write_system(tmp_path / "s", halides(3))
    spoil(folder)
    with pytest.raises(DataError, match=message) as error:
        read_frames(folder, READER)
    assert str(tmp_path) in str(error.value)


def test_one_bad_frame_is_skipped_when_that_is_asked_for(tmp_path):
    frames = halides(3)
    energy = np.array([a.get_potential_energy() for a in frames])
    energy[1] = np.nan
    folder = write_system(tmp_path / "s", frames, energy=energy)
    with pytest.raises(DataError, match="frame 1"):
        read_frames(folder, READER)
    store = read_frames(folder, READER, skip_bad=True)
    assert_same(store, [frames[0], frames[2]])
    assert sum(entry["frames"] for entry in store.info["skipped"].values()) == 1


def test_a_header_that_promises_more_than_the_file_has_costs_nothing(tmp_path):
    folder = write_system(tmp_path / "s", halides(2))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 48), }"
    for text in (header, header.replace(b"}", b" "), header.replace(b"1099511627776", b"-3")):
        padded = text + b" " * (118 - len(text) - 1) + b"\n"
        (folder / "set.000/coord.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + padded)
        with pytest.raises(DataError, match="cannot be read"):
            read_frames(folder, READER)
