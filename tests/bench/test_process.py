"""Processes that are timed: their answers, and every way in which they fail."""

import sys
from pathlib import Path

import pytest

from atomml.bench.process import WORKERS, PeerError, Worker

LOOP = f"""
import sys
sys.path.insert(0, {str(WORKERS)!r})
import time
from worker_loop import serve, stopwatch

def prepare(task, parts):
    print("noise", flush=True)
    if task.get("bad"):
        raise ValueError("no such thing")
    def run():
        print("more noise", flush=True)
        time.sleep(0.01)
    return stopwatch(run, "sleep", parts), {{"atoms": task["atoms"]}}

print("hello from an import", flush=True)
serve(prepare)
"""


def worker(tmp_path, text, **options):
    program = tmp_path / "program.py"
    program.write_text(text)
    return Worker("peer", Path(sys.executable), program, threads=1, **options)


def test_the_loop_prepares_times_and_measures_memory(tmp_path):
    with worker(tmp_path, LOOP) as peer:
        assert peer.prepare({"atoms": 5}) == {"atoms": 5}
        assert 0.03 <= peer.seconds(3) < 3.0
        assert 0.5 < peer.shares()["sleep"] <= 1.0
        assert 1e6 < peer.peak_bytes() < 1e10


def test_a_task_that_fails_is_an_error_with_its_words_and_the_process_lives_on(tmp_path):
    with worker(tmp_path, LOOP) as peer:
        peer.prepare({"atoms": 5})
        with pytest.raises(PeerError, match="ValueError: no such thing"):
            peer.prepare({"bad": True})
        with pytest.raises(PeerError, match="nothing was prepared"):
            peer.seconds(1)
        assert peer.prepare({"atoms": 6}) == {"atoms": 6}


@pytest.mark.parametrize("text", ["import nothing_like_this", "raise SystemExit('ended early')"])
def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path, text):
    with (
        worker(tmp_path, text) as peer,
        pytest.raises(PeerError, match=r"nothing_like_this|ended early") as caught,
    ):
        peer.prepare({})
    assert "has ended" in caught.value.what


def test_a_process_that_hangs_is_given_up(tmp_path):
    text = "import sys, time\nfor line in sys.stdin: time.sleep(20)"
    with worker(tmp_path, text, patience=0.2) as peer, pytest.raises(PeerError, match="no answer"):
        peer.prepare({})
    assert peer._process.poll() is not None


def test_a_missing_interpreter_is_an_error(tmp_path):
    with pytest.raises(PeerError, match="does not start"):
        Worker("peer", tmp_path / "python", tmp_path / "x.py", threads=1)


def test_threads_reach_the_libraries(tmp_path):
    text = LOOP.replace(
        '{"atoms": task["atoms"]}', '{"threads": __import__("os").environ["OMP_NUM_THREADS"]}'
    )
    with worker(tmp_path, text) as peer:
        assert peer.prepare({"atoms": 1}) == {"threads": "1"}
