import gc
import threading

import pytest
import torch

from atomml.datasets import FrameStore, GraphDataset, load_frames
from atomml.errors import DataError
from atomml.training.batches import stream_batches
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    frames = load_frames(ROOT / "data/li_halide/sample/li_halide.extxyz.gz").subset(range(0, 455, 20))
    folder = frames.save(tmp_path_factory.mktemp("batches") / "store")
    return GraphDataset(FrameStore.open(folder), cutoff=4.0, cache=False)


def test_batches_of_another_process_are_equal_to_the_last_bit(dataset):
    steps = [[0, 5, 9], [], [3], list(range(10, 20))]
    here, there = (
        list(stream_batches(dataset, steps, workers=workers, device=torch.device("cpu")))
        for workers in (0, 1)
    )
    assert [b is None for b in here] == [b is None for b in there] == [False, True, False, False]
    for one, other in zip(here, there, strict=True):
        if one is None:
            continue
        assert type(one) is type(other)
        assert list(one.keys()) == list(other.keys())
        for key in one.keys():  # noqa: SIM118
            assert one[key].dtype == other[key].dtype
            assert one[key].shape == other[key].shape
            assert torch.equal(one[key].nan_to_num(7.0), other[key].nan_to_num(7.0))


def test_error_in_another_process_reaches_the_training(dataset):
    broken = GraphDataset(dataset.store, cutoff=4.0, cache=False)
    broken.cutoff = -1.0
    batches = stream_batches(broken, [[0], [1]], workers=1, device=torch.device("cpu"))
    with pytest.raises(DataError, match="cutoff"):
        next(batches)


def test_stopping_early_leaves_no_thread_behind(dataset):
    before = threading.active_count()
    batches = stream_batches(dataset, [[k] for k in range(20)], workers=1, device=torch.device("cpu"))
    next(batches)
    batches.close()
    gc.collect()
    assert threading.active_count() <= before
