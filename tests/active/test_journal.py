"""The journal: whole lines or none, one process at a time, damage found."""

import errno
import json
import os

import pytest

from atomml.active.journal import JOURNAL, Journal, is_running, read_journal
from atomml.errors import ConfigError, DataError
from tests.training.helpers import in_child


def filled(folder, n=3):
    with Journal(folder) as journal:
        for k in range(n):
            journal.append(k, "gate", {"share": 0.1 + k, "text": "Å"}, {"seconds": 1.5})
    return folder / JOURNAL


def test_what_was_written_is_read_again(tmp_path):
    filled(tmp_path)
    with Journal(tmp_path) as journal:
        assert [r["facts"]["share"] for r in journal.records] == [0.1, 1.1, 2.1]
        assert journal.cut == 0
        assert journal.find(1, "gate")["facts"]["text"] == "Å"
        assert journal.find(1, "label") is None
        assert journal.append(3, "stop", {})["number"] == 3
    assert read_journal(tmp_path)[-1]["step"] == "stop"


@pytest.mark.parametrize("kept", [1, 10, 40, -1])
def test_a_torn_last_line_is_cut_off(tmp_path, kept):
    path = filled(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert len(read_journal(tmp_path)) == 2  # which changes nothing
    with Journal(tmp_path) as journal:
        assert journal.cut == len(lines[2][:kept])
        journal.append(2, "gate", {"share": 2.1, "text": "Å"}, {"seconds": 1.5})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", [lambda line: b"nonsense\n", lambda line: line.replace(b"1.1", b"9.9")])
def test_damage_before_the_last_line_is_an_error(tmp_path, change):
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + change(lines[1]) + lines[2])
    with pytest.raises(DataError, match="damaged") as error:
        Journal(tmp_path)
    assert "line 2" in str(error.value)


def test_a_missing_line_is_noticed(tmp_path):
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[2])
    with pytest.raises(DataError, match="damaged"):
        read_journal(tmp_path)


def test_a_journal_of_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("atomml.active.journal.VERSION", 2)
    filled(tmp_path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="version 2"):
        Journal(tmp_path)


def test_only_one_process_has_it(tmp_path):
    def second():
        try:
            Journal(tmp_path)
        except ConfigError:
            os._exit(7)

    assert not is_running(tmp_path)
    with Journal(tmp_path) as journal:
        assert is_running(tmp_path)
        assert in_child(second) == 7
        journal.append(0, "start", {})
    assert not is_running(tmp_path)
    assert in_child(second) == 0


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = filled(tmp_path)
    before = path.read_bytes()
    with Journal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(DataError, match="cannot be written"):
                journal.append(3, "gate", {})
        assert path.read_bytes() == before
        journal.append(3, "gate", {})
    assert len(read_journal(tmp_path)) == 4


def test_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(DataError, match="no active learning"):
        read_journal(tmp_path)


def test_every_line_is_a_checksum_and_json(tmp_path):
    for line in filled(tmp_path).read_text(encoding="utf-8").splitlines():
        check, _, body = line.partition(" ")
        assert len(check) == 16
        assert json.loads(body).keys() == {"number", "version", "round", "step", "facts", "timing"}
