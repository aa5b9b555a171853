"""Fixtures of the training tests."""

from __future__ import annotations

import pytest
import torch

from tests.training.helpers import draw_nothing, tiny_settings, write_frames


@pytest.fixture(scope="session")
def frames_file(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz")


@pytest.fixture
def settings(frames_file, tmp_path):
    """With a stress term, and the hottest frames as the test set."""
    plain = tiny_settings(frames_file, tmp_path / "run")
    return plain | {"data": plain["data"] | {"test_where": "T >= 600"}, "loss": {"stress": 1.0}}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_figures(monkeypatch):
    draw_nothing(monkeypatch)
