"""Sums over edges that are linear in each of three operands, as ``torch.library`` operators of every order.

A convolution S(x, y, w) at the atoms is linear in x (features at the atoms), y and w (numbers on the edges). Its
derivatives all come from one function of four operands, linear in each,

    F(s, x, y, w) = Σ_i s_i · S(x, y, w)_i,    Sx = ∂F/∂x,  Sy = ∂F/∂y,  Sw = ∂F/∂w.

`register` makes three operators of a family, opaque to ``torch.compile`` and export:

    conv                                     S
    backward (s, x, y, w; wanted)            (Sx, Sy, Sw), those that are wanted
    backward2(s, x, y, w, α, β, γ; wanted)   gradients of α·Sx + β·Sy + γ·Sw = F(s,α,y,w) + F(s,x,β,w) + F(s,x,y,γ)

What is not wanted is an empty tensor. Derivatives above the second are composed of these three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from atomml.graph.atom_graph import EdgeIndex
from atomml.kernels import cpu
from atomml.kernels.checks import check_index

__all__ = ["Family", "register", "second_derivatives"]

_Grads = tuple[Tensor | None, ...]
_Conv = Callable[[Tensor, Tensor, Tensor], Tensor]
_Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[bool]], _Grads]

_INDEX = "Tensor neighbor, Tensor center, Tensor row_ptr, Tensor transpose, Tensor col_ptr"


@dataclass(frozen=True)
class Family:
    """One family of operators.

    Attributes:
        name: of the operators: ``atomml::{name}_conv``, ``atomml::{name}_backward``, ``atomml::{name}_backward2``.
        conv, conv_x, conv_y, conv_w, conv_yw: names of S, Sx, Sy, Sw and of the last two in one pass in a backend,
            called as conv(x, y, w), conv_x(s, y, w), conv_y(x, s, w), conv_w(x, y, s), conv_yw(x, y, w, s), each
            followed by the index and the structure. A backend may also offer ``{conv}_backward`` and
            ``{conv}_backward2``, called like the operators here.
        schema: of the arguments that follow the index.
        structure: what backends take after the index, from these arguments.
        width: number of components of the result, from x and these arguments.
        backend: the module whose functions run, from x and the structure.
    """

    name: str
    conv: str
    conv_x: str
    conv_y: str
    conv_w: str
    conv_yw: str
    schema: str
    structure: Callable[..., Any]
    width: Callable[..., int]
    backend: Callable[[Tensor, Any], ModuleType]


def register(library: Any, family: Family) -> Callable[..., Tensor]:
    """Define the operators of a family; returns the operator of S.

    Its arguments are x, y, w, the five tensors of the index, and those of the family.
    """
    name, rest = family.name, f"{_INDEX}, {family.schema}"
    four = "Tensor s, Tensor x, Tensor y, Tensor w"
    cotangents = "Tensor? alpha, Tensor? beta, Tensor? gamma"
    library.define(f"{name}_conv(Tensor x, Tensor y, Tensor w, {rest}) -> Tensor")
    library.define(f"{name}_backward({four}, bool[] wanted, {rest}) -> (Tensor, Tensor, Tensor)")
    library.define(
        f"{name}_backward2({four}, {cotangents}, bool[] wanted, {rest}) -> (Tensor, Tensor, Tensor, Tensor)"
    )
    _register_kernels(library, family)
    _register_fakes(library, family)
    operators = getattr(torch.ops, library.ns)
    conv, backward, backward2 = (
        getattr(operators, name + suffix).default for suffix in ("_conv", "_backward", "_backward2")
    )
    _register_derivatives(library, conv, backward, backward2)
    return conv  # type: ignore[no-any-return]


def second_derivatives(
    conv: _Conv,
    backward: _Backward,
    operands: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> _Grads:
    """Gradients of F(s,α,y,w) + F(s,x,β,w) + F(s,x,y,γ) in s, x, y, w, composed of S and the gradients of F.

    Args:
        conv: S(x, y, w).
        backward: (Sx, Sy, Sw) at s, x, y, w, those that are wanted.
        operands: s, x, y, w.
        cotangents: α, β, γ; None stands for zero.
        wanted: whether the gradient in each of the operands is.
    """
    s, *xyw = operands
    gradients: list[Tensor | None] = [None] * 4
    for k, cotangent in enumerate(cotangents):
        if cotangent is None:
            continue
        x, y, w = (cotangent if m == k else operand for m, operand in enumerate(xyw))
        want = [wanted[m + 1] and m != k for m in range(3)]
        of_s = conv(x, y, w) if wanted[0] else None
        of_xyw = backward(s, x, y, w, want) if any(want) else (None,) * 3
        gradients = [_sum(total, part) for total, part in zip(gradients, (of_s, *of_xyw), strict=True)]
    return tuple(gradients)


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if total is None else total if part is None else total + part


@dataclass(frozen=True)
class _Bound:
    """S and its gradients in one backend, for one index and structure."""

    family: Family
    backend: ModuleType
    rest: tuple[EdgeIndex, Any]

    def run(self, name: str, *operands: Any) -> Any:
        return getattr(self.backend, name)(*operands, *self.rest)

    def conv(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return self.run(self.family.conv, x, y, w)  # type: ignore[no-any-return]

    def backward(self, s: Tensor, x: Tensor, y: Tensor, w: Tensor, wanted: Sequence[bool]) -> _Grads:
        names = self.family
        if hasattr(self.backend, names.conv + "_backward"):
            return tuple(self.run(names.conv + "_backward", s, x, y, w, wanted))
        of_x = self.run(names.conv_x, s, y, w) if wanted[0] else None
        if wanted[1] and wanted[2]:
            return of_x, *self.run(names.conv_yw, x, y, w, s)
        of_y = self.run(names.conv_y, x, s, w) if wanted[1] else None
        of_w = self.run(names.conv_w, x, y, s) if wanted[2] else None
        return of_x, of_y, of_w

    def backward2(
        self, operands: Sequence[Tensor], cotangents: Sequence[Tensor | None], wanted: list[bool]
    ) -> _Grads:
        if hasattr(self.backend, self.family.conv + "_backward2"):
            return tuple(self.run(self.family.conv + "_backward2", *operands, *cotangents, wanted))
        gradients = second_derivatives(self.conv, self.backward, operands, cotangents, wanted)
        return tuple(  # no term contains a gradient that is missing
            x.new_zeros(x.shape) if want and gradient is None else gradient
            for x, want, gradient in zip(operands, wanted, gradients, strict=True)
        )


def _register_kernels(library: Any, family: Family) -> None:
    def bound(x: Tensor, rest: tuple[Any, ...]) -> _Bound:
        structure = family.structure(*rest[5:])
        return _Bound(family, family.backend(x, structure), (EdgeIndex(*rest[:5]), structure))

    def conv(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
        kernels = bound(x, rest)
        if kernels.backend is not cpu:  # which checks in its kernels; the derivatives get the same index
            check_index(kernels.rest[0])
        return kernels.conv(x, y, w)

    def backward(
        s: Tensor, x: Tensor, y: Tensor, w: Tensor, wanted: list[bool], *rest: Any
    ) -> tuple[Tensor, ...]:
        return _filled(bound(x, rest).backward(s, x, y, w, wanted), x)

    def backward2(*arguments: Any) -> tuple[Tensor, ...]:
        operands, cotangents, wanted, rest = arguments[:4], arguments[4:7], arguments[7], arguments[8:]
        x = operands[1]
        return _filled(bound(x, rest).backward2(operands, cotangents, wanted), x)

    for suffix, kernel in (("conv", conv), ("backward", backward), ("backward2", backward2)):
        library.impl(f"{family.name}_{suffix}", kernel, "CompositeExplicitAutograd")


def _filled(results: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors: empty ones in the place of what is not wanted."""
    return tuple(like.new_empty(0) if result is None else result for result in results)


def _register_fakes(library: Any, family: Family) -> None:
    def conv(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
        return x.new_empty((rest[2].shape[0] - 1, family.width(x, *rest[5:]), x.shape[2]))

    def backward(
        s: Tensor, x: Tensor, y: Tensor, w: Tensor, wanted: list[bool], *rest: Any
    ) -> tuple[Tensor, ...]:
        return tuple(x.new_empty(o.shape if want else 0) for o, want in zip((x, y, w), wanted, strict=True))

    def backward2(*arguments: Any) -> tuple[Tensor, ...]:
        operands, wanted = arguments[:4], arguments[7]
        return tuple(
            operands[1].new_empty(o.shape if want else 0) for o, want in zip(operands, wanted, strict=True)
        )

    for suffix, fake in (("conv", conv), ("backward", backward), ("backward2", backward2)):
        torch.library.register_fake(f"{library.ns}::{family.name}_{suffix}", fake, lib=library)


def _register_derivatives(library: Any, conv: Any, backward: Any, backward2: Any) -> None:
    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.is_tensor = [argument is None or isinstance(argument, Tensor) for argument in inputs]
        ctx.save_for_backward(*[a for a, tensor in zip(inputs, ctx.is_tensor, strict=True) if tensor])
        ctx.others = [a for a, tensor in zip(inputs, ctx.is_tensor, strict=True) if not tensor]
        ctx.set_materialize_grads(False)  # a gradient that is not there stays None: no zeros of its size

    def saved(ctx: Any) -> list[Any]:
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        return [next(tensors) if tensor else next(others) for tensor in ctx.is_tensor]

    def derivative_of_conv(ctx: Any, s: Tensor | None) -> _Grads:
        x, y, w, *rest = saved(ctx)
        wanted = ctx.needs_input_grad[:3]
        gradients = [None] * 3 if s is None else backward(s, x, y, w, wanted, *rest)
        return *_wanted(gradients, wanted), *[None] * len(rest)

    def derivative_of_backward(ctx: Any, *cotangents: Tensor | None) -> _Grads:
        s, x, y, w, was_wanted, *rest = saved(ctx)
        wanted, known = ctx.needs_input_grad[:4], _wanted(cotangents, was_wanted)
        absent = all(cotangent is None for cotangent in known)
        gradients = [None] * 4 if absent else backward2(s, x, y, w, *known, wanted, *rest)
        return *_wanted(gradients, wanted), *[None] * (1 + len(rest))

    def derivative_of_backward2(ctx: Any, *cotangents: Tensor | None) -> _Grads:
        values = saved(ctx)
        operands, was_wanted, rest = values[:7], values[7], values[8:]
        needed, create_graph = ctx.needs_input_grad[:7], torch.is_grad_enabled()
        with torch.enable_grad():
            # views, so that a gradient ends at the operand and does not go on to what it was computed from
            views = [x.view_as(x) if need else x for x, need in zip(operands, needed, strict=True)]
            results = second_derivatives(
                lambda *xyw: conv(*xyw, *rest),
                lambda s, x, y, w, wanted: _wanted(backward(s, x, y, w, wanted, *rest), wanted),
                views[:4],
                views[4:],
                was_wanted,
            )
        gradients = _vector_jacobian(results, cotangents, views, needed, create_graph)
        return *gradients, *[None] * (1 + len(rest))

    for operator, derivative in (
        (conv, derivative_of_conv),
        (backward, derivative_of_backward),
        (backward2, derivative_of_backward2),
    ):
        torch.library.register_autograd(operator.name(), derivative, setup_context=save, lib=library)


def _wanted(results: Sequence[Tensor | None], wanted: Sequence[bool]) -> _Grads:
    return tuple(result if want else None for result, want in zip(results, wanted, strict=True))


def _vector_jacobian(
    results: _Grads, cotangents: _Grads, inputs: Sequence[Any], needed: Sequence[bool], create_graph: bool
) -> _Grads:
    """Gradients of Σ cotangent · result in the inputs that are needed, None for the others."""
    pairs = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and result is not None and result.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    gradients = iter(
        torch.autograd.grad(
            [result for result, _ in pairs],
            [x for x, need in zip(inputs, needed, strict=True) if need],
            [cotangent for _, cotangent in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return tuple(next(gradients) if need else None for need in needed)
