"""Legacy LMDB files of OC20 and OC22, dictionaries of tensors, pickled lists: equal to what PyG itself reads."""

import pickle

import lmdb
import numpy as np
import pytest
import torch

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.dict_lmdb import READER as DICTS
from atomml.datasets.readers.oc20.lmdb_shards import PICKLE_READER, READER
from atomml.errors import ConfigError, DataError

from .oc20_files import legacy, modern, record, write_lmdb


def shard(path, records, dump=modern, **more):
    return write_lmdb(path, {k: dump(r) for k, r in enumerate(records)} | more)


def attributes(data):
    """Of a genuine PyG object of any layout."""
    state = data if isinstance(data, dict) else data.__dict__
    mapping = state["_store"]._mapping if "_store" in state else state
    return {key: value for key, value in mapping.items() if value is not None}


def genuine(path):
    """Every record of a trusted file, by number, as torch and PyG unpickle it."""
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        keys = sorted(int(key) for key, _ in transaction.cursor() if key.isdigit())
        return [attributes(pickle.loads(transaction.get(str(k).encode()))) for k in keys]


def same_structures(store, records, *, pos="pos"):
    assert len(store) == len(records)
    for k, expected in enumerate(records):
        frame = store.frame(k)
        assert np.array_equal(frame.positions, expected[pos].double().numpy())
        assert np.array_equal(frame.numbers, expected["atomic_numbers"].long().numpy())
        assert np.array_equal(frame.cell, expected["cell"].double().numpy().reshape(3, 3))
        if "fixed" in expected:
            assert np.array_equal(frame.fixed, expected["fixed"].bool().numpy())
            assert np.array_equal(frame.atom_tags, expected["tags"].long().numpy())


@pytest.mark.parametrize("layout", ["pyg1_protocol4", "pyg2_protocol5"])
def test_real_s2ef_folders_equal_what_pyg_reads(shared_data, layout):
    folder = shared_data / "oc20" / "legacy_lmdb_reserialised" / layout
    assert READER.recognises(folder)
    assert not DICTS.recognises(folder)
    store = read_frames(folder, READER)
    records = [r for k in (0, 1) for r in genuine(folder / f"data.000{k}.lmdb")]
    same_structures(store, records)
    assert store.energy.tolist() == [r["y"] for r in records]
    assert np.array_equal(store.forces, np.concatenate([r["force"].double().numpy() for r in records]))
    lines = [line for k in (0, 1) for line in (folder / f"data_log.000{k}.txt").read_text().split()]
    assert list(store.ids) == lines
    assert store.tags["sid"].tolist() == [r["sid"] for r in records]
    assert store.tags["fid"].tolist() == [r["fid"] for r in records]
    assert not any("warnings" in info for info in store.origins())


def test_both_layouts_hold_the_same_frames(shared_data):
    folder = shared_data / "oc20" / "legacy_lmdb_reserialised"
    first, second = (read_frames(folder / name, READER) for name in ("pyg1_protocol4", "pyg2_protocol5"))
    assert first.fingerprint() == second.fingerprint()


def test_real_is2re_rows_need_the_geometry_stated(shared_data):
    path = shared_data / "oc20" / "lmdb_is2re_format" / "data.lmdb"
    records = genuine(path)
    with pytest.raises(DataError, match="no pos_relaxed") as caught:
        read_frames(path, READER)
    assert "key 0" in caught.value.where
    assert "geometry: initial" in caught.value.fix
    store = read_frames(path, READER, geometry="initial", label="y_init", edges="check")
    same_structures(store, records)
    assert store.energy.tolist() == [r["y_init"] for r in records]
    assert set(store.tags["geometry"]) == {"initial"}
    assert set(store.tags["label"]) == {"y_init"}
    edges = store.info["edges"]
    assert edges["frames"] == edges["equal"] == 68
    assert edges["missing"] == edges["extra"] == 0
    assert edges["truncated"] > 0
    task = read_frames(path, READER, geometry="initial")
    assert task.energy.tolist() == [r["y_relaxed"] for r in records]
    assert set(task.tags["label"]) == {"y_relaxed"}
    assert task.info["not_read"] == {"cell_offsets": 68, "edge_index": 68, "y_init": 68}


@pytest.mark.parametrize("part", ["train", "val"])
def test_real_oc22_pickles_equal_what_pyg_reads(shared_data, part):
    path = shared_data / "oc20" / "pickles" / f"oc22_pickle16_{part}.pkl"
    assert PICKLE_READER.recognises(path)
    assert PICKLE_READER.recognises(path.parent)
    assert not READER.recognises(path)
    records = [attributes(data) for data in pickle.loads(path.read_bytes())]
    store = read_frames(path, PICKLE_READER)
    same_structures(store, records)
    assert store.energy.tolist() == [r["y"] for r in records]
    assert np.array_equal(store.forces, np.concatenate([r["force"].double().numpy() for r in records]))
    for tag in ("sid", "fid", "nads", "oc22"):
        assert store.tags[tag].tolist() == [r[tag] for r in records]
    assert list(store.ids) == [f"{r['sid']}_{r['fid']}" for r in records]
    assert store.info["not_read"] == {"id": 16}


def test_real_dictionaries_of_tensors_equal_what_torch_reads(shared_data):
    path = shared_data / "format_fixtures" / "matsciml_lips.lmdb"
    assert DICTS.recognises(path)
    assert not READER.recognises(path)
    records = genuine(path)
    store = read_frames(path, DICTS)
    same_structures(store, records)
    assert store.energy.tolist() == [float(r["energy"]) for r in records]
    assert np.array_equal(store.forces, np.concatenate([r["force"].double().numpy() for r in records]))
    assert store.pbc.all()
    assert store.info["labels"]["forces"]["key"] == "force"


@pytest.mark.parametrize("dump", [legacy, modern])
def test_every_layout_of_pyg_is_read(tmp_path, dump):
    records = [record(k) for k in range(3)]
    store = read_frames(shard(tmp_path / "data.lmdb", records, dump), READER)
    same_structures(store, records)
    assert store.energy.tolist() == [-1.5, -2.5, -3.5]
    assert "not_read" not in store.info


def test_records_are_in_numeric_order(tmp_path):
    store = read_frames(shard(tmp_path / "data.lmdb", [record(k) for k in range(12)]), READER)
    assert store.tags["fid"].tolist() == list(range(12))


def test_shards_are_joined_in_the_order_of_their_names(tmp_path):
    for name, first in (("data.0001.lmdb", 3), ("data.0000.lmdb", 0), ("data.0010.lmdb", 5)):
        shard(tmp_path / "val_ood_ads" / name, [record(first), record(first + 1)])
    (tmp_path / "val_ood_ads" / "data.0000.lmdb-lock").write_bytes(b"x")
    store = read_frames(tmp_path / "val_ood_ads", READER)
    assert store.tags["fid"].tolist() == [0, 1, 3, 4, 5, 6]
    assert set(store.tags["part"]) == {"val_ood_ads"}


def test_pieces_are_ranges_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr("atomml.datasets.readers.oc20.shards.PIECE_FRAMES", 4)
    path = shard(tmp_path / "data.lmdb", [record(k) for k in range(10)], length=pickle.dumps(9))
    options = READER.options()
    pieces = READER.pieces([path], options)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 4), (4, 8), (8, 10)]
    stores = [READER.read(piece, options) for piece in pieces]
    assert [f for s in stores for f in s.tags["fid"]] == list(range(10))
    assert ["warnings" in s.info for s in stores] == [True, False, False]


@pytest.mark.parametrize(
    ("length", "warned"),
    [(None, False), (3, False), (2, True), (4, True), (torch.tensor(3), False), ("three", True)],
)
def test_the_stated_length_is_compared_and_never_trusted(tmp_path, length, warned):
    more = {} if length is None else {"length": pickle.dumps(length)}
    store = read_frames(shard(tmp_path / "data.lmdb", [record(k) for k in range(3)], **more), READER)
    assert len(store) == 3
    warnings = store.info.get("warnings", [])
    assert bool(warnings) == warned
    assert all("there are 3 records" in text for text in warnings)


def test_keys_that_are_no_numbers_are_named(tmp_path):
    path = shard(tmp_path / "data.lmdb", [record(0), record(1)], metadata=b"x", **{"007": b"y"})
    store = read_frames(path, READER)
    assert len(store) == 2
    assert store.info["not_read"] == {"key 'metadata'": 1, "key '007'": 1}


@pytest.mark.parametrize(("keys", "missing"), [((0, 1, 3), 2), ((1, 2), 0), ((0, 12), 1)])
def test_a_gap_in_the_keys_is_an_error_that_names_it(tmp_path, keys, missing):
    path = write_lmdb(tmp_path / "data.lmdb", {k: modern(record(k)) for k in keys})
    with pytest.raises(DataError, match=f"key '{missing}' is missing"):
        read_frames(path, READER)


def test_a_file_without_records_is_an_error(tmp_path):
    path = write_lmdb(tmp_path / "data.lmdb", {"length": pickle.dumps(0), "nextid": b"1"})
    assert not READER.recognises(path)
    with pytest.raises(DataError, match="no records") as caught:
        read_frames(path, READER)
    assert "nextid" in caught.value.fix


def test_a_test_set_without_labels_is_structures_alone(tmp_path):
    s2ef = [record(k, y=None, force=None) for k in range(2)]
    store = read_frames(shard(tmp_path / "test_id" / "data.lmdb", s2ef), READER)
    assert np.isnan(store.energy).all()
    assert np.isnan(store.forces).all()
    assert store.info["labels"]["energy"] == {"key": None, "found": 0, "of": 2}
    is2re = [record(k, y=None, force=None, fid=None) for k in range(2)]
    store = read_frames(shard(tmp_path / "test_ood_both" / "data.lmdb", is2re), READER, task="is2re")
    same_structures(store, is2re)
    assert np.isnan(store.energy).all()
    assert list(store.ids) == ["100", "101"]


def is2re_records():
    return [
        record(
            k, y=None, fid=None, y_init=-3.0 - k, y_relaxed=-4.0 - k, pos_relaxed=torch.full((3, 3), 1.0 + k)
        )
        for k in range(2)
    ]


def test_the_relaxed_structure_with_its_energy_is_the_default(tmp_path):
    records = is2re_records()
    path = shard(tmp_path / "data.lmdb", records)
    store = read_frames(path, READER)
    same_structures(store, records, pos="pos_relaxed")
    assert store.energy.tolist() == [-4.0, -5.0]
    assert np.isnan(store.forces).all()
    assert store.info["not_read"] == {"force": 2, "pos": 2, "y_init": 2}
    initial = read_frames(path, READER, geometry="initial", label="y_init")
    same_structures(initial, records)
    assert initial.energy.tolist() == [-3.0, -4.0]
    assert np.array_equal(initial.forces[:3], records[0]["force"].double().numpy())
    task = read_frames(path, READER, geometry="initial")
    assert task.energy.tolist() == [-4.0, -5.0]
    assert np.isnan(task.forces).all()
    with pytest.raises(ConfigError, match="label y_init is the energy of the initial structure"):
        read_frames(path, READER, label="y_init")


def test_values_of_any_type_that_oc20_used_are_understood(tmp_path):
    odd = record(
        0,
        natoms=torch.tensor([3]),
        sid=torch.tensor([100]),
        fid=torch.tensor(7),
        tags=torch.tensor([0.0, 1.0, 2.0]),
        fixed=torch.tensor([True, False, False]),
        atomic_numbers=torch.tensor([78, 78, 8], dtype=torch.int32),
        cell=5 * torch.eye(3, dtype=torch.float64),
        y=np.float64(-2.5),
        total_frames=80,
    )
    store = read_frames(shard(tmp_path / "data.lmdb", [odd]), READER)
    assert store.energy.tolist() == [-2.5]
    assert store.ids[0] == "100_7"
    assert store.fixed.tolist() == [True, False, False]
    assert store.atom_tags.tolist() == [0, 1, 2]
    assert store.tags["total_frames"].tolist() == [80]


def test_renamed_labels_and_no_cell_are_understood(tmp_path):
    molecule = record(0, y=None, force=None, energy=torch.tensor([-7.0]), forces=torch.ones(3, 3), cell=None)
    store = read_frames(shard(tmp_path / "data.lmdb", [molecule]), READER)
    assert store.energy.tolist() == [-7.0]
    assert (store.forces == 1.0).all()
    assert not store.pbc.any()
    assert store.info["labels"]["energy"]["key"] == "energy"


def test_records_of_other_sets_with_little_more_than_a_structure_are_read(tmp_path):
    absent = dict.fromkeys(("tags", "fixed", "sid", "fid", "natoms"))
    path = shard(tmp_path / "md17.lmdb", [record(k, **absent) for k in range(2)], length=pickle.dumps(1))
    store = read_frames(path, READER)
    assert list(store.ids) == ["md17.lmdb#0", "md17.lmdb#1"]
    assert store.fixed is None
    assert store.atom_tags is None
    assert len(store.info["warnings"]) == 1


BAD = {
    "natoms is 4": {"natoms": 4},
    r"pos has shape \(2, 3\)": {"pos": torch.zeros(2, 3)},
    "force has shape": {"force": torch.zeros(3)},
    "atomic_numbers has values that are not integers": {"atomic_numbers": torch.tensor([78.5, 1.0, 1.0])},
    "unknown element": {"atomic_numbers": torch.tensor([0.0, 1.0, 1.0])},
    "tags has values that are not integers": {"tags": torch.tensor([0.5, 1.0, 2.0])},
    "fixed is not one 0 or 1": {"fixed": torch.tensor([2.0, 0.0, 0.0])},
    "y is NaN": {"y": float("nan")},
    r"y is of shape \(2,\)": {"y": torch.zeros(2)},
    "y is a str": {"y": "low"},
    "cell has shape": {"cell": torch.eye(2)},
    "no pos": {"pos": None},
    "no atomic_numbers": {"atomic_numbers": None},
    "forces are NaN": {"force": torch.full((3, 3), torch.nan)},
    "sid is a str": {"sid": "random1"},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_record_is_an_error_that_names_file_and_key(tmp_path, message):
    path = shard(tmp_path / "data.lmdb", [record(0), record(1, **BAD[message])])
    with pytest.raises(DataError, match=message) as caught:
        read_frames(path, READER)
    assert str(path) in caught.value.where
    assert "key 1" in caught.value.where or "101_1" in caught.value.where


def test_a_record_that_would_run_code_is_refused(tmp_path):
    path = write_lmdb(tmp_path / "data.lmdb", {0: modern(record(0)), 1: b"cposix\nsystem\n(S'true'\ntR."})
    with pytest.raises(DataError, match="system"):
        read_frames(path, READER)


def test_the_log_gives_ids_and_must_agree(tmp_path):
    path = shard(tmp_path / "data.0003.lmdb", [record(0), record(1)])
    log = tmp_path / "data_log.0003.txt"
    log.write_text("random100,frame0\nrandom101,frame1\n")
    assert list(read_frames(path, READER).ids) == ["random100,frame0", "random101,frame1"]
    log.write_text("random100,frame0\nrandom101,frame2\n")
    with pytest.raises(DataError, match="sid 101 and fid 1, its line in the data_log is random101,frame2"):
        read_frames(path, READER)
    log.write_text("random100,frame0\n")
    store = read_frames(path, READER)
    assert list(store.ids) == ["100_0", "101_1"]
    assert store.info["warnings"] == [
        "data_log.0003.txt has 1 lines, data.0003.lmdb 2 records; it is not used."
    ]


def test_energies_are_converted_with_the_table_of_references(tmp_path):
    path = shard(tmp_path / "data.lmdb", [record(0), record(1)])
    table = tmp_path / "oc20_ref.pkl"
    table.write_bytes(pickle.dumps({"random100": -10.0, "random101": -20.0}))
    total = read_frames(path, READER, energy="adsorption_to_total", reference_pickle=str(table))
    assert total.energy.tolist() == [-11.5, -22.5]
    assert total.tags["reference_energy"].tolist() == [-10.0, -20.0]
    back = read_frames(path, READER, energy="total_to_adsorption", reference_pickle=str(table))
    assert back.energy.tolist() == [8.5, 17.5]
    with pytest.raises(ConfigError, match="needs reference_pickle"):
        read_frames(path, READER, energy="total_to_adsorption")
    table.write_bytes(pickle.dumps({"random100": -10.0}))
    with pytest.raises(DataError, match="random101") as caught:
        read_frames(path, READER, energy="adsorption_to_total", reference_pickle=str(table))
    assert "key 1" in caught.value.where


def test_edges_that_are_missing_or_too_many_are_reported(tmp_path):
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.5, 0.0]])
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
    good = {"pos": pos, "cell": 20 * torch.eye(3).reshape(1, 3, 3), "cell_offsets": torch.zeros(6, 3).long()}
    good["edge_index"] = torch.tensor(pairs).T
    fewer = good | {"edge_index": torch.tensor(pairs[2:]).T, "cell_offsets": torch.zeros(4, 3).long()}
    moved = good | {"cell_offsets": torch.tensor([[1, 0, 0]] + 5 * [[0, 0, 0]])}
    records = [record(k, **edges) for k, edges in enumerate((good, fewer, moved))]
    path = shard(tmp_path / "data.lmdb", records)
    store = read_frames(path, READER, edges="check")
    edges = store.info["edges"]
    assert (edges["frames"], edges["equal"], edges["missing"], edges["extra"]) == (3, 1, 3, 1)
    assert "key 1: 2 missing, 0 extra" in edges["examples"][0]
    assert "2 of 3 frames differ" in store.info["warnings"][0]
    assert store.info["not_read"] == {"cell_offsets": 3, "edge_index": 3}
    bad = shard(tmp_path / "bad.lmdb", [record(0, **(good | {"edge_index": torch.tensor(pairs).T + 1}))])
    with pytest.raises(DataError, match="beyond the 3"):
        read_frames(bad, READER, edges="check")
    assert len(read_frames(bad, READER)) == 1


def nequip_record(k):
    return {
        "pos": torch.rand(2, 3, dtype=torch.float64),
        "cell": 4 * torch.eye(3, dtype=torch.float64).reshape(1, 3, 3),
        "pbc": torch.tensor([[True, True, True]]),
        "atomic_numbers": torch.tensor([11, 17]),
        "atom_types": torch.tensor([0, 1]),
        "total_energy": torch.tensor([[-3.0 - k]], dtype=torch.float64),
        "forces": torch.rand(2, 3, dtype=torch.float64),
        "stress": torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).reshape(1, 3, 3),
    }


def test_dictionaries_of_nequip_are_read_with_stated_units_and_sign(tmp_path):
    records = [nequip_record(k) for k in range(2)]
    more = {"__metadata__": pickle.dumps({"num_frames": 2})}
    path = shard(tmp_path / "data.lmdb", records, pickle.dumps, **more)
    assert DICTS.recognises(path)
    store = read_frames(path, DICTS)
    assert store.energy.tolist() == [-3.0, -4.0]
    assert np.array_equal(store.stress[0], np.diag([1.0, 2.0, 3.0]))
    assert np.array_equal(store.forces, torch.cat([r["forces"] for r in records]).numpy())
    assert store.info["labels"]["energy"]["key"] == "total_energy"
    assert store.info["not_read"] == {"atom_types": 2, "key '__metadata__'": 1}
    other = read_frames(path, DICTS, stress_unit="GPa", stress_sign="pressure", energy_unit="Hartree")
    assert np.allclose(other.stress[0], -np.diag([1.0, 2.0, 3.0]) / 160.21766208)
    assert np.allclose(other.energy, store.energy * 27.211386024)
    with pytest.raises(DataError, match="no forces key 'f'"):
        read_frames(path, DICTS, forces_key="f")


def test_dictionaries_that_change_their_keys_are_refused(tmp_path):
    second = nequip_record(1)
    second["energy"] = second.pop("total_energy")
    path = shard(tmp_path / "data.lmdb", [nequip_record(0), second], pickle.dumps)
    with pytest.raises(DataError, match="total_energy in the first, energy here") as caught:
        read_frames(path, DICTS)
    assert "key 1" in caught.value.where


def test_a_pickle_of_anything_but_a_list_is_refused(tmp_path):
    path = tmp_path / "one.pkl"
    path.write_bytes(modern(record(0)))
    with pytest.raises(DataError, match="not a list"):
        read_frames(path, PICKLE_READER)
    path.write_bytes(pickle.dumps([torch.zeros(3)]))
    with pytest.raises(DataError, match="record 0") as caught:
        read_frames(path, PICKLE_READER)
    assert "not a PyG Data" in caught.value.what
