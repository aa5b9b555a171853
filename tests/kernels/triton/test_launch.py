import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import triton as backend
from atomml.kernels.sparse_coupling import sparse_coupling
from atomml.kernels.triton import launch
from atomml.kernels.triton.cg_source import edge_source, node_source, output_parts
from tests.kernels.triton.test_parity import (
    CG_NAMES,
    CP_NAMES,
    cg_inputs,
    cg_operands,
    cp_inputs,
    cp_operands,
)


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (launch.kernel_from_source, launch._folder):
        cached.cache_clear()
    yield tmp_path / "atomml" / "triton"
    for cached in (launch.kernel_from_source, launch._folder):
        cached.cache_clear()


def test_source_is_the_same_every_time_and_differs_between_couplings():
    one, other = (sparse_coupling(1, kind) for kind in ("cg_even", "so3"))
    assert edge_source(one) == edge_source(sparse_coupling(1, "cg_even"))
    assert edge_source(one) != edge_source(other)
    assert node_source(one, range(2)) != node_source(one, range(2), adjoint=True)


def test_degrees_of_the_output_are_divided_only_above_three():
    assert output_parts(3) == [range(4)]
    parts = output_parts(5)
    assert [degree for part in parts for degree in part] == list(range(6))
    assert all(part.stop**2 - part.start**2 <= 11 for part in parts)


def test_generated_source_is_kept_in_a_file_and_repaired(cache_folder):
    source = "def kernel():\n    return 1\n"
    assert launch.kernel_from_source("kernel", source)() == 1
    (file,) = cache_folder.glob("*.py")
    assert file.read_text() == source
    launch.kernel_from_source.cache_clear()
    file.write_text("def kernel():\n    return 2\n# altered\n")
    assert launch.kernel_from_source("kernel", source)() == 1


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "atomml").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    launch._folder.cache_clear()
    assert launch._folder().is_dir()
    assert tmp_path not in launch._folder().parents
    launch._folder.cache_clear()


def test_dtypes_that_are_not_floating_point_are_refused():
    with pytest.raises(UnsupportedError, match="do not compute in"):
        launch.accumulator(torch.int32)


class _GPU:
    """What Triton asks of a driver before it compiles for a GPU."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class _Compiled:
    """A kernel that is compiled for the arguments of a launch, and not run."""

    def __init__(self, kernel, names):
        self.function, self.names = triton.JITFunction(kernel), names

    def __getitem__(self, grid):
        def compile_only(*arguments, **constants):
            code = self.function.run(*arguments, grid=grid, warmup=True, **constants)
            assert code.asm["cubin"]
            self.names.append(self.function.__name__)

        return compile_only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_takes_the_arguments_of_every_launch(monkeypatch, dtype):
    names = []
    monkeypatch.setattr(launch, "_runnable", lambda kernel, device: _Compiled(kernel, names))
    coupling = sparse_coupling(1, "cg_even")
    *cp, index, groups = cp_inputs(dtype)
    *cg, cg_index = cg_inputs(coupling, dtype)
    monkeypatch.setattr(triton.runtime.driver, "_active", _GPU())
    for name in CP_NAMES:
        getattr(backend, name)(*cp_operands(name, *cp), index, groups)
    for name in CG_NAMES:
        getattr(backend, name)(*cg_operands(name, *cg), cg_index, coupling)
    assert names == (["node_kernel"] * 2 + ["edge_kernel"] * 3) * 2


def test_offsets_beyond_32_bits():
    """Rows of a tensor of more than 2³¹ numbers; its untouched pages take no memory."""
    n_atoms, channels = 2**25 + 1, 64
    p = torch.empty(n_atoms, 1, channels, dtype=torch.float16)
    p[-1] = 3.0
    zero, last = torch.zeros(1, dtype=torch.int64), torch.tensor([n_atoms - 1])
    pointer = torch.tensor([0, 1])
    index = EdgeIndex(last, zero, pointer, zero, pointer)
    q, w = torch.ones(1, 1, dtype=torch.float16), torch.ones(1, 1, channels, dtype=torch.float16)
    assert torch.equal(backend.conv(p, q, w, index, (1,)), torch.full((1, 1, channels), 3.0, dtype=p.dtype))
    s = torch.ones(1, 1, channels, dtype=torch.float16)
    assert backend.conv_q(p, s, w, index, (1,)).item() == 3.0 * channels
