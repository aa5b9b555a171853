"""Checkpoint files: complete or the previous one."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atomml.errors import ModelFileError, TrainingError
from atomml.training.checkpoint import (
    differences,
    load_into_optimizer,
    load_into_parameters,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from atomml.training.schedule import Plateau
from atomml.training.state import TrainState, state_from_json, state_to_json

CPU = torch.device("cpu")


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.get_rng_state(), "c": torch.tensor(3.0)}
    write_checkpoint(tmp_path / "run" / "state.safetensors", tensors, {"step": 7, "loss": 0.1})
    read, state = read_checkpoint(tmp_path / "run" / "state.safetensors", CPU)
    assert state == {"step": 7, "loss": 0.1}
    assert all(torch.equal(read[key], value) for key, value in tensors.items())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["state.safetensors"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_checkpoint(path, {"a": torch.zeros(2)}, {"step": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="previous checkpoint is intact") as caught:
        write_checkpoint(path, {"a": torch.ones(2)}, {"step": 2})
    assert "free some space" in str(caught.value)
    tensors, state = read_checkpoint(path, CPU)
    assert state["step"] == 1
    assert tensors["a"].tolist() == [0.0, 0.0]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "state.safetensors"
    write_checkpoint(path, {"a": torch.randn(100)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="truncated"):
        read_checkpoint(path, CPU)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "x.safetensors", CPU)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_an_optimizer_goes_on_exactly(amsgrad):
    def steps(module, optimizer, n, start=0):
        for k in range(start, start + n):
            optimizer.zero_grad()
            (module(torch.full((1, 3), float(k)))).square().sum().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, amsgrad=amsgrad)

    one, optimizer = fresh()
    steps(one, optimizer, 6)
    half, optimizer = fresh()
    steps(half, optimizer, 3)
    names = {p: name for name, p in half.named_parameters()}
    tensors = {f"weights.{n}": p.detach().clone() for p, n in names.items()} | optimizer_tensors(
        optimizer, names
    )
    rest, optimizer = fresh()
    load_into_parameters(rest, tensors, "weights.")
    load_into_optimizer(optimizer, {p: name for name, p in rest.named_parameters()}, tensors)
    steps(rest, optimizer, 3, start=3)
    assert torch.equal(one.weight, rest.weight)
    assert torch.equal(one.bias, rest.bias)


def test_a_missing_parameter_is_named():
    with pytest.raises(ModelFileError, match="'bias'"):
        load_into_parameters(nn.Linear(1, 1), {"weights.weight": torch.zeros(1, 1)}, "weights.")


def test_state_survives_json():
    state = TrainState(step=3, epoch=1, batch=2, plateau=Plateau(factor=0.5, best=0.1, waited=1))
    again = state_from_json(state_to_json(state))
    assert state_to_json(again) == state_to_json(state)
    assert again.best_loss == float("inf")


def test_differences_name_the_keys():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(old, new) == {"a.c": (2, 4), "d": (3, None), "e": (None, 5)}
