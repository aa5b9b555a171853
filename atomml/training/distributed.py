"""Training on several processes started by ``torchrun``, with plain collectives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from atomml.potentials.devices import find_device
from atomml.shapes import Tensor

__all__ = ["Ranks", "autocast", "distributed_from_env", "reduce_gradients", "sum_over_ranks"]


@dataclass(frozen=True)
class Ranks:
    """One process among all: its number, how many there are, and its device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the terminal."""
        return self.rank == 0


@contextmanager
def distributed_from_env(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or be alone; the group is left at the end.

    gloo on CPUs, NCCL on GPUs (one per process, by ``LOCAL_RANK``).

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    where = _device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 and not dist.is_initialized():
        yield Ranks(device=where)
        return
    created = not dist.is_initialized()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if created:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), where)
    finally:
        if created:
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    device = find_device(name)
    if device.type == "cuda" and device.index is None:
        return find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return device


def autocast(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """Products of matrices in bfloat16 where the configuration says ``dtype: bfloat16``."""
    if dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def sum_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """``values`` summed over all processes, the same bits on each; the input is not changed."""
    if ranks.world_size == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def reduce_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Sum the gradients of all processes, as one flat buffer; a missing gradient counts as zero."""
    if ranks.world_size == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    offset = 0
    for p in parameters:
        p.grad = flat[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
