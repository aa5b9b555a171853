"""Kernels ready to run: from functions, or from generated source, on a GPU or in the interpreter.

A kernel is a plain function until it is launched. Tensors on the CPU select Triton's interpreter whatever
``TRITON_INTERPRET`` says, so that one process can both interpret and compile.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from atomml.errors import UnsupportedError
from atomml.kernels.triton.tiles import Device
from atomml.shapes import Tensor

__all__ = ["OPTIONS", "Kernel", "accumulator", "device_of", "kernel_from_source", "launch"]

Kernel = Callable[..., None]
"""The plain function of a kernel."""

OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}
"""Compiler options of every kernel: no dot products to pipeline; multiply and add as one instruction."""

_ACCUMULATORS = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.float32,
    torch.float16: tl.float32,
}


def launch(
    kernel: Kernel, programs: int, warps: int, like: Tensor, *arguments: Any, **constants: Any
) -> None:
    """Run ``programs`` programs of a kernel on the device of ``like``; none where there is nothing to do.

    Options of the compiler are named like constants; the interpreter ignores them.
    """
    if programs == 0:
        return
    runnable = _runnable(kernel, like.device.type)
    with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
        runnable[(programs,)](*arguments, **constants, num_warps=warps, **OPTIONS)


@cache
def _runnable(kernel: Kernel, device: str) -> Any:
    return InterpretedFunction(kernel) if device == "cpu" else triton.jit(kernel)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The type in which products are summed: float64 for float64, otherwise float32.

    Raises:
        UnsupportedError: a dtype that is not a floating-point number of 16 to 64 bits.
    """
    if dtype not in _ACCUMULATORS:
        raise UnsupportedError(
            f"The Triton kernels do not compute in {dtype}.",
            fix=f"use one of {', '.join(str(known) for known in _ACCUMULATORS)}",
        )
    return _ACCUMULATORS[dtype]


def device_of(tensor: Tensor) -> Device:
    """What the tile rules need to know of the device; the interpreter counts as one multiprocessor.

    Raises:
        UnsupportedError: neither a GPU that Triton compiles for nor the CPU.
    """
    if tensor.is_cuda:
        properties = torch.cuda.get_device_properties(tensor.device)
        return Device(properties.multi_processor_count, properties.max_threads_per_multi_processor // 32)
    if tensor.device.type != "cpu":
        raise UnsupportedError(
            f"The Triton kernels do not run on {tensor.device}.", fix="use a CUDA device, or another backend"
        )
    return Device(1)


@cache
def kernel_from_source(name: str, source: str) -> Kernel:
    """The function ``name`` of generated source.

    Triton reads the text of a kernel from its file, so the source is kept in a folder of the user, in a file
    that is named by its hash and written again should its text be another one.
    """
    stem = f"{name}_{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    path = _folder() / f"{stem}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            file.write(source)
        os.replace(file.name, path)  # in one step: other processes may be reading
    loader = SourceFileLoader(f"atomml_{stem}", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    kernel: Kernel = getattr(module, name)
    return kernel


@cache
def _folder() -> Path:
    """Where generated source is kept: the user's cache folder, or a temporary one where that is read-only."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atomml" / "triton"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="atomml_triton_"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="atomml_triton_"))
