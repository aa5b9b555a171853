"""The convolution with one radial weight per path as cuequivariance-torch computes it: gather, product, scatter."""

from __future__ import annotations

from typing import Any

import cuequivariance as cue  # type: ignore[import-not-found]
import cuequivariance_torch as cuet  # type: ignore[import-not-found]
import torch
from convolution_modes import random_edges, timed  # type: ignore[import-not-found]
from torch import Tensor
from worker_loop import Parts, Run, serve  # type: ignore[import-not-found]

__all__ = ["prepare"]


def prepare(task: dict[str, Any], parts: Parts) -> tuple[Run, dict[str, Any]]:
    """The timed function of one mode and degree; every path has an output of its own, unlike those of e3nn here."""
    torch.set_num_threads(task["threads"])
    lmax, channels, device = task["lmax"], task["channels"], torch.device(task["device"])
    neighbor, center, atoms = random_edges(task["edges"], task["degree"], task["seed"])
    neighbor, center = neighbor.to(device), center.to(device)
    degrees = [f"{degree}{'eo'[degree % 2]}" for degree in range(lmax + 1)]
    product = cuet.ChannelWiseTensorProduct(
        cue.Irreps("O3", "+".join(f"{channels}x{degree}" for degree in degrees)),
        cue.Irreps("O3", "+".join(degrees)),
        [cue.O3(degree, (-1) ** degree) for degree in range(lmax + 1)],
        layout=cue.ir_mul,
        shared_weights=False,
        internal_weights=False,
        device=device,
        dtype=getattr(torch, task["dtype"]),
    )

    def convolution(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        message = product(x.index_select(0, neighbor), y, w)
        return message.new_zeros((atoms, message.shape[1])).index_add(0, center, message)

    dtype = getattr(torch, task["dtype"])
    inputs = [
        torch.randn(rows, columns, dtype=dtype, device=device)
        for rows, columns in (
            (atoms, product.irreps_in1.dim),
            (len(center), product.irreps_in2.dim),
            (len(center), product.weight_numel),
        )
    ]
    run = timed(task["mode"], convolution, inputs)

    def run_to_end() -> None:
        run()
        torch.cuda.synchronize()

    facts = {"versions": {"cuequivariance": cuet.__version__, "torch": torch.__version__}}
    return (run if device.type == "cpu" else run_to_end), facts


if __name__ == "__main__":
    serve(prepare)
