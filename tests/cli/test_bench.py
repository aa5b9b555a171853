"""`atomml bench`: light to start, strict with its options, and it writes what it measured."""

import json
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from atomml.bench import commands
from atomml.cli import bench
from atomml.errors import ConfigError
from tests.bench.conftest import stub_peers  # noqa: F401 (a fixture)


def run(*arguments):
    app = typer.Typer()
    bench.register(app)
    return CliRunner().invoke(app, ["bench", *arguments])


def test_help_is_light_and_fast():
    code = (
        "import sys, typer; from atomml.cli import bench; app = typer.Typer(); bench.register(app)\n"
        "try:\n    app(['bench', 'potential', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'ase', 'matplotlib'} & sys.modules.keys()"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 1.0
    assert "--scaling" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["kernels", "--lmax", "one"],
        ["kernels", "--lmax", "9"],
        ["kernels", "--lmax", ""],
        ["kernels", "--dtype", "float31"],
        ["kernels", "--device", "cuda:17"],
        ["kernels", "--peers", "schnet"],
        ["kernels", "--repeats", "0"],
        ["potential", "--peers", "schnet"],
        ["potential", "--structures", "diamond"],
        ["potential", "--sizes", "1e3"],
        ["potential", "--sizes", ""],
        ["potential", "--threads", "0"],
        ["potential", "--model", "nowhere.safetensors"],
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(arguments, monkeypatch):
    monkeypatch.setattr(commands, "measure_kernels", None)
    monkeypatch.setattr(commands, "measure_potentials", None)
    assert isinstance(run(*arguments).exception, ConfigError)


def test_kernels_prints_and_writes(tmp_path, monkeypatch):
    limits = {"gflops": 100.0, "flops_by": "multiply-add loop", "gbytes": 10.0}
    monkeypatch.setattr("atomml.bench.machine.ceilings", lambda device, threads: limits)
    sizes = [
        "--lmax",
        "1",
        "--channels",
        "4",
        "--edges",
        "60",
        "--degree",
        "5",
        "--repeats",
        "2",
        "--slot",
        "0",
    ]
    json_file, out = tmp_path / "a" / "result.json", tmp_path / "out"
    done = run("kernels", *sizes, "--peers", "", "--out", str(out), "--json", str(json_file))
    assert done.exit_code == 0, done.output
    for text in ("like for like", "orientation only", "CP shared R=6", "GFLOP/s", "quartiles"):
        assert text in done.output
    result = json.loads(json_file.read_text())
    assert {"machine", "ceilings", "settings", "rows", "ratios", "agreement", "missing"} == result.keys()
    assert {"processor", "flags", "torch", "commit", "threads"} <= result["machine"].keys()
    assert sorted(path.name for path in out.iterdir()) == ["kernels.csv", "kernels.json", "kernels.png"]


def test_potential_prints_and_writes(stub_peers, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    options = ["--structures", "si64", "--repeats", "2", "--slot", "0", "--scaling", "--sizes", "64,512"]
    done = run("potential", *options, "--out", str(out))
    assert done.exit_code == 0, done.output
    for text in ("MACE L=1", "20 (20 to 20)", "not available", "NequIP L=2", "against threads"):
        assert text in done.output
    result = json.loads((out / "potential.json").read_text())
    assert result["machine"]["peers"] == {"tdn": "1.0", "mace": "1.0"}
    assert (out / "scaling_atoms.csv").exists()
    assert (out / "scaling.png").exists()
