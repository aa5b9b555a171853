import pytest
import torch

from atomml.errors import ConfigError
from atomml.potentials.devices import find_device


def pretend(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "name", "found"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda", "cuda"),
        (2, "cpu", "cpu"),
    ],
)
def test_devices_that_are_there(monkeypatch, count, name, found):
    pretend(monkeypatch, count)
    assert find_device(name) == torch.device(found)


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [(0, "cuda", "No CUDA device"), (2, "cuda:2", "only 2 CUDA"), (0, "gpu", "not a device")],
)
def test_devices_that_are_not_there_are_errors_that_say_so(monkeypatch, count, name, message):
    pretend(monkeypatch, count)
    with pytest.raises(ConfigError, match=message) as caught:
        find_device(name)
    assert caught.value.fix
