"""`NativeTDN`: a compiled tensor decomposition network evaluated in native code.

Positions to energies, forces and virial without an autograd graph. With the notation of `atomml.potentials.tdn`, a
layer is, for each atom, p = Aᵀ(x W_in), s_i = Σ_e q_e w(r_e) p_j, m = (D s) W_msg, b = Σ_n s_n ∘ m^(n+1),
x' = f(b W_out + x W_res), and forces come from its adjoint, written by hand. The layers are phases between which
the threads meet: forward, backward, forces. What is folded into constants here:

- 1/√(average neighbours) into D, 1/√2 into W_out and W_res;
- the first layer, whose features are numbers of the species only: x W_in and x W_res become tables, and the coupling
  tensor with one scalar operand a short list of harmonics, q = Σ_b M_g[0, b, k] y_b for its non-zero (g, k);
- the self-product, as the non-zero numbers of its coupling tensor.

Channels are padded with zeros to full vectors.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atomml.errors import DataError, UnsupportedError
from atomml.kernels.cpu.library import HOW_TO_BUILD, library
from atomml.kernels.cpu.tdn_structs import Input, Layer, Model, Output
from atomml.shapes import Float64, Int64, Tensor, ndarray

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NativeTDN"]

Array = np.ndarray[Any, np.dtype[Any]]
NONLINEARITIES = {"none": 0, "gate": 1, "norm": 2}
NEGLIGIBLE = 1e-10
"""Of the largest number of a coupling tensor: what is smaller is rounding."""


class NativeTDN:
    """The network of a `atomml.potentials.compiled.CompiledPotential`, packed for native evaluation.

    Args:
        compiled: weights and tables are copied, in its precision.

    Raises:
        UnsupportedError: the native kernels were not built; a precision other than float32 and float64.
    """

    def __init__(self, compiled: Any) -> None:
        loaded = library()
        if loaded is None:
            raise UnsupportedError("The native CPU kernels were not built.", fix=HOW_TO_BUILD)
        suffix = {torch.float32: "f32", torch.float64: "f64"}.get(compiled.dtype)
        if suffix is None:
            raise UnsupportedError(f"Native evaluation in {compiled.dtype} is not possible.", fix="use float32")
        self.dtype = compiled.dtype
        self._packed = _Packed(compiled, int(getattr(loaded, f"atomml_tdn_lanes_{suffix}")()))
        create = getattr(loaded, f"atomml_tdn_create_{suffix}")
        create.restype = ctypes.c_void_p
        self._evaluate = getattr(loaded, f"atomml_tdn_evaluate_{suffix}")
        self._destroy = getattr(loaded, f"atomml_tdn_destroy_{suffix}")
        self._handle = create(ctypes.byref(self._packed.model))
        if not self._handle:
            raise UnsupportedError("Memory is exhausted.", fix="close other programs")
        self.phases: dict[str, float] = {}

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._destroy(ctypes.c_void_p(self._handle))

    def evaluate(
        self,
        species: Int64[Tensor, " atoms"],
        positions: Float64[Tensor, "atoms 3"],
        cells: Float64[Tensor, "graphs 3 3"],
        batch: Int64[Tensor, " atoms"],
        neighbor: Int64[Tensor, " edges"],
        center: Int64[Tensor, " edges"],
        shift: Float64[Tensor, "edges 3"],
        *,
        stress: bool = False,
        threads: int = 1,
    ) -> dict[str, Tensor]:
        """Evaluate a structure or a batch of them.

        Args:
            species: number of the element in the model.
            positions: Å.
            cells: lattice vectors in rows, Å.
            batch: number of the structure of each atom.
            neighbor: j of each pair; pairs must be sorted by centre. Those beyond the cutoff are skipped.
            center: i of each pair.
            shift: S with r_ij = r_j + S·cell − r_i.
            stress: also give the virial.
            threads: at most so many; the result does not depend on it.

        Returns:
            ``energies`` [atoms] in eV, ``forces`` [atoms, 3] in eV/Å, ``features`` [atoms, channels], and
            ``virial`` [graphs, 3, 3] = Σ_e r_e ⊗ ∂E/∂r_e in eV.

        Raises:
            DataError: shapes that do not fit, an index out of range, pairs that are not sorted.
            UnsupportedError: memory is exhausted.
        """
        integers = [x.contiguous() for x in (species, batch, neighbor, center)]
        numbers = [x.contiguous() for x in (positions, cells, shift)]
        _check(integers, numbers)
        n, graphs, channels = len(species), len(cells), self._packed.model.c
        energies, forces = positions.new_empty(n), positions.new_empty((n, 3))
        virial = cells.new_empty((graphs, 3, 3)) if stress else None
        features = torch.empty((n, channels), dtype=self.dtype)
        given = Input(n, graphs, len(neighbor), *_addresses(integers[0], integers[1], numbers[0], numbers[1]))
        given.neighbor, given.center, given.shift = _addresses(integers[2], integers[3], numbers[2])
        given.threads = threads
        out = Output(*_addresses(energies, forces, virial, features))
        status = self._evaluate(ctypes.c_void_p(self._handle), ctypes.byref(given), ctypes.byref(out))
        if status == 2:
            raise DataError(
                "The pairs do not fit the atoms: an index is out of range, or they are not sorted by centre.",
                fix="use the neighbour lists of atomml.graph",
            )
        if status:
            raise UnsupportedError("Memory is exhausted.", where=f"{n} atoms", fix="use smaller batches")
        self.phases = self._named_phases(out)
        result = {"energies": energies, "forces": forces, "features": features[:, : self._packed.channels]}
        return result if virial is None else result | {"virial": virial}

    def _named_phases(self, out: Output) -> dict[str, float]:
        layers = self._packed.model.layers
        names = ["harmonics", *(f"forward {t}" for t in range(layers))]
        names += [*(f"backward {t}" for t in reversed(range(layers))), "pair forces", "forces"]
        return dict(zip(names, out.phases, strict=False))


def _check(integers: list[Tensor], numbers: list[Tensor]) -> None:
    species, batch, neighbor, center = integers
    positions, cells, shift = numbers
    n, pairs = len(species), len(neighbor)
    fits = (
        positions.shape == (n, 3)
        and cells.shape[1:] == (3, 3)
        and batch.shape == (n,)
        and center.shape == (pairs,)
        and shift.shape == (pairs, 3)
    )
    kinds = all(x.dtype == torch.int64 for x in integers) and all(x.dtype == torch.float64 for x in numbers)
    if not (fits and kinds and all(x.device.type == "cpu" for x in integers + numbers)):
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in integers + numbers)
        raise DataError(
            f"Arrays of a structure do not fit together: {shapes}.",
            fix="species, batch, neighbor and center are int64, positions, cells and shift float64, on the CPU",
        )


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


class _Packed:
    """Constants in the layout of tdn_api.h, and the arrays they point to."""

    def __init__(self, compiled: Any, lanes: int) -> None:
        self.body, self.config = compiled.body, compiled.config
        self.dtype = np.float32 if compiled.dtype == torch.float32 else np.float64
        self.kept: list[Any] = []
        self.channels = self.config.channels
        self.c, self.h = _padded(self.channels, lanes), _padded(self.config.readout_hidden, lanes)
        self.dim, self.species = (self.config.lmax + 1) ** 2, len(compiled.elements)
        self.model = self._model(compiled)

    def _model(self, compiled: Any) -> Model:
        convolution, layers = self.body.layers[0].convolution, list(self.body.layers)
        a, b, d = (_master(convolution, name) for name in "abd")
        groups = [int(size) for size in convolution.groups]
        d = d * layers[0].normalization
        first = _first_layer(a, b, d, groups)
        tensor = np.einsum("ar,br,kr->abk", *(_master(layers[0].product, name) for name in "abd"), optimize=True)
        k, x, z = np.nonzero(np.abs(tensor.transpose(2, 0, 1)) > NEGLIGIBLE * np.abs(tensor).max())
        offsets = compiled.references.e0.double() + compiled.scale * self.body.bias.double()
        packed = (Layer * len(layers))(*[self._layer(t, layer) for t, layer in enumerate(layers)])
        self.kept.append(packed)
        return Model(
            lmax=self.config.lmax,
            c=self.c,
            h=self.h,
            species=self.species,
            products=self.config.products,
            layers=len(layers),
            nonlinearity=NONLINEARITIES[self.config.nonlinearity],
            cutoff=compiled.cutoff,
            scale=compiled.scale,
            offsets=self._keep(offsets.numpy()),
            n_groups=len(groups),
            first_groups=len(first.groups),
            groups=self._keep(np.array(groups, dtype=np.int64)),
            groups_first=self._keep(np.array(first.groups, dtype=np.int64)),
            a=self._real(a.T),
            a_t=self._real(a),
            b=self._real(b),
            b_first=self._real(first.b),
            d=self._real(d),
            d_t=self._real(d.T),
            d_first=self._real(first.d),
            d_first_t=self._real(first.d.T),
            table_group_first=self._keep(np.array(first.weights, dtype=np.int64)),
            terms=len(k),
            term_index=self._keep(np.stack([x, z, k], 1).astype(np.int32)),
            term_value=self._real(tensor[x, z, k]),
            repulsion=self._repulsion(compiled.repulsion),
            repulsion_reach=0.0 if compiled.repulsion is None else compiled.repulsion.reach,
            layer=ctypes.cast(packed, ctypes.c_void_p),
        )

    def _layer(self, t: int, layer: nn.Module) -> Layer:
        last = t + 1 == len(self.body.layers)
        lout = 0 if last else self.config.lmax
        table: Any = layer.radial
        coefficients = _master(table, "coefficients")
        out = Layer(lout=lout, intervals=len(coefficients), spacing=table.spacing)
        out.table = self._real(_pad(coefficients, {3: self.c}))
        for name, module, degrees, factor in (
            ("w_in", layer.linear_in, self.config.lmax, 1.0),
            ("w_msg", layer.linear_message, self.config.lmax, 1.0),
            ("w_out", layer.linear_out, lout, 1 / math.sqrt(2)),
            ("w_res", layer.residual, lout, 1 / math.sqrt(2)),
        ):
            self._matrices(out, name, factor * _double(module.weight)[..., : degrees + 1, :, :])
        if t == 0:
            embedding = _double(self.body.embedding)
            residual = np.einsum("sc,scd->sd", embedding, _double(layer.residual.weight)[:, 0]) / math.sqrt(2)
            out.h_first = self._real(_pad(embedding @ _double(layer.linear_in.weight)[0], {1: self.c}))
            out.res_first = self._real(_pad(residual, {1: self.c}))
        scales = np.stack([_double(scale.scale) for scale in layer.scales])
        out.scales = self._real(_pad(scales, {3: self.c}))
        self._nonlinearity(out, layer.activation, lout)
        self._readout(out, self.body.readouts[t], last)
        return out

    def _nonlinearity(self, out: Layer, activation: Any, lout: int) -> None:
        if self.config.nonlinearity == "norm":
            out.slope, out.shift = (
                self._real(_pad(_double(x)[: lout + 1], {1: self.c})) for x in (activation.slope, activation.shift)
            )
        if self.config.nonlinearity == "gate" and lout > 0:
            weight = _double(activation.gates.weight).reshape(lout, self.channels, self.channels)
            gate = _pad(weight.transpose(2, 0, 1), {0: self.c, 2: self.c}).reshape(self.c, lout * self.c)
            bias = _double(activation.gates.bias).reshape(lout, self.channels)
            out.gate, out.gate_t = self._real(gate), self._real(gate.T)
            out.gate_bias = self._real(_pad(bias, {1: self.c}))

    def _readout(self, out: Layer, readout: Any, last: bool) -> None:
        if not last:
            out.linear_readout = self._real(_pad(_double(readout[0].weight)[0], {0: self.c}))
            return
        hidden = _pad(_double(readout[0].weight).T, {0: self.c, 1: self.h})
        out.hidden, out.hidden_t = self._real(hidden), self._real(hidden.T)
        out.last_readout = self._real(_pad(_double(readout[2].weight)[0], {0: self.h}))

    def _matrices(self, out: Layer, name: str, weight: Array) -> None:
        padded = _pad(weight, {weight.ndim - 2: self.c, weight.ndim - 1: self.c})
        setattr(out, name, self._real(padded))
        setattr(out, f"{name}_t", self._real(padded.swapaxes(-1, -2)))

    def _repulsion(self, repulsion: Any) -> int | None:
        if repulsion is None:
            return None
        z, radius = _double(repulsion.z), _double(repulsion.radius)
        return self._keep(np.stack([z, z**0.23, radius]))

    def _real(self, array: Array) -> int:
        """Address of a copy in the precision of the model."""
        return self._keep(array.astype(self.dtype))

    def _keep(self, array: Array) -> int:
        aligned = _aligned(array)
        self.kept.append(aligned)
        return int(aligned.ctypes.data)


class _FirstLayer:
    """Ranks of the first layer by group: b [dim, ranks], d [dim, ranks] of zeros and one number per column."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.weights: list[int] = []
        self.b: Array
        self.d: Array


def _first_layer(a: Array, b: Array, d: Array, groups: list[int]) -> _FirstLayer:
    """The coupling M_g[0, b, k] of a scalar operand, row by row; rows that vanish are left out."""
    first, rows, components, start = _FirstLayer(), [], [], 0
    largest = float(np.abs(d).max() * np.abs(a).max() * np.abs(b).max())
    for g, size in enumerate(groups):
        columns = slice(start, start + size)
        start += size
        matrix = np.einsum("kr,r,br->kb", d[:, columns], a[0, columns], b[:, columns])
        kept = np.flatnonzero(np.abs(matrix).max(1) > NEGLIGIBLE * largest)
        if len(kept):
            first.groups.append(len(kept))
            first.weights.append(g)
            rows.append(matrix[kept])
            components.append(kept)
    first.b = np.concatenate(rows).T
    first.d = np.eye(len(a))[:, np.concatenate(components)]
    return first


def _double(tensor: Tensor) -> Array:
    out: Array = tensor.detach().double().numpy()
    return out


def _master(module: Any, name: str) -> Array:
    """A constant as it was given, in float64."""
    out: Array = module._masters[name][0]
    return out


def _padded(n: int, lanes: int) -> int:
    return -(-n // lanes) * lanes


def _pad(array: Array, sizes: dict[int, int]) -> Array:
    """Zeros at the end of some axes, up to a size."""
    return np.pad(array, [(0, sizes.get(axis, n) - n) for axis, n in enumerate(array.shape)])


def _aligned(array: Array) -> Array:
    """A contiguous copy that starts on a cache line."""
    space = np.empty(array.nbytes + 64, dtype=np.uint8)
    start = -space.ctypes.data % 64
    out: Array = space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out
