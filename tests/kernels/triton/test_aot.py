"""What the compiler makes of the kernels for GPUs that are not there."""

import json
import shutil

import pytest

from atomml.kernels.triton import aot
from atomml.kernels.triton.aot import Resources, launches, main, markdown, resources


def check(lmax, channels, dtype, capability, names=("",)):
    rows = [
        resources(launch, capability)
        for launch in launches(lmax, channels, dtype)
        if launch.name.startswith(names)
    ]
    assert rows
    assert not [row for row in rows if row.spilled]
    assert all(16 <= row.registers <= 255 for row in rows)
    assert all(row.shared <= 48 << 10 for row in rows)  # what a kernel gets without asking


@pytest.mark.parametrize(("lmax", "capability"), [(1, 90), (2, 80)])
def test_nothing_spills_at_low_degrees(lmax, capability):
    check(lmax, 64, "fp32", capability)


def test_the_largest_kernels_that_may_not_spill_do_not():
    check(3, 64, "fp32", 90, ("conv_qw fused", "conv fused", "cg_conv_yw"))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("channels", [32, 64, 128])
@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_nothing_spills_up_to_degree_three(lmax, channels, dtype, capability):
    check(lmax, channels, dtype, capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_degree_four_compiles(capability):
    for launch in launches(4, 64, "fp32"):
        assert resources(launch, capability).registers <= 255


def test_every_operator_of_both_families_is_compiled():
    names = {launch.name for launch in launches(1, 64, "fp32")}
    for family, adjoints in (("conv", ("p", "q", "w", "qw")), ("cg_conv", ("x", "y", "w", "yw"))):
        for operator in (family, *(f"{family}_{adjoint}" for adjoint in adjoints)):
            assert any(name.split()[0] == operator for name in names)


def test_command_line_writes_the_table_and_the_numbers(tmp_path, capsys):
    files = ["--markdown", str(tmp_path / "table.md"), "--json", str(tmp_path / "table.json")]
    chosen = ["--lmax", "1", "--channels", "32", "--dtypes", "bf16", "--kernels", "cg_conv_w", "conv_w fused"]
    assert main([*chosen, *files]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table == capsys.readouterr().out
    rows = json.loads((tmp_path / "table.json").read_text())
    assert {row["name"] for row in rows} == {"cg_conv_w", "conv_w fused"}
    assert {row["capability"] for row in rows} == {80, 90}
    for row in rows:
        assert f"{row['registers']} / {row['spilled']} / {row['shared']}" in table


def test_spilling_is_a_failure_at_low_degrees_only(monkeypatch, capsys):
    def spilling(launch, capability):
        return Resources(*launch[:4], *launch.tiles[:4], capability, 255, 8, 0)

    monkeypatch.setattr(aot, "resources", spilling)
    chosen = ["--channels", "32", "--dtypes", "fp32", "--kernels", "cg_conv_w"]
    assert main(["--lmax", "1", *chosen]) == 1
    assert "spills" in capsys.readouterr().err
    assert main(["--lmax", "4", *chosen]) == 0


def test_a_kernel_in_parts_shows_its_worst_part():
    part = Resources("cg_conv", 4, 64, "fp32", 1, 1, 32, 1, 90, registers=80, spilled=0, shared=0)
    table = markdown([part, part._replace(registers=124, spilled=4), part._replace(capability=80)])
    assert table.count("cg_conv") == 1
    assert "| 80 / 0 / 0 | 124 / 4 / 0 |" in table


def test_the_tool_that_reads_the_numbers_comes_with_triton():
    import triton

    assert shutil.which(triton.knobs.nvidia.cuobjdump.path)
