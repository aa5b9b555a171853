"""Inputs of small loops, made once; what takes most of the time of a tiny loop (drawing, processes) is left out."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.active.helpers import light, loop, write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture
def folder(inputs, tmp_path, monkeypatch):
    """A folder with the files that the configurations name."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    light(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(inputs, tmp_path_factory):
    """The folder of a finished loop of one round, ``run``; not to be changed. ``writes``: how often it flushed."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(inputs, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        light(patch)
        patch.chdir(folder)
        original, calls = os.fsync, []
        patch.setattr(os, "fsync", lambda handle: (calls.append(1), original(handle))[1])
        loop(folder)
    (folder / "writes").write_text(str(len(calls)))
    return folder


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of it, to go on with."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    light(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path
