"""`CompiledPotential`: a potential for inference, its radial functions read from tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Literal, cast

import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Data

from atomml.errors import UnsupportedError
from atomml.graph.neighbors import neighbor_list
from atomml.kernels.cpu.library import library
from atomml.kernels.cpu.tdn import NativeTDN
from atomml.nn.radial_table import RadialTable
from atomml.potentials.potential import Potential
from atomml.potentials.tdn import TDN, TDNLayer
from atomml.shapes import Bool, Float, Float64, Int64, Tensor, ndarray

__all__ = ["ENGINES", "CompiledPotential", "Engine", "native_available"]

Engine = Literal["native", "torch"]
ENGINES: tuple[Engine, ...] = ("native", "torch")
INFERENCE_ONLY = "use the model that it was compiled from"


class CompiledPotential(Potential):
    """The energy of a `Potential` with kind ``tdn``, w(r) of each layer tabulated; forces and stress of that energy.

        E = Σ_i (E0[z_i] + scale · b[z_i]) + scale · Σ_i ε_i

    The constants of an element, its reference energy and the bias b of the body, are added as one in float64.
    Two engines give the same to rounding: ``native``, a fused C++ evaluation with a hand-written adjoint and no
    autograd graph, on the CPU where the package was built with a compiler; ``torch``, everywhere. Neither
    can be trained.

    Args:
        source: the potential to take everything but the radial functions from; it is left as it is.
        tables: the radial functions of the layers.
        offsets: E0 + scale · b in eV, by species; by default those of ``source``.
        compilation: knots, tolerances and measured errors, for the model file.

    Attributes:
        compilation: as given.
        references: its ``e0`` [species] holds the offsets; the property `e0` gives the reference energies alone.
        body: with a `RadialTable` as ``radial`` of each layer, and without bias.
    """

    body: TDN

    def __init__(
        self,
        source: Potential,
        tables: Sequence[RadialTable],
        *,
        offsets: Sequence[float] | None = None,
        compilation: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            deepcopy(source.body),
            source.config,
            elements=source.elements,
            e0=list(source.e0.values()),
            scale=source.scale,
            average_neighbors=source.average_neighbors,
            factors=source.factors,
            repulsion=deepcopy(source.repulsion),
        )
        for layer, table in zip(self.body.layers, tables, strict=True):
            layer.radial = deepcopy(table)
        self._e0 = self.references.e0.tolist()
        if offsets is None:
            offsets = (self.references.e0 + self.scale * self.body.bias.double()).tolist()
        self.references.add_constant("e0", np.asarray(offsets, dtype=np.float64), always_float64=True)
        torch.nn.init.zeros_(self.body.bias)
        self.compilation, self.metadata = dict(compilation or {}), source.metadata
        self._wanted: Engine | None = None
        self._native: NativeTDN | None = None
        self.requires_grad_(False).eval()
        self.to(source.device, source.dtype)

    @property
    def e0(self) -> dict[int, float]:
        """Reference energies in eV by atomic number."""
        return dict(zip(self.elements, self._e0, strict=True))

    @property
    def offsets(self) -> list[float]:
        """E0 + scale · b in eV, in the order of the species."""
        return self.references.e0.tolist()

    @property
    def tables(self) -> list[RadialTable]:
        """The radial functions of the layers."""
        return [cast(RadialTable, cast(TDNLayer, layer).radial) for layer in self.body.layers]

    @property
    def engine(self) -> Engine:
        """What evaluates: ``native`` on a CPU where it exists, unless `use_engine` chose ``torch``."""
        possible = self.device.type == "cpu" and (self._wanted == "native" or native_available())
        return "native" if possible and self._wanted != "torch" else "torch"

    def use_engine(self, engine: str) -> CompiledPotential:
        """Choose ``native``, ``torch`` or ``auto`` from now on; returns the potential itself.

        Raises:
            UnsupportedError: no such engine, or not on this device or in this installation.
        """
        if engine not in ("auto", *ENGINES):
            raise UnsupportedError(f"There is no engine {engine!r}.", fix="use auto, native or torch")
        if engine == "native" and not native_available():
            raise UnsupportedError(
                "The native engine was not built.", fix="install atomml where there is a C++ compiler"
            )
        if engine == "native" and self.device.type != "cpu":
            raise UnsupportedError(f"The native engine does not run on {self.device}.", fix="use device cpu")
        self._wanted = None if engine == "auto" else cast(Engine, engine)
        return self

    def forward(
        self,
        graph: Data,
        *,
        forces: bool = True,
        stress: bool = False,
        create_graph: bool = False,
        noise_feedback: float = 1.0,
        along: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As `Potential.forward`, without a graph for differentiation.

        Raises:
            UnsupportedError: an element the model does not know; ``create_graph``; ``along``.
        """
        if create_graph or along is not None:
            raise UnsupportedError("A compiled model cannot be differentiated again.", fix=INFERENCE_ONLY)
        if self.engine == "torch":
            with torch.no_grad():
                return super().forward(graph, forces=forces, stress=stress)
        batch = getattr(graph, "batch", None)
        batch = torch.zeros_like(graph.z) if batch is None else batch
        columns = (graph.z, graph.pos, graph.cell, graph.pbc, batch, *graph.edge_index, graph.edge_shift)
        arrays = self.evaluate_arrays(*(column.numpy() for column in columns), stress=stress)
        return {name: torch.from_numpy(x) for name, x in arrays.items() if forces or name != "forces"}

    def evaluate_arrays(
        self,
        z: Int64[ndarray, " atoms"],
        pos: Float64[ndarray, "atoms 3"],
        cell: Float64[ndarray, "graphs 3 3"],
        pbc: Bool[ndarray, "graphs 3"],
        batch: Int64[ndarray, " atoms"],
        neighbor: Int64[ndarray, " edges"],
        center: Int64[ndarray, " edges"],
        shift: Float64[ndarray, "edges 3"],
        *,
        stress: bool,
    ) -> dict[str, Float[ndarray, ...]]:
        """Evaluate arrays with the native engine; the same quantities as `Potential.forward`, as arrays.

        The pairs must be sorted by centre, with r_ij = r_j + shift·cell − r_i. They may be more than those
        within the cutoff: longer ones are skipped, so a Verlet list need not be filtered.

        Raises:
            UnsupportedError: an element the model does not know; the native engine was not built.
        """
        if self._native is None:
            self._native = NativeTDN(self)
        species = self.species_of_z.numpy()[z]
        if species.min() < 0:
            self._species(torch.from_numpy(z))  # raises
        columns = map(torch.from_numpy, (species, pos, cell, batch, neighbor, center, shift))
        out = self._native.evaluate(*columns, stress=stress, threads=torch.get_num_threads())
        arrays = {name: x.numpy() for name, x in out.items()}
        arrays["energy"] = np.bincount(batch, arrays["energies"], len(cell))
        virial = arrays.pop("virial", None)
        if stress and virial is not None:
            arrays["stress"] = _stress(virial, cell, pbc)
        return arrays

    @property
    def takes_arrays(self) -> bool:
        """Whether `evaluate_arrays` is the direct way."""
        return self.engine == "native"

    def train(self, mode: bool = True) -> CompiledPotential:
        """Only ``mode=False`` is possible.

        Raises:
            UnsupportedError: the potential is to be trained.
        """
        if mode:
            raise UnsupportedError("A compiled model cannot be trained.", fix=INFERENCE_ONLY)
        super().train(False)
        return self

    def _evaluate(
        self, structures: list[Atoms], forces: bool, stress: bool, **options: Any
    ) -> dict[str, Any]:
        if not self.takes_arrays:
            return super()._evaluate(structures, forces, stress, **options)
        return self.evaluate_arrays(*_joined(structures, self.cutoff), stress=stress)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledPotential:  # type: ignore[override]
        self._native = None  # it holds the weights in their previous precision
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": None}  # addresses must not be copied


def native_available() -> bool:
    """Whether the package was built with its native evaluator."""
    return library() is not None


def _stress(
    virial: Float64[ndarray, "graphs 3 3"],
    cell: Float64[ndarray, "graphs 3 3"],
    pbc: Bool[ndarray, "graphs 3"],
) -> Float64[ndarray, "graphs 3 3"]:
    """σ = sym(Σ_e r_e ⊗ ∂E/∂r_e) / V; NaN where there is no volume."""
    volume = np.abs(np.linalg.det(cell))
    volume[~pbc.all(1) | (volume == 0)] = np.nan
    return 0.5 * (virial + virial.transpose(0, 2, 1)) / volume[:, None, None]


def _joined(structures: Sequence[Atoms], cutoff: float) -> tuple[Any, ...]:
    """Arguments of `CompiledPotential.evaluate_arrays` for a batch of structures."""
    columns: list[tuple[Any, ...]] = []
    first = 0
    for k, atoms in enumerate(structures):
        cell, pbc = np.asarray(atoms.cell.array, dtype=np.float64), np.asarray(atoms.pbc, dtype=bool)
        neighbor, center, shift = neighbor_list(atoms.positions, cell, pbc, cutoff)
        batch, numbers = np.full(len(atoms), k), atoms.numbers.astype(np.int64)
        columns.append(
            (numbers, atoms.positions, cell[None], pbc[None], batch, neighbor + first, center + first, shift)
        )
        first += len(atoms)
    return tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))
