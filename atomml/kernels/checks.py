"""What the operators ask of their arguments before a kernel follows an address or a number into memory."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from atomml.errors import AtommlError
from atomml.graph.atom_graph import EdgeIndex

__all__ = ["check_index", "promoted", "refuse_several_devices"]


def refuse_several_devices(*tensors: Tensor) -> None:
    """Stop before a kernel follows an address into the memory of another device.

    Raises:
        AtommlError: names the devices.
    """
    first = tensors[0].device
    if any(tensor.device != first for tensor in tensors):
        devices = sorted({str(tensor.device) for tensor in tensors})
        raise AtommlError(
            f"The tensors are on several devices: {', '.join(devices)}.",
            fix="move the graph to the device of the model: graph.to(device)",
        )


def promoted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype: autocast gives features in half precision, harmonics in single."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) == 1:
        return tensors
    wide = reduce(torch.promote_types, dtypes)
    return tuple(tensor.to(wide) for tensor in tensors)


def check_index(index: EdgeIndex) -> None:
    """Kernels address memory by these numbers, hence nothing is taken on trust.

    Raises:
        AtommlError: numbers of another type than int64, or out of range.
    """
    n_edges, n_atoms = index.neighbor.shape[0], index.row_ptr.shape[0] - 1

    def inside(numbers: Tensor, size: int) -> bool:
        if len(numbers) == 0:
            return True
        low, high = torch.aminmax(numbers)
        return int(low) >= 0 and int(high) < size

    def covers(pointer: Tensor) -> bool:
        return int(pointer[0]) == 0 and int(pointer[-1]) == n_edges and bool((pointer.diff() >= 0).all())

    fix = "build the index by edge_index_of()"
    if any(numbers.dtype != torch.int64 for numbers in index):
        raise AtommlError("The numbers of an index are int64.", fix=fix)
    if not (inside(index.neighbor, n_atoms) and inside(index.center, n_atoms)):
        raise AtommlError(f"An edge points outside the {n_atoms} atoms.", fix=fix)
    if not (inside(index.transpose, n_edges) and covers(index.row_ptr) and covers(index.col_ptr)):
        raise AtommlError(f"row_ptr, col_ptr or transpose do not describe {n_edges} edges.", fix=fix)
