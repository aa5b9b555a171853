"""A compiled tensor decomposition network as the constants of its native evaluation.

What is folded into them:

- 1/√(average neighbours) into D, 1/√2 into W_out and W_res;
- the first layer, whose features are numbers of the species only: x W_in and x W_res become tables, and the coupling
  tensor with one scalar operand a short list of harmonics, q = Σ_b M_g[0, b, k] y_b for its non-zero (g, k);
- the self-product, as the non-zero numbers of its coupling tensor.

Channels are padded with zeros to full vectors.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch

from atomml.kernels.cpu.tdn_structs import Layer, Model
from atomml.shapes import Tensor

__all__ = ["PackedTDN"]

Array = np.ndarray[Any, np.dtype[Any]]
NONLINEARITIES = {"none": 0, "gate": 1, "norm": 2}
NEGLIGIBLE = 1e-10
"""Of the largest number of a coupling tensor: what is smaller is rounding."""


class PackedTDN:
    """Constants in the layout of tdn_api.h, and the arrays they point to.

    Args:
        compiled: a `atomml.potentials.compiled.CompiledPotential`.
        lanes: numbers in a vector.

    Attributes:
        model: what native code reads; valid as long as this object.
        channels: as in the network; ``model.c`` of them with the padding.
    """

    def __init__(self, compiled: Any, lanes: int) -> None:
        self.body: Any
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
        tensor = np.einsum(
            "ar,br,kr->abk", *(_master(layers[0].product, name) for name in "abd"), optimize=True
        )
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

    def _layer(self, t: int, layer: Any) -> Layer:
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
                self._real(_pad(_double(x)[: lout + 1], {1: self.c}))
                for x in (activation.slope, activation.shift)
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
