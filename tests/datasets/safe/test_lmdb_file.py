"""LMDB files are read as py-lmdb reads them, and a damaged one is an error and never a crash."""

import os
import pickle
import struct
import time

import lmdb
import numpy as np
import pytest

from atomml.datasets.safe.lmdb_file import LmdbFile, open_lmdb
from atomml.errors import DataError

PAGE = 4096


def write(path, records, **options):
    env = lmdb.open(str(path), map_size=1 << 28, sync=False, **{"subdir": False, "lock": False, **options})
    with env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key, value)
    env.close()
    return path


def read_with_lmdb(path):
    env = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
    with env.begin() as transaction:
        records = [(bytes(k), bytes(v)) for k, v in transaction.cursor()]
    env.close()
    return records


def read_all(path):
    file = LmdbFile(path)
    keys = file.keys()
    return [(key, file.get(key)) for key in keys]


def sample_records(rng, n=300):
    """Values from nothing to several overflow pages, keys of many lengths: two levels of pages."""
    sizes = rng.choice([0, 1, 30, 700, 2100, 5000, 20_000], size=n, p=[0.05, 0.1, 0.4, 0.25, 0.1, 0.08, 0.02])
    keys = [str(i).encode() + b"k" * int(rng.integers(0, 40)) * (i % 7 == 0) for i in range(n)]
    return {key: rng.bytes(int(size)) for key, size in zip(keys, sizes, strict=True)}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("lmdb") / "sample.lmdb"
    return write(path, sample_records(np.random.default_rng(1)))


def test_real_files_are_read_as_py_lmdb_reads_them(shared_data):
    files = [
        p
        for folder in ("oc20", "format_fixtures")
        for p in (shared_data / folder).rglob("*lmdb")
        if p.is_file()
    ]
    assert len(files) >= 7
    for path in files:
        records = read_with_lmdb(path)
        assert read_all(path) == records
        assert open_lmdb(path).n_entries == len(records)


@pytest.mark.parametrize("n", [0, 1, 2, 300, 10_000])
def test_written_files_are_read_as_py_lmdb_reads_them(tmp_path, rng, n):
    records = {f"{int(i):09d}".encode(): rng.bytes(int(i) % 90) for i in rng.permutation(n)}
    path = write(tmp_path / "a.lmdb", records)
    file = open_lmdb(path)
    assert file.keys() == sorted(records)
    assert file.n_entries == len(file) == n
    assert read_all(path) == read_with_lmdb(path)
    assert file.numeric_keys() == list(range(n))
    assert file.get(b"absent") is None
    assert file.get(b"") is None


def test_values_of_all_sizes(sample):
    assert read_all(sample) == read_with_lmdb(sample)


def test_a_file_with_deleted_and_overwritten_records(tmp_path, rng):
    path = write(tmp_path / "a.lmdb", sample_records(rng))
    env = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28)
    for k in range(60):
        with env.begin(write=True) as transaction:
            transaction.delete(str(4 * k + 1).encode())
            transaction.put(str(4 * k + 2).encode(), rng.bytes(37 * k))
    env.close()
    assert read_all(path) == read_with_lmdb(path)


def test_a_sparse_file_of_the_map_size_is_read(tmp_path, rng):
    path = write(tmp_path / "a.lmdb", sample_records(rng), writemap=True)
    assert path.stat().st_size == 1 << 28
    assert read_all(path) == read_with_lmdb(path)


def test_numbers_are_sorted_as_numbers_and_other_keys_left_out(tmp_path):
    path = write(tmp_path / "a.lmdb", dict.fromkeys((b"10", b"9", b"0", b"length", b"1x", b"-3"), b"v"))
    file = open_lmdb(path)
    assert file.keys() == [b"-3", b"0", b"10", b"1x", b"9", b"length"]
    assert file.keys(1, 3) == [b"0", b"10"]
    assert file.keys(4) == [b"9", b"length"]
    assert file.keys(5, 2) == []
    assert file.numeric_keys() == [0, 9, 10]
    assert file.value(4) == b"v"


def test_a_folder_with_data_mdb_and_a_lock_sidecar(tmp_path):
    write(tmp_path / "env", {b"a": b"1"}, subdir=True, lock=True)
    assert open_lmdb(tmp_path / "env").get(b"a") == b"1"
    path = write(tmp_path / "a.lmdb", {b"a": b"2"}, lock=True)
    assert (tmp_path / "a.lmdb-lock").exists()
    assert open_lmdb(path).get(b"a") == b"2"


def test_the_same_file_is_opened_once_and_again_when_it_changed(tmp_path):
    path = write(tmp_path / "a.lmdb", {b"a": b"1"})
    file = open_lmdb(path)
    (tmp_path / "link.lmdb").symlink_to(path)
    assert open_lmdb(str(path)) is file
    assert open_lmdb(tmp_path / "link.lmdb") is file
    env = lmdb.open(str(path), subdir=False, lock=False)  # another reader or writer is no obstacle
    with env.begin(write=True) as transaction:
        transaction.put(b"a", b"22")
    env.close()
    os.utime(path, ns=(1, time.time_ns()))
    assert open_lmdb(path).get(b"a") == b"22"
    assert pickle.loads(pickle.dumps(open_lmdb(path))) is open_lmdb(path)


def test_a_read_only_file_is_read_and_nothing_is_written_beside_it(tmp_path):
    path = write(tmp_path / "a.lmdb", {b"a": b"1"})
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert open_lmdb(path).get(b"a") == b"1"
        assert [p.name for p in tmp_path.iterdir()] == ["a.lmdb"]
    finally:
        tmp_path.chmod(0o755)


def test_an_open_file_works_after_a_fork(sample):
    file = open_lmdb(sample)
    records = read_with_lmdb(sample)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if all(file.get(k) == v for k, v in records) else 1)
        finally:
            os._exit(2)
    assert all(file.get(k) == v for k, v in records)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_file_descriptors_are_given_back(sample):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read_all(sample)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_named_databases_and_duplicate_keys_are_refused_with_words(sample, tmp_path):
    env = lmdb.open(str(tmp_path / "named.lmdb"), subdir=False, lock=False, max_dbs=2)
    with env.begin(write=True, db=env.open_db(b"atoms")) as transaction:
        transaction.put(b"a", b"1")
    env.close()
    data = bytearray(sample.read_bytes())
    for page in (0, PAGE):
        struct.pack_into("<H", data, page + 92, 0x04)  # flags of the unnamed database: MDB_DUPSORT
    (tmp_path / "flags.lmdb").write_bytes(data)
    for name, words in (("named", "named databases"), ("flags", "duplicate")):
        with pytest.raises(DataError, match=words):
            open_lmdb(tmp_path / f"{name}.lmdb")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"x" * 10_000, "not an LMDB file"),
        (bytes(16) + 0xBEEFC0DE.to_bytes(4, "big") + bytes(9000), "big-endian"),
        (bytes(12) + 0xBEEFC0DE.to_bytes(4, "little") + bytes(9000), "32-bit"),
    ],
)
def test_foreign_files_are_refused_with_words(tmp_path, content, words):
    path = tmp_path / "a.lmdb"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_lmdb(path)


def test_a_missing_path_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nothing.lmdb", tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match=r"no LMDB file|not a regular file"):
            open_lmdb(path)


def test_another_data_version_is_named(sample, tmp_path):
    data = bytearray(sample.read_bytes())
    for page in (0, PAGE):
        struct.pack_into("<I", data, page + 20, 999)
    path = tmp_path / "a.lmdb"
    path.write_bytes(data)
    with pytest.raises(DataError, match="data version 999"):
        open_lmdb(path)


def test_a_file_cut_at_any_page_or_byte_is_refused_or_complete(sample, tmp_path, rng):
    data, records = sample.read_bytes(), read_with_lmdb(sample)
    cuts = [*range(0, len(data), PAGE), *rng.integers(0, len(data), 200).tolist()]
    path = tmp_path / "cut.lmdb"
    refused = 0
    for cut in cuts:
        path.write_bytes(data[:cut])
        try:
            assert read_all(path) == records  # only pages that hold nothing were lost
        except DataError:
            refused += 1
    assert refused > 0.98 * len(cuts)


def test_a_file_that_shrinks_while_it_is_open_is_refused(sample, tmp_path):
    path = tmp_path / "a.lmdb"
    path.write_bytes(sample.read_bytes())
    file = open_lmdb(path)
    with path.open("r+b") as stream:
        stream.truncate(3 * PAGE)
    with pytest.raises(DataError, match="ends at byte"):
        [file.value(n) for n in range(len(file))]


def pages_of_tree(path):
    data = path.read_bytes()
    kinds = [struct.unpack_from("<H", data, at + 10)[0] for at in range(0, len(data), PAGE)]
    return data, [k for k, kind in enumerate(kinds) if kind in (1, 2, 4, 8)]


@pytest.mark.parametrize("kind", [1, 2])
def test_a_tree_in_a_circle_is_refused(sample, tmp_path, kind):
    data, _ = pages_of_tree(sample)
    data = bytearray(data)
    meta = (
        0 if struct.unpack_from("<Q", data, 144)[0] > struct.unpack_from("<Q", data, PAGE + 144)[0] else PAGE
    )
    root = struct.unpack_from("<Q", data, meta + 16 + 24 + 48 + 40)[0]
    node = root * PAGE + struct.unpack_from("<H", data, root * PAGE + 16 + 2 * kind)[0]
    other = root * PAGE + struct.unpack_from("<H", data, root * PAGE + 16)[0]
    data[node : node + 6] = struct.pack("<Q", root)[:6] if kind == 1 else bytes(data[other : other + 6])
    path = tmp_path / "a.lmdb"
    path.write_bytes(data)
    with pytest.raises(DataError, match="reached twice"):
        open_lmdb(path)


def flips(path, tmp_path, n, seed):
    """Flip bytes in meta, branch, leaf and overflow headers; count what is refused and what is read."""
    rng = np.random.default_rng(seed)
    data, pages = pages_of_tree(path)
    target = tmp_path / "flipped.lmdb"
    refused = 0
    with target.open("wb") as stream:
        stream.write(data)
    with target.open("r+b", buffering=0) as stream:
        for _ in range(n):
            page = int(rng.choice([0, 1, *pages]))
            spots = rng.integers(0, 64 if rng.random() < 0.8 else PAGE, int(rng.integers(1, 4)))
            for spot in page * PAGE + spots:
                stream.seek(spot)
                stream.write(bytes([int(rng.integers(256))]))
            try:
                read_all(target)
            except DataError:
                refused += 1
            for spot in page * PAGE + spots:
                stream.seek(spot)
                stream.write(data[spot : spot + 1])
    return refused


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("lmdb") / "small.lmdb"
    return write(path, sample_records(np.random.default_rng(2), 40))


def test_flipped_bytes_give_values_or_errors(small, tmp_path):
    assert 150 < flips(small, tmp_path, 1_000, 0) < 1_000


@pytest.mark.slow
def test_many_flipped_bytes_give_values_or_errors(small, tmp_path):
    assert 15_000 < flips(small, tmp_path, 100_000, 1) < 100_000


def test_opening_reads_the_tree_and_not_the_values(tmp_path, monkeypatch):
    path = write(tmp_path / "a.lmdb", {f"{k:05d}".encode(): bytes(20_000) for k in range(500)})
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    LmdbFile(path)
    assert sum(read) < 20 * PAGE < 0.01 * path.stat().st_size
