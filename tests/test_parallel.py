"""Many items in several processes: order, errors, time-outs, deaths, other people's executors."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from atomml.errors import ConfigError, DataError, UnsupportedError
from atomml.parallel import Outcome, map_structures


def work(item):
    """A number is doubled; words do what they say."""
    match item:
        case "raise":
            raise ValueError("two\nlines")
        case "data":
            raise DataError("A bad thing.", where="here", fix="there")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
        case "sleep":
            time.sleep(60)
        case "nap":
            time.sleep(0.4)
        case "lock":
            return threading.Lock()
        case "threads":
            return os.environ["OMP_NUM_THREADS"]
    return 2 * item


def times(factor, item):
    return factor * item


def test_in_this_process_order_is_kept_and_errors_are_outcomes():
    seen = []
    out = map_structures(
        work, [1, "raise", 3, "data"], progress=lambda done, total: seen.append((done, total))
    )
    assert [o.value for o in out] == [2, None, 6, None]
    assert [o.ok for o in out] == [True, False, True, False]
    assert out[1].error == "ValueError: two lines"
    assert out[3].error == "DataError: A bad thing. where: here to do: there"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(0 <= o.seconds < 1 for o in out)


def test_in_processes_every_kind_of_failure_stays_with_its_item():
    items = [1, "raise", 2, "die", 3, "sleep", 4, "exit", "lock", 5, "threads"]
    seen = []
    out = map_structures(work, items, workers=2, timeout=1.0, progress=lambda done, total: seen.append(done))
    assert [o.value for o in out] == [2, None, 4, None, 6, None, 8, None, None, 10, "1"]
    assert seen == list(range(1, len(items) + 1))
    errors = [str(o.error) for o in out if not o.ok]
    assert errors[0] == "ValueError: two lines"
    assert "process died" in errors[1]
    assert errors[2] == "time-out: not done after 1 s"
    assert errors[3] == "SystemExit: 3"
    assert "lock" in errors[4]
    assert 1.0 <= out[5].seconds < 2.0


@pytest.mark.parametrize("how", [{}, {"workers": 2}])
def test_every_outcome_is_told_when_it_arrives(how):
    told = {}
    out = map_structures(work, [1, "raise", 3], done=lambda k, outcome: told.update({k: outcome}), **how)
    assert told == dict(enumerate(out))


def test_what_the_listener_raises_ends_the_work():
    seen = []

    def stop(k, outcome):
        seen.append(k)
        raise DataError("Enough.")

    with ThreadPoolExecutor(1) as executor, pytest.raises(DataError, match="Enough"):
        map_structures(work, [1, 2, 3], executor=executor, done=stop)
    assert seen == [0]


def test_a_time_limit_with_one_worker_works_in_another_process():
    out = map_structures(functools.partial(times, 3), [1, 2], timeout=30.0)
    assert out == [Outcome(3, None, out[0].seconds), Outcome(6, None, out[1].seconds)]


def test_nothing_to_do_starts_nothing():
    assert map_structures(work, [], workers=2, timeout=1.0) == []
    assert map_structures(work, []) == []


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="positive time limit"):
        map_structures(work, [1], **wrong)


def test_a_function_that_cannot_be_sent_is_an_error_at_once():
    with pytest.raises(UnsupportedError, match="module level"):
        map_structures(lambda item: item, [1, 2], workers=2)


def test_threads_of_an_executor_are_held_by_what_overruns():
    with ThreadPoolExecutor(2) as executor:
        out = map_structures(work, ["nap", 1, "raise", 2], workers=2, timeout=0.2, executor=executor)
        assert [o.value for o in out] == [None, 2, None, 4]
        assert out[0].error == "time-out: not done after 0.2 s"
        assert out[2].error == "ValueError: two lines"


def test_items_left_when_all_workers_are_held_have_an_error():
    with ThreadPoolExecutor(1) as executor:
        out = map_structures(work, ["nap", 1, 2], timeout=0.1, executor=executor)
    assert [o.value for o in out] == [None, None, None]
    assert out[1].error == "not tried: every worker is held by an item that overran"


def test_a_worker_that_gets_free_again_is_used_again():
    with ThreadPoolExecutor(1) as executor:
        out = map_structures(work, ["nap", 1, 2], timeout=0.3, executor=executor)
    assert [o.value for o in out] == [None, 2, 4]


def test_an_executor_that_breaks_gives_errors_and_not_an_exception():
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        out = map_structures(work, [1, "die", 2], executor=executor)
    assert out[0].value == 2
    assert all(o.error is not None and o.error.startswith("BrokenProcessPool") for o in out[1:])


SCRIPT = """
import time
from atomml.parallel import map_structures
if __name__ == "__main__":
    def progress(done, total):
        print("busy", flush=True)
    map_structures(time.sleep, [0.0, 60.0, 60.0], workers=2, progress=progress)
"""


def test_an_interrupt_ends_the_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert gone(process.pid)


def gone(group):
    """Whether no process of a group is left within five seconds."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
