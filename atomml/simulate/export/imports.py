"""Importing metatomic beside torch_geometric."""

from __future__ import annotations

import sys
from types import ModuleType

import torch

from atomml._optional import require

__all__ = ["import_metatomic"]

EXTRA = "metatomic"


def import_metatomic(module: str = "metatomic.torch") -> ModuleType:
    """Import a module of metatomic, whatever has been imported before.

    torch_geometric replaces ``torch.index_select`` by a function of its own, which TorchScript cannot compile as
    metatensor uses it, so that ``import metatensor.torch`` fails once torch_geometric is there. The original function
    is put back for the moment of that import.

    Raises:
        UnsupportedError: metatomic is not installed.
    """
    if "metatensor.torch" in sys.modules:
        return require(module, extra=EXTRA)
    patched = torch.index_select
    torch.index_select = torch._C._VariableFunctions.index_select
    try:
        require("metatensor.torch", extra=EXTRA)
        return require(module, extra=EXTRA)
    finally:
        torch.index_select = patched
