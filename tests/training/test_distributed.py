"""Two gloo processes compute what one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from atomml.errors import ConfigError
from atomml.training import train
from atomml.training.distributed import distributed_from_env
from tests.training.helpers import configured


def worker(rank, port, config):
    """One of two processes, as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(config, quiet=True)


def run_two(config):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=worker, args=(rank, port, config)) for rank in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert [p.exitcode for p in processes] == [0, 0]


def test_two_processes_give_the_loss_of_one(settings, tmp_path):
    """20 training frames: 5 steps of 4 on one process, the same 5 steps of 2 + 2 on two."""
    common = {"dtype": "float64", "epochs": 2, "early_stop": 2, "log_every": 1}
    one = train(configured(settings, **common, run_dir=str(tmp_path / "one")), quiet=True)
    run_two(configured(settings, **common, batch={"batch_size": 2}, run_dir=str(tmp_path / "two")))
    logs = []
    for name in ("one", "two"):
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        logs.append([r for r in lines if r["kind"] in ("step", "epoch")])
    assert [(r["kind"], r["step"]) for r in logs[0]] == [(r["kind"], r["step"]) for r in logs[1]]
    for a, b in zip(*logs, strict=True):
        for key in ("train_loss", "train_forces", "valid_loss", "forces_rmse", "grad_norm"):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-9), key
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, p in one.potential.named_parameters():
        np.testing.assert_allclose(weights[f"weights.{name}"], p.detach(), rtol=1e-5, atol=1e-7)


def test_an_absent_gpu_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="No CUDA"), distributed_from_env("cuda"):
        pass
    with pytest.raises(ConfigError, match="not a device"), distributed_from_env("gpu"):
        pass
