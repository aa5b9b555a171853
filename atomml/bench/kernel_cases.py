"""The convolutions that `atomml bench kernels` times: ours, node-factored and per path, and e3nn's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
from e3nn import o3
from torch import Tensor

from atomml.bench.roofline import Size, Work, cp_work, per_path_work
from atomml.bench.workers.convolution_modes import random_edges, timed
from atomml.graph.atom_graph import EdgeIndex, transpose_index
from atomml.kernels.cost_model import Mode, Shape, cg_convolution_cost, cp_convolution_cost, total
from atomml.kernels.cp_factors import CPFactors, load_factors, load_group_factors
from atomml.kernels.ops_cg import cg_conv
from atomml.kernels.sparse_coupling import SparseCoupling, sparse_coupling
from atomml.nn.cp_product import CPConvolution

__all__ = ["E3NN", "PER_PATH", "LocalCase", "Problem", "agreement", "cases", "problem"]

PER_PATH, E3NN = "per path", "e3nn"
Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Random operands of one convolution: features x [N, d, C], harmonics y [E, d], and the graph."""

    lmax: int
    x: Tensor
    y: Tensor
    index: EdgeIndex

    @property
    def size(self) -> Size:
        """Atoms, edges, channels and bytes per number."""
        return Size(len(self.x), len(self.y), self.x.shape[2], self.x.element_size())

    def weights(self, groups: int) -> Tensor:
        """Random radial weights [E, groups, C]."""
        return torch.randn(len(self.y), groups, self.x.shape[2], dtype=self.x.dtype, device=self.x.device)


@dataclass(frozen=True)
class LocalCase:
    """A case in this process.

    Attributes:
        name: in the tables.
        run: runs it once.
        work: what it has to do at least.
        rank: R of a factorised convolution.
        device: "cpu", or the GPU to wait for at the end.
        predicted: seconds on an H100 by `atomml.kernels.cost_model`; None for a kernel that is not ours.
    """

    name: str
    run: Callable[[], object]
    work: Work
    rank: int | None
    device: str
    predicted: float | None

    def seconds(self, count: int) -> float:
        """Run ``count`` times and return the seconds that took."""
        start = time.perf_counter()
        for _ in range(count):
            self.run()
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


def problem(
    lmax: int, *, channels: int, edges: int, degree: int, dtype: torch.dtype, device: str, seed: int
) -> Problem:
    """Random numbers on a random graph with ``degree`` neighbours per atom, edges sorted by centre."""
    torch.manual_seed(seed)
    neighbor, center, atoms = random_edges(edges, degree, seed)

    def pointer(rows: Tensor) -> Tensor:
        return torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=atoms).cumsum(0)])

    index = EdgeIndex(neighbor, center, pointer(center), transpose_index(neighbor), pointer(neighbor))
    d = (lmax + 1) ** 2
    x = torch.randn(atoms, d, channels, dtype=dtype, device=device)
    y = torch.randn(len(center), d, dtype=dtype, device=device)
    return Problem(lmax, x, y, EdgeIndex(*(column.to(device) for column in index)))


def cases(p: Problem, mode: Mode) -> list[LocalCase]:
    """The per-path convolution by our kernel and by e3nn, and the factorised ones of the exact ranks."""
    coupling = sparse_coupling(p.lmax, "cg_even")
    w = p.weights(len(coupling.paths))
    exact = per_path_work(coupling, p.size, mode)
    device, shape = str(p.x.device), Shape(*astuple(p.size))
    expected = total(cg_convolution_cost(mode, shape, coupling))
    ours = timed(mode, _per_path(p, coupling), [p.x, p.y, w])
    theirs = timed(mode, _e3nn(p, coupling), [_to_e3nn(p.x), p.y, w.flatten(1)])
    found = [
        LocalCase(PER_PATH, ours, exact, None, device, expected),
        LocalCase(E3NN, theirs, exact, None, device, None),
    ]
    for name, factors in _factors(p.lmax):
        module = CPConvolution(factors).to(p.x.device, p.x.dtype)
        run = timed(mode, _cp(module, p.index), [p.x, p.y, p.weights(len(factors.groups))])
        (d, rank), groups = factors.a.shape, len(factors.groups)
        expected = total(cp_convolution_cost(mode, shape, d, rank, groups))
        found.append(LocalCase(name, run, cp_work(factors, p.size, mode), rank, device, expected))
    return found


def agreement(p: Problem) -> float:
    """Largest difference between our per-path convolution and e3nn's, relative to the largest number."""
    coupling = sparse_coupling(p.lmax, "cg_even")
    w = p.weights(len(coupling.paths))
    with torch.no_grad():
        ours = _to_e3nn(_per_path(p, coupling)(p.x, p.y, w))
        theirs = _e3nn(p, coupling)(_to_e3nn(p.x), p.y, w.flatten(1))
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _factors(lmax: int) -> list[tuple[str, CPFactors]]:
    shared = load_factors(lmax, "cg_even")
    gaunt = load_factors(lmax, "gaunt")
    found = [(f"CP shared R={shared.rank}", shared), (f"CP Gaunt R={gaunt.rank}", gaunt)]
    if lmax <= 3:
        grouped = load_group_factors(lmax, "cg_even", "per_l2")
        found.append((f"CP per l2 R={grouped.rank}", grouped))
    return found


def _per_path(p: Problem, coupling: SparseCoupling) -> Convolution:
    return lambda x, y, w: cg_conv(x, y, w, p.index, coupling)


def _cp(module: CPConvolution, index: EdgeIndex) -> Convolution:
    return lambda x, y, w: module(x, module.harmonics_to_rank(y), w, index)


def _e3nn(p: Problem, coupling: SparseCoupling) -> Convolution:
    """`e3nn.o3.TensorProduct` with uvu instructions, paths of one degree summed as in our kernel."""
    channels, n = p.x.shape[2], len(p.x)
    irreps = o3.Irreps([(channels, (degree, (-1) ** degree)) for degree in range(p.lmax + 1)])
    instructions = [(l1, l2, l3, "uvu", True) for l1, l2, l3 in coupling.paths]
    product = o3.TensorProduct(
        irreps,
        o3.Irreps.spherical_harmonics(p.lmax),
        irreps,
        instructions,
        irrep_normalization="none",
        path_normalization="none",
        shared_weights=False,
        internal_weights=False,
    ).to(p.x.device, p.x.dtype)
    neighbor, center = p.index.neighbor, p.index.center

    def convolution(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        message = product(x.index_select(0, neighbor), y, w)
        return message.new_zeros((n, message.shape[1])).index_add(0, center, message)

    return convolution


def _to_e3nn(x: Tensor) -> Tensor:
    """[N, d, C] to e3nn's [N, C·1 + C·3 + …], channel before component in each degree."""
    lmax = round(x.shape[1] ** 0.5) - 1
    blocks = [x[:, degree**2 : (degree + 1) ** 2].mT.flatten(1) for degree in range(lmax + 1)]
    return torch.cat(blocks, 1).contiguous()
