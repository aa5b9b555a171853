"""What a measurement was made on: processor, versions, and ceilings measured in the same process."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from atomml import __version__
from atomml.kernels.cpu.library import variant

__all__ = ["ceilings", "facts"]

INTERESTING_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "sve",
    "asimd",
)
REPEATS = 5
STREAM_NUMBERS = 1 << 26  # 256 MiB of float32
PEAK_STEPS = 20_000_000
CHAINS = 12  # enough independent multiply-adds to hide their latency


def facts(threads: int) -> dict[str, Any]:
    """Processor, its instruction sets, memory, load, versions, commit, time."""
    fields = _processor()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in INTERESTING_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "atomml": __version__,
        "native_kernels": variant(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def ceilings(device: str, threads: int) -> dict[str, Any]:
    """Measured limits: float32 multiply-adds in GFLOP/s (2 for each) and memory traffic in GB/s.

    ``flops_by`` says how: a loop of vector multiply-adds compiled on the spot, or, without a C compiler and on a
    GPU, a matrix product, which reaches less. Memory: c = a + b, three streams counted.
    """
    size = STREAM_NUMBERS
    a, b = torch.ones(size, device=device), torch.ones(size, device=device)
    c = torch.empty_like(a)
    bandwidth = 3 * 4 * size / _best(lambda: torch.add(a, b, out=c), device) / 1e9
    peak = _multiply_add_peak(threads) if device == "cpu" else None
    how = "multiply-add loop"
    if peak is None:
        m = torch.ones(2048, 2048, device=device)
        peak, how = 2 * 2048**3 / _best(lambda: m @ m, device) / 1e9, "matrix product"
    return {"gflops": peak, "flops_by": how, "gbytes": bandwidth}


def _multiply_add_peak(threads: int) -> float | None:
    """GFLOP/s of independent multiply-adds in registers; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        return None
    width = {"avx512": 64, "avx2": 32}.get(variant() or "", 16)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_multiply_adds(width), encoding="utf-8")
        options = [
            "-O3",
            "-march=native",
            "-mprefer-vector-width=512",
            "-ffp-contract=fast",
            "-shared",
            "-fPIC",
        ]
        try:
            command = [compiler, *options, str(source), "-o", str(target)]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 (a constant source)
        except (OSError, subprocess.CalledProcessError):
            return None
        peak = ctypes.CDLL(str(target)).atomml_peak
        peak.argtypes, peak.restype = [ctypes.c_long], ctypes.c_double
        with ThreadPoolExecutor(threads) as pool:  # ctypes releases the interpreter's lock
            best = _best(lambda: list(pool.map(peak, [PEAK_STEPS] * threads)), "cpu")
    return threads * PEAK_STEPS * CHAINS * (width // 4) * 2 / best / 1e9


def _multiply_adds(width: int) -> str:
    """C source of a loop of independent multiply-adds in registers of ``width`` bytes, a ← a·b + c."""
    names = [f"a{k}" for k in range(CHAINS)]
    register = "v" if width == 64 else "x"
    return "\n".join(
        [
            f"typedef float vec __attribute__((vector_size({width})));",
            "double atomml_peak(long n) {",
            "vec zero = {0}, b = zero + 0.999f, c = zero + 1e-3f;",
            "vec " + ", ".join(f"{a} = zero + {k}.0f" for k, a in enumerate(names)) + ";",
            "for (long i = 0; i < n; ++i) {",
            *(f'{a} = {a} * b + c; __asm__ volatile("" : "+{register}"({a}));' for a in names),
            "}",
            f"return ({' + '.join(names)})[0];",
            "}",
        ]
    )


def _best(run: Any, device: str) -> float:
    """Least seconds of a few runs."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _processor() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _commit() -> str | None:
    """Commit of the source tree, with + when it was changed; None for an installed package."""
    git, root = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return None

    def answer(*words: str) -> str:
        command = [git, "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603

    changed = answer("status", "--porcelain", "--untracked-files=no")
    return answer("rev-parse", "--short", "HEAD") + ("+" if changed else "") or None
