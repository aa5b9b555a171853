"""The C++ sources under the address and undefined-behaviour sanitizers."""

import platform
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SOURCES = ROOT / "atomml" / "kernels" / "cpu" / "src"
PROGRAMS = {"tdn_program.cpp": ["tdn.cpp"], "conv_program.cpp": ["cp.cpp", "cg.cpp"]}
VARIANTS = {"portable": []}
if platform.machine() == "x86_64":
    VARIANTS["native"] = ["-march=native"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_clean(program, variant, tmp_path):
    binary = tmp_path / "program"
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = ["-std=c++17", "-O1", "-w", "-pthread", *VARIANTS[variant], *sanitizers]
    files = [ROOT / "tests" / "kernels" / "cpu" / program, *(SOURCES / name for name in PROGRAMS[program])]
    compilation = ["g++", *flags, f"-I{SOURCES}", *map(str, files), "-o", str(binary)]
    subprocess.run(compilation, check=True, capture_output=True, timeout=900)
    run = subprocess.run([str(binary)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all good" in run.stdout
