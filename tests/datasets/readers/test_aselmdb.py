import io
import json
import tarfile
import zlib

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedLine

from atomml.datasets.readers import Piece, read_frames
from atomml.datasets.readers.aselmdb.reader import READER, AseLmdbOptions, iterate_rows
from atomml.errors import DataError

lmdb = pytest.importorskip("lmdb")


def array(values, dtype="float64"):
    values = np.asarray(values)
    return {"__ndarray__": [list(values.shape), dtype, values.ravel().tolist()]}


def row(n=2, **more):
    """A row as ASE writes it; arguments replace its parts, None removes them."""
    made = {
        "numbers": array([3, 17, 9, 35][:n], "int64"),
        "positions": array(np.arange(3.0 * n).reshape(n, 3)),
        "pbc": array([True] * 3, "bool"),
        "cell": array(10.0 * np.eye(3)),
        "energy": -1.5,
        "forces": array(np.full((n, 3), 0.25)),
        "data": {},
    } | more
    return {key: value for key, value in made.items() if value is not None}


def write(path, rows, nextid=None, deleted=(), packed=lambda text: zlib.compress(text), **reserved):
    """An ASE-LMDB file of dictionaries, or of bytes that are put as they are."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with environment.begin(write=True) as transaction:
        ids = [i for i in range(1, len(rows) + len(deleted) + 1) if i not in deleted]
        for i, one in zip(ids, rows, strict=True):
            value = one if isinstance(one, bytes) else packed(json.dumps(one).encode())
            transaction.put(str(i).encode(), value)
        reserved = {"nextid": len(rows) + len(deleted) + 1 if nextid is None else nextid} | reserved
        reserved |= {"deleted_ids": list(deleted)} if deleted else {}
        for key, value in reserved.items():
            if value is not None:
                transaction.put(key.encode(), packed(json.dumps(value).encode()))
    environment.close()
    return path


def read(path, **options):
    return read_frames(path, READER, **options)


def assert_equal_to_ase(store, i, atoms):
    frame = store.frame(i)
    assert frame.numbers.tolist() == atoms.numbers.tolist()
    assert np.array_equal(frame.positions, atoms.positions)
    assert np.array_equal(frame.cell, atoms.cell.array)
    assert frame.pbc.tolist() == atoms.pbc.tolist()
    assert frame.energy == atoms.get_potential_energy(apply_constraint=False)
    assert np.array_equal(frame.forces, atoms.get_forces(apply_constraint=False))
    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        fixed[constraint.index] = True
    assert np.array_equal(np.zeros(len(atoms), bool) if frame.fixed is None else frame.fixed, fixed)


def test_every_row_of_real_data_equals_ase_db_backends(shared_data):
    backends = pytest.importorskip("ase_db_backends.aselmdb")
    path = shared_data / "oc20" / "aselmdb" / "data.0000.aselmdb"
    store = read(path)
    database = backends.LMDBDatabase(path, readonly=True)
    assert len(store) == len(database.ids) == 375
    for i, row_id in enumerate(database.ids):
        found = database._get_row(row_id)
        assert_equal_to_ase(store, i, found.toatoms())
        assert store.tags_of(i) == found.data
    assert store.info["labels"]["energy"] == {"key": "energy", "found": 375, "of": 375}
    assert store.info["not_read"]["free_energy"] == 375
    assert store.info["metadata"]["level"] == "VASP RPBE (OC20)"
    assert store.ids[7] == "data.0000.aselmdb:8"


def test_rows_written_by_ase_db_backends_come_back(tmp_path, rng):
    backends = pytest.importorskip("ase_db_backends.aselmdb")
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.set_tags(np.arange(8) % 3)
    atoms.set_constraint([FixAtoms([0, 2]), FixCartesian([5])])
    labels = {"energy": -3.25, "forces": rng.normal(size=(8, 3)), "stress": rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-14.0)
    water.set_constraint(FixedLine(0, [0, 0, 1]))
    database = backends.LMDBDatabase(tmp_path / "own.aselmdb", use_lock_file=False)
    database._write(atoms, {"charge": 1, "name": "salt"}, {"sid": "a", "metadata": {"temperature": 300.5}})
    database._write(Atoms("X"), {}, {})
    database._write(water, {}, {"sid": "b", "millers": [1, 1, 0]})
    database.delete([2])
    database.close()

    store = read(tmp_path / "own.aselmdb")
    assert len(store) == 2
    assert_equal_to_ase(store, 0, atoms)
    assert np.allclose(store[0].get_stress(), labels["stress"], rtol=1e-15)
    assert store.tags_of(0) == {"charge": 1.0, "name": "salt", "sid": "a", "metadata.temperature": 300.5}
    assert store.atom_tags.tolist() == [*(np.arange(8) % 3), 0, 0, 0]
    assert np.array_equal(store[1].positions, water.positions)
    assert not store.pbc[1].any()
    assert not store.fixed[8:].any()
    assert store.label_counts() == {"energy": 2, "forces": 1, "stress": 1}
    assert store.info["not_read"]["constraints.FixedLine"] == 1
    assert store.info["not_read"]["data.millers"] == 1


def test_deleted_rows_are_left_out_and_ids_keep_their_numbers(tmp_path):
    path = write(tmp_path / "a.aselmdb", [row(energy=float(e)) for e in range(4)], deleted=(1, 4))
    store = read(path)
    assert store.energy.tolist() == [0, 1, 2, 3]
    assert list(store.ids) == [f"a.aselmdb:{i}" for i in (2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("numbers", [3, 17]),
        ("numbers", array([3.0, 17.0])),
        ("positions", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        ("positions", array(np.arange(6).reshape(2, 3), "int64")),
        ("cell", {"__ase_objtype__": "cell", "array": [[10, 0, 0], [0, 10, 0], [0, 0, 10.0]]}),
        ("cell", {"__ase_objtype__": "cell", "array": array(10.0 * np.eye(3))}),
        ("pbc", [1, 1, 1]),
        ("energy", array(-1.5)),
        ("energy", [-1.5]),
        ("forces", [[0.25] * 3] * 2),
        ("data", "{}"),
        ("key_value_pairs", "{}"),
    ],
)
def test_other_ways_of_writing_a_part_give_the_same_frame(tmp_path, part, value):
    plain = read(write(tmp_path / "plain.aselmdb", [row()]))
    other = read(write(tmp_path / "other.aselmdb", [row(**{part: value})]))
    assert other.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    ("stress", "options", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], {}, [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        ([[1, 6, 5], [6, 2, 4], [5, 4, 3]], {}, [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        (
            [1, 6, 5, 6, 2, 4, 5, 4, 3],
            {"stress_sign": "pressure"},
            [[-1, -6, -5], [-6, -2, -4], [-5, -4, -3]],
        ),
        (
            [1, 2, 3, 4, 5, 6],
            {"stress_unit": "GPa"},
            np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) / 160.21766208,
        ),
    ],
)
def test_stress_has_six_or_nine_numbers_a_unit_and_a_sign(tmp_path, stress, options, expected):
    store = read(write(tmp_path / "a.aselmdb", [row(stress=stress)]), **options)
    assert np.allclose(store.stress[0], expected, rtol=1e-8)


def test_a_stress_that_contradicts_the_volume_is_refused(tmp_path):
    sides = np.linspace(9.5, 10.5, 120)
    rows = [row(cell=array(a * np.eye(3)), stress=[10.0 - a] * 3 + [0.0] * 3) for a in sides]
    path = write(tmp_path / "a.aselmdb", rows)
    with pytest.raises(DataError, match=r"correlation -1\.00"):
        read(path)
    assert read(path, stress_sign="pressure").stress[0, 0, 0] == pytest.approx(-0.5)
    assert len(read(path, check_stress_sign=False)) == 120


def test_the_stress_of_a_molecule_is_left_out_and_counted(tmp_path):
    store = read(write(tmp_path / "a.aselmdb", [row(stress=[0.0] * 6, pbc=None, cell=None)]))
    assert np.isnan(store.stress).all()
    assert store.info["labels"]["stress"]["ignored_without_3d_cell"] == 1


def test_units_are_converted(tmp_path):
    store = read(write(tmp_path / "a.aselmdb", [row()]), energy_unit="Hartree", length_unit="Bohr")
    assert store.energy[0] == pytest.approx(-1.5 * 27.211386, rel=1e-7)
    assert store.forces[0, 0] == pytest.approx(0.25 * 51.42207, rel=1e-6)
    assert store.cell[0, 0, 0] == pytest.approx(5.29177, rel=1e-5)


@pytest.mark.parametrize(
    ("constraints", "fixed"),
    [
        ([{"name": "FixAtoms", "kwargs": {"indices": [1]}}], [False, True]),
        ([{"name": "FixAtoms", "kwargs": {"indices": array([-1], "int64")}}], [False, True]),
        ([{"name": "FixAtoms", "kwargs": {"indices": [True, False]}}], [True, False]),
        ([{"name": "ase.constraints.FixAtoms", "kwargs": {"indices": 0}}], [True, False]),
        ('[{"__name__": "FixAtoms", "indices": [0]}]', [True, False]),
        ([{"name": "FixCartesian", "kwargs": {"a": [0], "mask": [True, True, True]}}], [True, False]),
        ([{"name": "FixCartesian", "kwargs": {"a": 1}}], [False, True]),
    ],
)
def test_held_atoms_are_fixed(tmp_path, constraints, fixed):
    store = read(write(tmp_path / "a.aselmdb", [row(constraints=constraints)]))
    assert store.fixed.tolist() == fixed


def test_partial_and_unknown_constraints_are_named_and_nothing_is_built_from_their_names(tmp_path):
    constraints = [
        {"name": "FixCartesian", "kwargs": {"a": [0], "mask": [True, True, False]}},
        {"name": "os.system", "kwargs": {"command": "touch /tmp/owned"}},
    ]
    store = read(write(tmp_path / "a.aselmdb", [row(constraints=constraints)]))
    assert store.fixed is None
    names = {"constraints.FixCartesian (some directions)": 1, "constraints.system": 1}
    assert names.items() <= store.info["not_read"].items()


def test_zero_tags_stay_zero(tmp_path):
    rows = [row(tags=array([0, 0], "int64")), row(tags=array([2, 1], "int64")), row()]
    assert read(write(tmp_path / "a.aselmdb", rows)).atom_tags.tolist() == [0, 0, 2, 1, 0, 0]


def test_scalars_become_tags_and_the_rest_is_named(tmp_path):
    data = {"sid": 7, "spin": array(2, "int64"), "metadata": {"T": 300.0, "deep": {"a": True, "b": {"c": 1}}}}
    data |= {"bulk_id": None, "adsorbates": ["O"], "when": {"__datetime__": "2020-01-01T00:00:00.0"}}
    pairs = {"sid": 8, "charge": -1}
    store = read(write(tmp_path / "a.aselmdb", [row(data=data, key_value_pairs=pairs)]))
    assert store.tags_of(0) == {
        "sid": 7,
        "spin": 2,
        "metadata.T": 300.0,
        "metadata.deep.a": True,
        "key_value_pairs.sid": 8,
        "charge": -1,
    }
    assert store.info["not_read"] == {"data.adsorbates": 1, "data.metadata.deep.b": 1, "data.when": 1}


def test_tags_can_be_chosen_and_kept_as_text(tmp_path):
    rows = [row(data={"sid": 7, "x": 1}), row(data={"sid": "a7", "x": 1})]
    store = read(write(tmp_path / "a.aselmdb", rows), tags=("sid",), text_tags=("sid",))
    assert {name: column.tolist() for name, column in store.tags.items()} == {"sid": ["7", "a7"]}
    assert store.info["not_read"]["data.x"] == 2


def test_labels_in_data_are_reported_and_used_if_asked_for(tmp_path):
    rows = [row(data={"energy": -9.0, "forces": [[0.25] * 3] * 2}), row()]
    path = write(tmp_path / "a.aselmdb", rows)
    plain, fairchem = read(path), read(path, labels="data")
    assert plain.energy.tolist() == [-1.5, -1.5]
    assert plain.info["labels"]["energy"]["calculator_and_data_differ"] == 1
    assert "calculator_and_data_differ" not in plain.info["labels"]["forces"]
    assert plain.info["not_read"]["data.energy"] == 1
    assert fairchem.energy.tolist() == [-9.0, -1.5]
    assert fairchem.info["labels"]["energy"]["key"] == "data.energy, energy"
    assert fairchem.info["stated"] == {"labels": "data"}


BAD_ROWS = {
    "nan energy": (row(energy=float("nan")), "NaN"),
    "infinite force": (row(forces=array([[float("inf")] * 3] * 2)), "NaN or infinite"),
    "nan position": (row(positions=array([[float("nan")] * 3] * 2)), "NaN or infinite"),
    "wrong shape": (row(positions=array(np.zeros((3, 3)))), "shape"),
    "shape does not fit": (row(forces={"__ndarray__": [[2, 3], "float64", [0.0] * 5]}), "5 numbers"),
    "huge shape": (row(forces={"__ndarray__": [[10**12, 3], "float64", [0.0]]}), "numbers"),
    "objects": (row(forces={"__ndarray__": [[2, 3], "object", ["a"] * 6]}), "type"),
    "text in numbers": (row(forces={"__ndarray__": [[2, 3], "float64", ["1.0"] * 6]}), "not all numbers"),
    "complex": (row(energy={"__complex__": [1, 2]}), "complex"),
    "ase object": (row(positions={"__ase_objtype__": "atoms", "numbers": [1]}), "ASE object"),
    "no element": (row(numbers=array([3, 0], "int64")), "unknown element"),
    "beyond elements": (row(numbers=array([3, 300], "int64")), "unknown element"),
    "broken numbers": (row(numbers=array([3, 17.5])), "whole numbers"),
    "no numbers": (row(numbers=None), "not a row"),
    "a list": ([1, 2], "not a row"),
    "constraint outside": (row(constraints=[{"name": "FixAtoms", "kwargs": {"indices": [2]}}]), "2 atoms"),
    "constraint without atoms": (row(constraints=[{"name": "FixAtoms", "kwargs": {}}]), "names no atoms"),
    "stress of four": (row(stress=[1, 2, 3, 4]), "shape"),
    "data is a list": (row(data=[1]), "dictionary"),
    "not zlib": (b"hello", "zlib"),
    "truncated": (zlib.compress(json.dumps(row()).encode())[:-9], "zlib"),
    "not JSON": (zlib.compress(b"{'a': 1}"), "JSON"),
    "a bomb": (zlib.compress(b" " * (1 << 27)), "bytes"),
    "deep": (row(data="[" * 5000 + "]" * 5000), "JSON"),
}


@pytest.mark.parametrize(("bad", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_by_name_or_skipped_and_counted(tmp_path, bad, words):
    path = write(tmp_path / "a.aselmdb", [row(), bad, row(energy=2.0)])
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert "a.aselmdb" in str(caught.value)
    store = read(path, on_error="skip")
    assert store.energy.tolist() == [-1.5, 2.0]
    (entry,) = store.info["skipped"].values()
    assert entry == {"frames": 1, "examples": [f"{path}, row 2"]}
    assert store.info["labels"]["energy"] == {"key": "energy", "found": 2, "of": 2}


def test_nan_labels_can_be_declared_absent(tmp_path):
    bad = row(energy=float("nan"), forces=array([[float("nan")] * 3] * 2))
    store = read(write(tmp_path / "a.aselmdb", [bad, row()]), nan_is_absent=True)
    assert store.label_counts() == {"energy": 1, "forces": 1, "stress": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nextid": 10**12}, "promises"),
        ({"nextid": "x"}, "nextid"),
        ({"nextid": 0}, "nextid"),
        ({"nextid": 2.5}, "nextid"),
        ({"deleted_ids": {"a": 1}}, "deleted_ids"),
        ({"deleted_ids": ["1"]}, "deleted_ids"),
    ],
)
def test_false_row_counts_are_refused(tmp_path, change, words):
    path = write(tmp_path / "a.aselmdb", [row(), row()], **change)
    with pytest.raises(DataError, match=words):
        read(path)


def test_rows_that_nextid_leaves_out_are_reported(tmp_path):
    store = read(write(tmp_path / "a.aselmdb", [row(), row(), row()], nextid=3))
    assert len(store) == 2
    assert store.info["not_read"]["records that `nextid` and `deleted_ids` leave out"] == 1


def test_too_many_different_keys_are_refused_and_can_be_chosen(tmp_path):
    rows = [row(data={f"key{i}_{k}": 1 for k in range(100)}) for i in range(3)]
    path = write(tmp_path / "a.aselmdb", rows)
    with pytest.raises(DataError, match="256 different"):
        read(path)
    assert list(read(path, tags=("key0_0",)).tags) == ["key0_0"]


def test_folders_are_read_in_the_order_of_names_and_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("atomml.datasets.readers.aselmdb.reader.PIECE_FRAMES", 2)
    (tmp_path / "val").mkdir()
    write(tmp_path / "data.0001.aselmdb", [row(energy=3.0)])
    write(tmp_path / "data.0000.aselmdb", [row(energy=float(k)) for k in range(3)])
    write(tmp_path / "val" / "data.0000.aselmdb", [row(energy=4.0)])
    (tmp_path / "data.0000.aselmdb-lock").write_bytes(b"")
    pieces = READER.pieces([tmp_path], AseLmdbOptions())
    assert [(p.path.name, p.start, p.stop) for p in pieces[:3]] == [
        ("data.0000.aselmdb", 0, 2),
        ("data.0000.aselmdb", 2, 3),
        ("data.0001.aselmdb", 0, 1),
    ]
    assert READER.recognises(tmp_path)
    assert read(tmp_path).energy.tolist() == [0, 1, 2, 3, 4]


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="no files"):
        read(tmp_path)
    assert not READER.recognises(tmp_path)


# metadata.npz


def folder_with_metadata(tmp_path, **columns):
    write(tmp_path / "b.aselmdb", [row(3), row(2)])
    write(tmp_path / "a.aselmdb", [row(2), row(4)])
    np.savez(tmp_path / "metadata.npz", **columns)
    return tmp_path


def test_metadata_is_checked_and_gives_tags_if_asked_for(tmp_path):
    folder = folder_with_metadata(tmp_path, natoms=[2, 4, 3, 2], spread=[0.1, 0.2, 0.3, 0.4])
    assert "spread" not in read(folder).tags
    assert read(folder, metadata="tags").tags["spread"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert read(folder / "b.aselmdb", metadata="tags").tags["spread"].tolist() == [0.3, 0.4]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"natoms": [2, 4, 3, 3]}, "says 3 atoms"),
        ({"natoms": [2, 4, 3]}, "4 rows"),
        ({"natoms": [2, 4, 3, 2], "x": [1.0]}, "4 rows"),
        ({"other": [2, 4, 3, 2]}, "natoms"),
        ({"natoms": np.array([2, 4, 3, 2], dtype=object)}, "type"),
        ({"natoms": np.ones((4, 1), int)}, "shape"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_and_can_be_ignored(tmp_path, columns, words):
    folder = folder_with_metadata(tmp_path, **columns)
    with pytest.raises(DataError, match=words):
        read(folder)
    assert len(read(folder, metadata="ignore")) == 4


def test_damaged_metadata_is_refused(tmp_path):
    folder = folder_with_metadata(tmp_path, natoms=[2, 4, 3, 2])
    content = (folder / "metadata.npz").read_bytes()
    (folder / "metadata.npz").write_bytes(content[:-40])
    with pytest.raises(DataError, match="npz"):
        read(folder)


# archives


def tar_of(path, members, mode="w:gz"):
    """An archive of (name, content) and of ready-made TarInfo objects."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            info, content = (member, b"") if isinstance(member, tarfile.TarInfo) else (None, member[1])
            if info is None:
                info = tarfile.TarInfo(member[0])
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def content(tmp_path):
    """Bytes of three files."""
    made = {}
    for name, energies in {"b": [1.0, 2.0, 3.0], "a": [4.0], "c": [5.0, 6.0]}.items():
        path = write(tmp_path / f"{name}.aselmdb", [row(energy=e) for e in energies])
        made[name] = path.read_bytes()
        path.unlink()
    return made


@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w")])
def test_archives_are_read_in_their_order(tmp_path, content, name, mode):
    folder = tarfile.TarInfo("train")
    folder.type = tarfile.DIRTYPE
    members = [folder, ("README", b"hello"), ("train/b.aselmdb", content["b"]), ("train/._b.aselmdb", b"mac")]
    members += [("train/a.aselmdb", content["a"]), ("train/c.aselmdb", content["c"])]
    path = tar_of(tmp_path / name, members, mode)
    store = read(path)
    assert store.energy.tolist() == [1, 2, 3, 4, 5, 6]
    assert store.ids[3] == "a.aselmdb:1"
    assert [part["member"] for part in store.info["parts"]] == [f"train/{c}.aselmdb" for c in "bac"]
    assert READER.recognises(path)
    assert list(tmp_path.iterdir()) == [path]


def test_pieces_of_an_archive_can_be_read_in_any_order(tmp_path, content, monkeypatch):
    monkeypatch.setattr("atomml.datasets.readers.aselmdb.reader.PIECE_FRAMES", 2)
    path = tar_of(tmp_path / "x.tar.gz", [(f"{c}.aselmdb", content[c]) for c in "bac"])
    options = AseLmdbOptions()
    pieces = READER.pieces([path], options)
    assert [(p.member[0], p.start, p.stop) for p in pieces] == [
        ("b", 0, 2),
        ("b", 2, 3),
        ("a", 0, 1),
        ("c", 0, 2),
    ]
    for k in (3, 1, 0, 2, 2):
        assert READER.read(pieces[k], options).energy.tolist() == [[1, 2], [3], [4], [5, 6]][k]


def special(name, kind, **more):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


HOSTILE = {
    "absolute name": ([("/tmp/a.aselmdb", b"x")], "absolute"),
    "parent folder": ([("a/../../b.aselmdb", b"x")], r"\.\."),
    "windows drive": ([("C:\\a.aselmdb", b"x")], "absolute"),
    "windows parent": ([("..\\a.aselmdb", b"x")], r"\.\."),
    "symbolic link": ([special("a.aselmdb", tarfile.SYMTYPE, linkname="/etc/passwd")], "link"),
    "hard link": ([special("a.aselmdb", tarfile.LNKTYPE, linkname="b")], "link"),
    "device": ([special("a.aselmdb", tarfile.CHRTYPE)], "device"),
    "pipe": ([special("a.aselmdb", tarfile.FIFOTYPE)], "device"),
    "link elsewhere": ([special("README", tarfile.SYMTYPE, linkname="/etc/passwd")], "link"),
    "no LMDB": ([("a.aselmdb", b"x" * 9000)], "LMDB"),
    "empty member": ([("a.aselmdb", b"")], "LMDB"),
    "no members": ([("README", b"x")], "no files"),
    "a bomb": ([("README", bytes(1 << 28))], "expands"),
    "long extended header": ([special("x" * (1 << 17), tarfile.REGTYPE)], "extended header"),
}


@pytest.mark.parametrize(("members", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused(tmp_path, members, words):
    path = tar_of(tmp_path / "x.tar.gz", members)
    with pytest.raises(DataError, match=words) as caught:
        read(path)
    assert "x.tar.gz" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0, 1, 100, -5, -2000])
@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar"])
def test_truncated_archives_are_refused(tmp_path, rng, name, kept):
    noise = rng.integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    rows = [row(data={"noise": noise.hex()[:900]}) for _ in range(5)]
    content = write(tmp_path / "a.aselmdb", rows).read_bytes()
    path = tar_of(tmp_path / name, [("a.aselmdb", content)], "w:gz" if name.endswith("gz") else "w")
    whole = path.read_bytes().rstrip(b"\0") if name == "x.tar" else path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(DataError):
        read(path)


def test_two_members_of_one_name_are_refused(tmp_path, content):
    path = tar_of(tmp_path / "x.tar", [("a.aselmdb", content["a"]), ("a.aselmdb", content["b"])], "w")
    with pytest.raises(DataError, match="one name"):
        read(path)


def test_a_member_that_is_not_there_is_refused(tmp_path, content):
    path = tar_of(tmp_path / "x.tar", [("a.aselmdb", content["a"])], "w")
    with pytest.raises(DataError, match="no such member"):
        READER.read(Piece(path, member="b.aselmdb"), AseLmdbOptions())


def test_a_full_disk_is_noticed_before_unpacking(tmp_path, content, monkeypatch):
    path = tar_of(tmp_path / "x.tar", [("a.aselmdb", content["a"])], "w")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="TMPDIR"):
        read(path)


def test_licence_and_level_of_theory_go_into_info(tmp_path):
    path = write(tmp_path / "a.aselmdb", [row()])
    assert "NON-COMMERCIAL" in read(path, dataset="aqvolt26").info["licence"]
    stated = read(path, licence="CC-BY-4.0", level_of_theory="PBE").info
    assert (stated["licence"], stated["level_of_theory"]) == ("CC-BY-4.0", "PBE")
    assert "licence" not in read(path).info


def test_rows_without_a_store_are_the_frames_of_the_store(tmp_path):
    path = write(tmp_path / "a.aselmdb", [row(energy=float(k)) for k in range(3)])
    store = read(path)
    frames = list(iterate_rows(path))
    assert [f.energy for f in frames] == store.energy.tolist() == [0.0, 1.0, 2.0]
    assert [f.id for f in frames] == list(store.ids)
    broken = write(tmp_path / "b.aselmdb", [row(energy=float("nan"))])
    with pytest.raises(DataError, match="NaN"):
        list(iterate_rows(broken))
