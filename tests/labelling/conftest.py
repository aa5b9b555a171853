"""Child processes that are started once for all tests of a file."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ase.build import bulk

from atomml.labelling import LabellerConfig, task


@pytest.fixture(scope="module")
def executor():
    """Two threads whose child processes go on from test to test."""
    with ThreadPoolExecutor(2) as threads:
        yield threads
    task._children().close()
    task._children.cache_clear()


@pytest.fixture
def copper():
    """Different small cells."""

    def make(number):
        cells = [bulk("Cu", cubic=True) for _ in range(number)]
        for seed, atoms in enumerate(cells):
            atoms.rattle(0.05, seed=seed)
        return cells

    return make


@pytest.fixture
def oracle():
    """A labeller whose calculator is a function of `tests.labelling.oracles`."""

    def make(function, arguments=None, **settings):
        target = f"tests.labelling.oracles:{function}"
        return LabellerConfig(
            calculator={"kind": "import", "target": target, "arguments": arguments or {}}, **settings
        )

    return make
