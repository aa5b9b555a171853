import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest

from atomml.datasets import FrameStore, conversion, convert, load_frames, read_ase, verify_conversion
from atomml.datasets.conversion_info import merge_info
from atomml.datasets.readers import ase_any
from atomml.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.datasets.conftest import random_frame


@pytest.fixture(autouse=True)
def _one_piece_per_part(monkeypatch):
    monkeypatch.setattr(conversion, "GROUP_BYTES", 1)


@pytest.fixture
def sources(tmp_path, rng):
    """Six files of five frames; tags that only some of them have."""
    for k in range(6):
        frames = [
            random_frame(rng, n=3 + i, traj=f"run {k}", step=i, **({"T": 300.0 + i} if k % 2 else {}))
            for i in range(5)
        ]
        ase.io.write(tmp_path / f"part{k}.extxyz", frames)
    return sorted(tmp_path.glob("part*.extxyz"))


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("workers", [1, 2])
def test_converted_store_equals_what_is_read_in_memory(sources, tmp_path, workers):
    seen = []
    result = convert(sources, tmp_path / "out", workers=workers, progress=lambda *a: seen.append(a))
    store, direct = result.store, load_frames(sources)
    assert store.fingerprint() == direct.fingerprint() == FrameStore.open(tmp_path / "out").fingerprint()
    assert set(store.tags) == set(direct.tags)
    for name, column in direct.tags.items():
        assert column.dtype.kind == store.tags[name].dtype.kind
        np.testing.assert_array_equal(store.tags[name], column)
    assert list(store.ids) == list(direct.ids)
    assert store.info["labels"]["forces"] == {**store.info["labels"]["forces"], "found": 30, "of": 30}
    assert (result.pieces, result.resumed) == (6, 0)
    assert [done for done, _, _ in seen] == list(range(1, 13))
    assert not list(tmp_path.glob(".*"))


def test_result_does_not_depend_on_the_number_of_processes(sources, tmp_path):
    convert(sources, tmp_path / "a" / "out", workers=1)
    convert(sources, tmp_path / "b" / "out", workers=2)
    assert content(tmp_path / "a" / "out") == content(tmp_path / "b" / "out")


def test_large_extended_xyz_is_read_in_parts_with_the_same_result(sources, tmp_path, monkeypatch):
    whole = tmp_path / "whole.extxyz"
    whole.write_bytes(b"".join(path.read_bytes() for path in sources) + b"\n\n")
    monkeypatch.setattr(ase_any, "LARGE", 1)
    monkeypatch.setattr(ase_any, "PIECE_FRAMES", 7)
    result = convert(whole, tmp_path / "out")
    direct = read_ase(whole)
    assert result.pieces == 5
    assert result.store.fingerprint() == direct.fingerprint()
    assert list(result.store.ids) == list(direct.ids)
    assert result.store.info["labels"]["energy"]["found"] == 30
    with pytest.raises(DataError, match="No frame has an energy under the key E0"):
        convert(whole, tmp_path / "other", options={"energy_key": "E0"})


def test_index_of_a_store_is_written_with_it(sources, tmp_path):
    store = convert(sources, tmp_path / "out", cutoff=3.0).store
    norms = [np.linalg.norm(store.forces[store.atoms_of(i)], axis=1).max() for i in range(len(store))]
    np.testing.assert_allclose(store.index.max_force, norms, rtol=1e-15)
    for i in range(len(store)):
        present = np.flatnonzero(store.index.has(range(1, 119))[i]) + 1
        assert present.tolist() == sorted(set(store.numbers[store.atoms_of(i)].tolist()))
    assert store.index.edge_cutoff == 3.0
    edges = [store.graph(i, 3.0).edge_index.shape[1] for i in range(len(store))]
    assert store.index.n_edges.tolist() == edges
    again = FrameStore.open(tmp_path / "out")
    assert again.index.n_edges.tolist() == edges


def test_verification_reads_the_source_again(sources, tmp_path):
    convert(sources, tmp_path / "out")
    assert verify_conversion(tmp_path / "out", sources, parts=100) == 30
    text = sources[2].read_text()
    sources[2].write_text(text.replace("0.", "1.", 1))
    with pytest.raises(DataError, match="differs from its source"):
        verify_conversion(tmp_path / "out", sources, parts=100)
    with pytest.raises(DataError, match="not the files"):
        verify_conversion(tmp_path / "out", sources[:3], parts=1)


def test_sources_are_recorded_with_their_hashes(sources, tmp_path):
    import hashlib

    store = convert(sources, tmp_path / "out", notes={"licence": "CC0"}).store
    record = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert [f["sha256"] for f in record["files"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sources
    ]
    assert [(p["first_frame"], p["frames"]) for p in record["parts"]] == [(k * 5, 5) for k in range(6)]
    assert store.info["licence"] == "CC0"
    assert store.info["reader"] == "ase"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"stres_unit": "GPa"}, ConfigError, "did you mean 'stress_unit'"),
        ({"energy_key": "E0"}, DataError, "E0"),
    ],
)
def test_wrong_options_are_refused(sources, tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        convert(sources, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_error_in_a_worker_names_the_file(sources, tmp_path):
    sources[4].write_text("nonsense\n")
    with pytest.raises(DataError, match="ASE cannot read") as caught:
        convert(sources, tmp_path / "out", workers=2)
    assert "part4" in str(caught.value)


def test_change_of_plan_starts_anew(sources, tmp_path):
    sources[4].write_text("nonsense\n")
    with pytest.raises(DataError):
        convert(sources, tmp_path / "out")
    assert (tmp_path / ".out.partial" / "part_000003").is_dir()
    result = convert(sources[:4], tmp_path / "out")
    assert result.resumed == 0
    assert not (tmp_path / ".out.partial").exists()


def test_stores_are_joined_without_decoding(sources, tmp_path):
    a = convert(sources[:3], tmp_path / "a").store
    b = convert(sources[3:], tmp_path / "b").store
    joined = convert([tmp_path / "a", tmp_path / "b"], tmp_path / "ab").store
    assert joined.fingerprint() == load_frames(sources).fingerprint()
    assert len(joined.info["parts"]) == 2
    assert list(joined.ids) == [*a.ids, *b.ids]


def test_infos_of_pieces_are_summed_and_differences_listed():
    pieces = [
        {
            "licence": "A",
            "units": 1,
            "not_read": {"x": 1},
            "skipped": {"bad": {"frames": 2, "examples": ["p"]}},
        },
        {
            "licence": "B",
            "units": 1,
            "not_read": {"x": 2},
            "skipped": {"bad": {"frames": 1, "examples": ["q"]}},
        },
    ]
    assert merge_info(pieces) == {
        "units": 1,
        "varies": {"licence": ["A", "B"]},
        "not_read": {"x": 3},
        "skipped": {"bad": {"frames": 3, "examples": ["p", "q"]}},
    }
    again = merge_info([merge_info(pieces), {"licence": "C", "units": 1}])
    assert again["varies"] == {"licence": ["A", "B", "C"]}
    labels = [{"labels": {"energy": {"key": key, "found": 1, "of": 1}}, "source": key} for key in "ab"]
    with pytest.raises(DataError, match="different keys: a in a, b in b"):
        merge_info(labels)


KILLED = """
import os, signal, sys
from atomml.datasets import conversion, conversion_worker, convert, store_writer
from pathlib import Path
at, out, *sources = sys.argv[1:]
count = 0
def dying(original):
    def call(*arguments, **more):
        global count
        count += 1
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **more)
    return call
store_writer._write_array = dying(store_writer._write_array)
store_writer._replace_folder = dying(store_writer._replace_folder)
conversion_worker.replace_file = dying(conversion_worker.replace_file)
conversion.GROUP_BYTES = 1
convert(sources, out)
"""


def test_killed_at_any_point_and_resumed_gives_the_same_bytes(sources, tmp_path, rng):
    convert(sources, tmp_path / "through" / "out")
    expected = content(tmp_path / "through" / "out")
    points = sorted({1, *(int(k) for k in rng.integers(2, 170, size=5))})
    assert len(points) >= 5
    killed = 0
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    for at in points:
        out = tmp_path / f"at{at}" / "out"
        run = subprocess.run(
            [sys.executable, script, str(at), out, *sources], cwd=ROOT, check=False, capture_output=True
        )
        killed += run.returncode == -signal.SIGKILL
        if run.returncode == -signal.SIGKILL:
            convert(sources, out)
        assert content(out) == expected
        assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert killed >= 4


def test_processes_end_when_the_conversion_is_killed(sources, tmp_path):
    """Readers that are slow must not go on without their parent."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from atomml.datasets import convert\n"
        "if __name__ == '__main__':\n"
        "    convert(sys.argv[2:], sys.argv[1], workers=2, progress=lambda *a: print('done', flush=True))\n"
    )
    run = subprocess.Popen(
        [sys.executable, script, tmp_path / "out", *sources * 5],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    run.stdout.readline()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _members(run.pid):
        time.sleep(0.1)
    assert not _members(run.pid)
    store = convert(sources * 5, tmp_path / "out").store
    assert len(store) == 150


def _members(group):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(entry)
    return found


def test_partial_folder_of_a_foreign_kind_is_not_mixed_in(sources, tmp_path):
    convert(sources, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / ".other.partial" / "part_000000")
    assert len(convert(sources[:1], tmp_path / "other").store) == 5


def test_interrupted_replacement_is_not_mistaken_for_the_store_that_is_there(sources, tmp_path):
    out = tmp_path / "out"
    convert(sources[:2], out)
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("convert(sources, out)", "convert(sources, out, overwrite=True)"))
    run = subprocess.run(
        [sys.executable, script, "30", out, *sources], cwd=ROOT, check=False, capture_output=True
    )
    assert run.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="exists already"):
        convert(sources, out)
    assert len(FrameStore.open(out)) == 10
    assert len(convert(sources, out, overwrite=True).store) == 30


PLACED = """
import os, shutil, signal, sys
from pathlib import Path
from atomml.datasets import conversion, convert
out, *sources = sys.argv[1:]
real = shutil.rmtree
def dying(path, *arguments, **more):
    if Path(path).suffix == ".partial" and Path(out).is_dir():
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, *arguments, **more)
conversion.shutil.rmtree = dying
conversion.GROUP_BYTES = 1
convert(sources, out)
"""


def test_killed_after_the_store_was_placed_only_tidies_up(sources, tmp_path):
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(PLACED)
    run = subprocess.run([sys.executable, script, out, *sources], cwd=ROOT, check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert (tmp_path / ".out.partial").is_dir()
    before = content(out)
    assert convert(sources, out).resumed == 12
    assert content(out) == before
    assert not (tmp_path / ".out.partial").exists()
