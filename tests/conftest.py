"""Shared options and fixtures."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("atomml", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("atomml")


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --runslow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, which is not part of the repository."""
    candidates = [os.environ.get("ATOMML_SHARED_DATA"), ROOT.parent / "shared" / "data"]
    for folder in candidates:
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("real data not found: set ATOMML_SHARED_DATA to its folder")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
