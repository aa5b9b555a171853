"""The published split of PubChemQCR is reproduced by molecule, and lists of CIDs are read and written."""

import json
import random

import numpy as np
import pytest

from atomml.datasets.readers import read_frames
from atomml.datasets.readers.pubchemqcr.reader import READER, valid_cids
from atomml.datasets.readers.pubchemqcr.split import pubchemqcr_split, save_cids, split_from_cids
from atomml.datasets.splits import Split
from atomml.datasets.store import FrameStore
from atomml.errors import DataError
from tests.datasets.readers.pubchemqcr_files import changed, make_step, make_steps, record, write_shard

TEN_AT_42 = [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]
CIDS = [984, 15111, 15112, 200001, 7, 30, 999999999, 41, 42, 43]


@pytest.fixture
def shards(tmp_path):
    """Ten molecules with one to four steps in two shards, and three more without a usable step."""
    molecules = {cid: record(make_steps(1 + k % 4, seed=k)) for k, cid in enumerate(CIDS)}
    dropped = {1: record(None), 500: record([changed(make_step(), energy=None)]), 90000: record([])}
    write_shard(tmp_path / "Data05.lmdb", {c: molecules[c] for c in CIDS[:6]} | dropped)
    write_shard(tmp_path / "Data06.lmdb", {c: molecules[c] for c in CIDS[6:]})
    return tmp_path


@pytest.fixture
def store(shards):
    return read_frames(shards, READER)


def numbered():
    """CIDs in the numbering of the source: sorted in the first shard, then in the second."""
    return sorted(CIDS[:6]) + sorted(CIDS[6:])


def parts_of(store, split):
    return [sorted(set(store.tags["cid"][rows].tolist())) for rows in split.parts()]


def test_ten_trajectories_at_seed_42_are_pinned():
    split = pubchemqcr_split(10)
    assert split.train.tolist() == sorted(TEN_AT_42[:6]) == [2, 3, 5, 6, 7, 8]
    assert split.valid.tolist() == [4, 9]
    assert split.test.tolist() == [0, 1]


def test_frames_of_ten_molecules_follow_the_pinned_order(store):
    split = pubchemqcr_split(store)
    split.check()
    order = [numbered()[k] for k in TEN_AT_42]
    assert parts_of(store, split) == [sorted(order[:6]), sorted(order[6:8]), sorted(order[8:])]
    assert sum(map(len, split.parts())) == len(store) == 23
    assert split.how == {
        "method": "pubchemqcr",
        "seed": 42,
        "ratios": [0.6, 0.2],
        "trajectories": 10,
        "cids_in_several_parts": 0,
    }


@pytest.mark.parametrize(
    ("n", "ratios", "seed"), [(40_979, (0.6, 0.2), 42), (1_003, (0.8, 0.1), 42), (57, (0.5, 0.5), 7)]
)
def test_the_split_is_that_of_the_global_random_module(n, ratios, seed):
    state = random.getstate()
    random.seed(seed)
    order = list(range(n))
    random.shuffle(order)
    random.setstate(state)
    a, b = int(ratios[0] * n), int(ratios[1] * n)
    split = pubchemqcr_split(n, seed=seed, ratios=ratios)
    assert split.train.tolist() == sorted(order[:a])
    assert split.valid.tolist() == sorted(order[a : a + b])
    assert split.test.tolist() == sorted(order[a + b :])


def test_a_saved_store_gives_the_same_split(store, tmp_path):
    folder = store.save(tmp_path / "store")
    split = pubchemqcr_split(FrameStore.open(folder))
    assert [p.tolist() for p in split.parts()] == [p.tolist() for p in pubchemqcr_split(store).parts()]
    path = split.save(tmp_path / "split.json", store)
    assert np.array_equal(Split.load(path, store).train, split.train)


def test_molecules_that_only_we_refuse_would_change_the_numbering(tmp_path):
    step = make_step()
    molecules = {cid: record(make_steps(2, seed=cid)) for cid in range(1, 11)}
    molecules[4] = record([changed(step, gradient=step["gradient"][::-1])])
    write_shard(tmp_path / "a.lmdb", molecules)
    store = read_frames(tmp_path, READER)
    with pytest.raises(DataError, match="1 molecules"):
        pubchemqcr_split(store)
    order = valid_cids([tmp_path])
    assert order == list(range(1, 11))
    split = pubchemqcr_split(store, order=order)
    assert parts_of(store, split) == [[3, 6, 7, 8, 9], [5, 10], [1, 2]]
    with pytest.raises(DataError, match="CID 10 is not"):
        pubchemqcr_split(store, order=order[:-1])
    with pytest.raises(DataError, match="twice"):
        pubchemqcr_split(store, order=[*order, 1])


def test_a_molecule_of_two_shards_is_counted_when_it_is_in_two_parts(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.lmdb", {cid: record(make_steps(1, seed=cid)) for cid in range(5)})
    split = pubchemqcr_split(read_frames(tmp_path, READER))
    assert [len(p) for p in split.parts()] == [6, 2, 2]
    numbers = [set(TEN_AT_42[:6]), set(TEN_AT_42[6:8]), set(TEN_AT_42[8:])]
    torn = sum(
        next(p for p in numbers if c in p) is not next(p for p in numbers if c + 5 in p) for c in range(5)
    )
    assert split.how["cids_in_several_parts"] == torn > 0


@pytest.mark.parametrize("layout", ["dict", "text", "lists", "by_cid", "one_list"])
def test_stated_cids_in_every_layout(store, tmp_path, layout):
    train, valid, test = CIDS[:6], CIDS[6:8], [CIDS[8], 123456]  # one is not in the data, one is not stated
    content = {
        "dict": {"train": train, "val": valid, "test": test},
        "text": {"train": [f"{c:09d}" for c in train], "valid": [str(c) for c in valid], "test": test},
        "lists": [train, valid, test],
        "by_cid": {str(c): p for p, cids in (("train", train), ("val", valid), ("test", test)) for c in cids},
        "one_list": [*train, *valid, *test],
    }[layout]
    path = tmp_path / "new_split.json"
    path.write_text(json.dumps(content))
    split = split_from_cids(store, path, ratios=(0.6, 0.2) if layout == "one_list" else None)
    assert parts_of(store, split) == [sorted(train), sorted(valid), [CIDS[8]]]
    assert split.how == {
        "method": "cids",
        "source": "new_split.json",
        "cids_stated": 10,
        "cids_not_in_data": 1,
        "cids_in_no_part": 1,
    }


def test_the_cids_of_a_split_are_written_and_read(store, tmp_path):
    split = pubchemqcr_split(store)
    path = save_cids(tmp_path / "deep" / "cids.json", store, split)
    lists = json.loads(path.read_text())
    assert sorted([*lists["train"], *lists["valid"], *lists["test"]]) == sorted(CIDS)
    again = split_from_cids(store, path)
    assert [p.tolist() for p in again.parts()] == [p.tolist() for p in split.parts()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2, 3]", "ratios"),
        ('{"a": [1]}', "not a split"),
        ("{}", "not a split"),
        ('{"train": 3}', "not a list"),
        ('{"train": [984], "test": [984]}', "CID 984 is in two parts"),
        ('{"train": ["C6H6"]}', "not a CID"),
        ('{"train": [true]}', "not a CID"),
        ('{"train": [1.5]}', "not a CID"),
        ('{"train": [12345]}', "None of the stated"),
        ("{", ""),
    ],
)
def test_other_files_are_refused(store, tmp_path, content, words):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        split_from_cids(store, path)
    assert words in str(caught.value)
    assert "split.json" in str(caught.value)


def test_what_cannot_be_split_is_refused(store, tmp_path):
    with pytest.raises(DataError, match="would be empty"):
        pubchemqcr_split(1)
    with pytest.raises(DataError, match="ratios"):
        pubchemqcr_split(10, ratios=(0.9, 0.2))
    with pytest.raises(DataError, match="cannot be read"):
        split_from_cids(store, tmp_path / "nothing.json")
    import dataclasses

    with pytest.raises(DataError, match="no tag 'cid'"):
        pubchemqcr_split(dataclasses.replace(store, tags={}))
