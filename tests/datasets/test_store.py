import errno
import json
import pickle
import shutil

import numpy as np
import pytest

from atomml.datasets import FrameStore, concatenate, from_ase, label_summary, load_frames, store_writer
from atomml.errors import DataError

COLUMNS = ("n_atoms", "offsets", "numbers", "positions", "cell", "pbc", "energy", "forces", "stress", "fixed")


def same(a, b):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert list(a.ids) == list(b.ids)
    assert a.tags.keys() == b.tags.keys()
    for name, column in a.tags.items():
        np.testing.assert_array_equal(column, b.tags[name])


def test_saved_store_opens_memory_mapped_and_bit_equal(store, tmp_path):
    opened = FrameStore.open(store.save(tmp_path / "set"))
    same(store, opened)
    assert not opened.forces.flags.writeable
    assert not opened.forces.flags.owndata
    assert opened.info == json.loads(json.dumps(store.info))


def test_fingerprint_follows_content_and_not_names(store, tmp_path):
    opened = FrameStore.open(store.save(tmp_path / "a"))
    assert opened.fingerprint() == store.fingerprint()
    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    assert FrameStore.open(moved).subset(range(len(store))).fingerprint() == store.fingerprint()
    assert store.subset(range(len(store) - 1, -1, -1)).fingerprint() != store.fingerprint()
    changed = store.subset(range(len(store)))
    changed.energy[0] += 1e-12
    assert changed.fingerprint() != store.fingerprint()


def test_frames_come_back_as_they_went_in(frames, store):
    for before, after in zip(frames, store, strict=True):
        assert (before.numbers == after.numbers).all()
        assert (before.positions == after.positions).all()
        assert before.info == after.info
        assert (before.calc.results.keys()) == (after.calc.results.keys() if after.calc else set())
        for name, value in before.calc.results.items():
            np.testing.assert_allclose(after.calc.results[name], value, rtol=0, atol=1e-15)


def test_absent_labels_are_counted_and_not_invented(store):
    assert label_summary(store) == "energy 8/9, forces 7/9, stress 6/9"
    assert np.isnan(store.forces[store.atoms_of(7)]).all()
    assert store[8].calc is None


def test_subset_keeps_order_and_repeats(store):
    part = store.subset([5, 0, 5])
    np.testing.assert_array_equal(part.positions[part.atoms_of(2)], store.positions[store.atoms_of(5)])
    assert list(part.tags["T"]) == [1800, 300, 1800]
    assert part.ids[1] == store.ids[0]


def test_subset_refuses_rows_that_do_not_exist(store):
    with pytest.raises(DataError, match=r"Row 9 does not exist"):
        store.subset([0, 9])


def test_concatenation_fills_absent_tags_and_flags(store, frames):
    other = from_ase([frames[0]])
    other.tags["new"] = np.array([1.5])
    joined = concatenate([store, other])
    assert len(joined) == 10
    assert np.isnan(joined.tags["new"][:9]).all()
    assert joined.tags["traj"][8] == ""
    assert joined.fixed.sum() == 2
    np.testing.assert_array_equal(joined.forces[joined.atoms_of(9)], store.forces[store.atoms_of(0)])


def test_tag_that_is_text_somewhere_is_text_everywhere(store, frames):
    other = from_ase([frames[0]])
    other.tags["traj"] = np.array([7])
    joined = concatenate([store, other])
    assert joined.tags["traj"].tolist() == [*store.tags["traj"].tolist(), "7"]


def test_graph_carries_labels_and_row(store):
    graph = store.graph(2, 4.0)
    assert graph.index.item() == 2
    np.testing.assert_array_equal(graph.forces.numpy(), store.forces[store.atoms_of(2)])
    np.testing.assert_array_equal(graph.stress[0].numpy(), store.stress[2])
    assert store.graph(7, 4.0).forces.isnan().all()


def test_mapped_store_travels_between_processes_by_its_path(store, tmp_path):
    opened = FrameStore.open(store.save(tmp_path / "set"))
    sent = pickle.dumps(opened)
    assert len(sent) < 1000
    same(opened, pickle.loads(sent))
    same(store, pickle.loads(pickle.dumps(store)))


@pytest.mark.parametrize("verify", [None, True, False])
@pytest.mark.parametrize("name", ["positions", "ids_text", "tag_000_text", "energy"])
def test_truncated_column_is_refused_by_name(store, tmp_path, name, verify):
    folder = store.save(tmp_path / "set")
    path = folder / f"{name}.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="truncated") as caught:
        FrameStore.open(folder, verify=verify)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_altered_column_is_refused_by_its_checksum(store, tmp_path):
    folder = store.save(tmp_path / "set")
    raw = bytearray((folder / "forces.bin").read_bytes())
    raw[5] ^= 1
    (folder / "forces.bin").write_bytes(raw)
    with pytest.raises(DataError, match="checksum"):
        FrameStore.open(folder)
    FrameStore.open(folder, verify=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "not one of a frame store"),
        ('{"format": "other"}', "not one of a frame store"),
        ('{"format": "atomml-frames", "version": 99}', "version 99"),
        ('{"format": "atomml-frames", "version": 1}', "misses or garbles"),
    ],
)
def test_foreign_or_damaged_header_is_refused(tmp_path, text, message):
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(DataError, match=message):
        FrameStore.open(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("frames", 8), ("atoms", 7), ("arrays", {}), ("tags", [{"name": "x"}]), ("frames", "many")],
)
def test_header_that_contradicts_the_columns_is_refused(store, tmp_path, entry, value):
    folder = store.save(tmp_path / "set")
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {entry: value}))
    with pytest.raises(DataError):
        FrameStore.open(folder)


def test_missing_column_and_missing_folder_are_refused(store, tmp_path):
    folder = store.save(tmp_path / "set")
    (folder / "cell.bin").unlink()
    with pytest.raises(DataError, match="missing"):
        FrameStore.open(folder)
    with pytest.raises(DataError, match=r"no header\.json"):
        FrameStore.open(tmp_path)
    with pytest.raises(DataError, match="No reader recognises"):
        load_frames(tmp_path)


def test_existing_folders_are_kept(store, tmp_path):
    folder = store.save(tmp_path / "set")
    with pytest.raises(DataError, match="exists already"):
        store.save(folder)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="not a frame store"):
        store.save(tmp_path / "mine", overwrite=True)
    store.subset([0]).save(folder, overwrite=True)
    assert len(FrameStore.open(folder)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "set"]


def test_full_disk_leaves_the_previous_store_and_no_rubbish(store, tmp_path, monkeypatch):
    folder = store.save(tmp_path / "set")
    written = []

    def full(path, *arguments):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return real(path, *arguments)

    real = store_writer._write_array
    monkeypatch.setattr(store_writer, "_write_array", full)
    with pytest.raises(DataError, match="No space left"):
        store.subset([0]).save(folder, overwrite=True)
    same(FrameStore.open(folder), store)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_info_that_is_not_json_is_refused_before_anything_is_written(store, tmp_path):
    store.info["model"] = object()
    with pytest.raises(DataError, match="JSON"):
        store.save(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_nothing_in_a_store_is_a_pickle(store, tmp_path):
    folder = store.save(tmp_path / "set")
    for path in folder.iterdir():
        with pytest.raises(Exception):
            pickle.loads(path.read_bytes())
