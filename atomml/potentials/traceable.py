"""A potential in operations that TorchScript can record, for programs that run models without Python.

The operators of `atomml.kernels` are written in Python and cannot be called from C++, and a few functions of the
network read sizes as numbers, which a recording would freeze. Here the same modules, with the same weights, are made
of plain torch with sizes that stay variables. Only the energy is recorded: the program that runs the model takes its
derivatives by itself.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from atomml.errors import UnsupportedError
from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels.reference import group_of_rank
from atomml.nn.cg_convolution import CGConvolution
from atomml.nn.covariance import bounded
from atomml.nn.cp_product import CPConvolution, SelfProduct
from atomml.nn.linear import DegreeLinear
from atomml.nn.noise import NoiseHeads
from atomml.potentials.body import BodyOutput
from atomml.potentials.compiled import CompiledPotential
from atomml.potentials.config import RACEConfig, TDNConfig
from atomml.potentials.potential import Potential
from atomml.shapes import Float, Float64, Int64, Tensor

__all__ = ["TraceablePotential", "trace"]

ENERGY = slice(1, 2)
"""Which output of `NoiseHeads` is the logarithm of the variance of an atomic energy."""


class TraceablePotential(nn.Module):
    """Atomic energies of a potential, from species and pairs.

    Args:
        potential: of kind ``tdn`` or ``race``; left as it is, its weights are copied.
        noise: whether to give the noise that it predicts, if it does.

    Raises:
        UnsupportedError: a compiled model, or a network whose forces are no derivatives.
    """

    def __init__(self, potential: Potential, *, noise: bool = False) -> None:
        super().__init__()
        _require_exportable(potential)
        copy = deepcopy(potential).cpu().eval()
        self.body, self.scale = _replaced(copy.body, copy.dtype), copy.scale
        self.repulsion = None if copy.repulsion is None else _replaced(copy.repulsion, copy.dtype)
        self.noise = copy.noise if noise else None
        self.e0: Tensor
        self.register_buffer("e0", copy.references.e0.clone())

    def forward(
        self,
        species: Int64[Tensor, " atoms"],
        vectors: Float[Tensor, "edges 3"],
        center: Int64[Tensor, " edges"],
        neighbor: Int64[Tensor, " edges"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Atomic energies [N] in eV, features [N, P] and log σ² of the noise of the atomic energies [N, 0 or 1].

        ``species`` counts the model's elements from 0, ``vectors`` are r_j − r_i in Å; pairs in any order. All
        results are float64.
        """
        index = EdgeIndex(neighbor, center, center, center, center)  # the last three are for other kernels
        body: BodyOutput = self.body(species, vectors, index)
        energies = self.scale * body.energies.double() + self.e0[species]
        if self.repulsion is not None:
            energies = energies + self.repulsion(vectors.norm(dim=1), species, index).double()
        noise = energies[:, None][:, :0] if self.noise is None else self._log_var(body, species)
        return energies, body.features.double(), noise

    def _log_var(self, body: BodyOutput, species: Tensor) -> Float64[Tensor, "atoms 1"]:
        """Logarithms of σ_i² as in `NoiseHeads`, which also needs to know what belongs to which structure."""
        heads = cast(NoiseHeads, self.noise)
        raw = heads.network(heads.invariants(body.layers)).double()
        return 2 * heads.log_std.double()[species, ENERGY] + bounded(raw[:, ENERGY, None]).squeeze(-1)


def trace(module: nn.Module, *, n_species: int, dtype: torch.dtype) -> Any:
    """Record ``module(species, vectors, center, neighbor)`` as TorchScript, for any number of atoms and pairs."""
    generator = torch.Generator().manual_seed(0)
    n_atoms, n_pairs = 7, 19  # different, and neither a size of any network
    atoms = torch.randint(0, n_atoms, (2, n_pairs), generator=generator)
    species = torch.randint(0, n_species, (n_atoms,), generator=generator)
    vectors = torch.randn((n_pairs, 3), generator=generator, dtype=dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it warns of every number that is read, most of which are constants
        return torch.jit.trace(module.eval(), (species, vectors, atoms[0], atoms[1]), check_trace=False)


def _require_exportable(potential: Potential) -> None:
    if isinstance(potential, CompiledPotential):
        raise UnsupportedError(
            "A compiled model cannot be exported: its tables are evaluated by native code of atomml.",
            fix="export the model that it was compiled from",
        )
    if not isinstance(potential.config, TDNConfig | RACEConfig):
        raise UnsupportedError(
            f"A model of kind {potential.config.kind} cannot be exported: its forces are not derivatives of its"
            " energy, which is what the format stands for.",
            where="kind",
            fix="train a model with kind: tdn or race",
        )


class _CPConvolution(nn.Module):
    """`CPConvolution` in plain torch."""

    a: Tensor
    b: Tensor
    d: Tensor
    group: Tensor

    def __init__(self, source: CPConvolution) -> None:
        super().__init__()
        for name in ("a", "b", "d"):
            self.register_buffer(name, getattr(source, name).clone())
        self.register_buffer("group", group_of_rank(source.groups, torch.device("cpu")))

    def harmonics_to_rank(self, y: Tensor) -> Tensor:
        return y @ self.b

    def forward(self, x: Tensor, q: Tensor, w: Tensor, index: EdgeIndex) -> Tensor:
        p = torch.matmul(self.a.T, x)
        messages = q[:, :, None] * w[:, self.group] * p[index.neighbor]
        return torch.matmul(self.d, torch.zeros_like(p).index_add(0, index.center, messages))


class _SelfProduct(nn.Module):
    """`SelfProduct` in plain torch."""

    a: Tensor
    b: Tensor
    d: Tensor

    def __init__(self, source: SelfProduct) -> None:
        super().__init__()
        for name in ("a", "b", "d"):
            self.register_buffer(name, getattr(source, name).clone())

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.matmul(self.d, torch.matmul(self.a.T, x) * torch.matmul(self.b.T, z))


class _CGConvolution(nn.Module):
    """`CGConvolution` in plain torch: rows r are the output components of all paths, M [dy, rows · dx] is dense."""

    matrix: Tensor
    path: Tensor
    component: Tensor

    def __init__(self, source: CGConvolution, dtype: torch.dtype) -> None:
        super().__init__()
        coupling = source.coupling
        a, b, k, path = coupling.entries.T.astype(np.int64)
        rows, row = np.unique(np.stack([path, k]), axis=1, return_inverse=True)
        matrix = np.zeros((coupling.dim_y, rows.shape[1], coupling.dim_x))
        np.add.at(matrix, (b, row.reshape(-1), a), coupling.values)
        self.shape, self.dim_out = matrix.shape[1:], coupling.dim_out
        self.register_buffer("matrix", torch.tensor(matrix, dtype=dtype).flatten(1))
        self.register_buffer("path", torch.tensor(rows[0]))
        self.register_buffer("component", torch.tensor(rows[1]))

    def forward(self, x: Tensor, y: Tensor, w: Tensor, index: EdgeIndex) -> Tensor:
        bilinear = (y @ self.matrix).unflatten(1, self.shape)
        terms = torch.bmm(bilinear, x[index.neighbor]) * w[:, self.path]
        empty = x.new_zeros((1, 1, 1))
        messages = empty.expand(terms.shape[0], self.dim_out, terms.shape[2]).index_add(
            1, self.component, terms
        )
        out = empty.expand(x.shape[0], self.dim_out, x.shape[2])
        return out.index_add(0, index.center, messages)


class _SpeciesLinear(nn.Module):
    """`DegreeLinear` with matrices for each species in plain torch."""

    def __init__(self, source: DegreeLinear) -> None:
        super().__init__()
        self.slices, self.weight = source.slices, source.weight

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        atoms = [torch.nonzero(species == s)[:, 0] for s in range(self.weight.shape[0])]
        mixed = [
            torch.cat([x[i][:, part] @ w for part, w in zip(self.slices, of_species, strict=True)], 1)
            for i, of_species in zip(atoms, self.weight, strict=True)
        ]
        return torch.cat(mixed)[torch.argsort(torch.cat(atoms))]


def _replaced(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``module`` with those of its parts replaced that cannot be recorded; the others stay the same objects."""
    if isinstance(module, CPConvolution):
        return _CPConvolution(module)
    if isinstance(module, SelfProduct):
        return _SelfProduct(module)
    if isinstance(module, CGConvolution):
        return _CGConvolution(module, dtype)
    if isinstance(module, DegreeLinear) and module.n_species is not None:
        return _SpeciesLinear(module)
    for name, child in module.named_children():
        module.add_module(name, _replaced(child, dtype))
    return module
