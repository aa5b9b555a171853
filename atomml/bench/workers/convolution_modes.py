"""What is timed of a convolution s = f(x, y, w): forward, with first derivatives, with second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["random_edges", "timed"]


def timed(mode: str, f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Callable[[], object]:
    """A function without arguments that does all of ``mode`` once.

    ``forward``: f without a graph; ``backward``: f and its gradients in x, y, w; ``double``: f, these gradients
    with a graph, and the gradients of them in x, y, w and the cotangent, as training on forces needs them.
    """
    leaves = [x.detach().requires_grad_(mode != "forward") for x in inputs]
    with torch.no_grad():
        cotangent = torch.randn_like(f(*leaves))
    if mode == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return f(*leaves)

        return forward
    if mode == "backward":
        return lambda: torch.autograd.grad(f(*leaves), leaves, cotangent)
    cotangent.requires_grad_()
    weights = [torch.randn_like(x) for x in leaves]

    def double() -> object:
        first = torch.autograd.grad(f(*leaves), leaves, cotangent, create_graph=True)
        return torch.autograd.grad(first, [*leaves, cotangent], weights)

    return double


def random_edges(edges: int, degree: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Neighbour [edges], centre [edges] (sorted) and number of atoms; ``degree`` random neighbours of each centre."""
    atoms = max(1, edges // degree)
    generator = torch.Generator().manual_seed(seed)
    center = torch.arange(atoms).repeat_interleave(degree)[:edges]
    neighbor = torch.randint(atoms, (len(center),), generator=generator)
    return neighbor, center, atoms
