"""Fits of the coupling tensors: how the files shipped in ``atomml/kernels/factors`` are remade.

    python -m atomml.kernels.cp_fit --lmax 2 --kind cg_even --rank 18 --penalty 0.1
    python -m atomml.kernels.cp_fit --lmax 2 --kind so3 --rank 28 --triples 5
    python -m atomml.kernels.cp_fit --lmax 3 --kind so3 --rank 63 --method als --seed 2 --published
    python -m atomml.kernels.cp_fit --lmax 2 --kind cg_even --grouping per_path

The header of every file has the method and the seed of the start that made it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from atomml.errors import AtommlError, UnsupportedError
from atomml.kernels.coupling import CouplingKind, Grouping, coupling_tensor, group_tensors
from atomml.kernels.cp_factors import (
    CPFactors,
    balance,
    conditioning_of,
    file_name,
    reconstruct,
    save_factors,
)
from atomml.kernels.cp_solvers import Fit, Method, fit_factors
from atomml.shapes import Float64, ndarray

__all__ = ["fit_coupling", "fit_groups", "main"]

_EXACT = 1e-10


def fit_coupling(
    lmax: int,
    kind: CouplingKind,
    rank: int,
    *,
    method: Method | None = None,
    triples: int = 0,
    seed: int = 0,
    restarts: int = 8,
    penalty: float = 1e-2,
) -> CPFactors:
    """Factors of the fused coupling tensor.

    Args:
        lmax: highest degree L.
        kind: which coupling tensor.
        rank: R.
        method: see :mod:`atomml.kernels.cp_solvers`; by default ``cyclic`` for ``so3``, else ``symmetric``.
        triples: number of 3-cycles of ``cyclic``.
        seed: seed of the first start.
        restarts: number of starts; the first exact one ends the search.
        penalty: first weight of the penalty on large columns.

    Raises:
        UnsupportedError: a request that the method cannot represent.
    """
    tensor = coupling_tensor(lmax, kind)
    chosen: Method = method or ("cyclic" if kind == "so3" else "symmetric")
    fit = fit_factors(
        tensor, rank, method=chosen, triples=triples, seed=seed, restarts=restarts, penalty=penalty
    )
    return balance(
        CPFactors(
            lmax=lmax,
            kind=kind,
            rank=rank,
            a=fit.a,
            b=fit.b,
            d=fit.d,
            error=fit.error,
            groups=(rank,),
            conditioning=fit.conditioning,
            seed=fit.seed,
            method=fit.method,
        )
    )


def fit_groups(
    lmax: int,
    kind: CouplingKind,
    grouping: Grouping,
    *,
    ranks: Sequence[int] | None = None,
    seed: int = 0,
    restarts: int = 8,
) -> CPFactors:
    """Exact factors of every path group, in order, as columns of one set of factors.

    Args:
        lmax: highest degree L.
        kind: which coupling tensor.
        grouping: how the paths are grouped.
        ranks: rank of each group; by default the smallest at which one of the starts is exact.
        seed: seed of the first start of every group.
        restarts: number of starts at every rank.

    Raises:
        UnsupportedError: ``ranks`` has not one entry per group, or a group is not exact at its rank.
    """
    paths, tensors = group_tensors(lmax, kind, grouping)
    if ranks is not None and len(ranks) != len(paths):
        raise UnsupportedError(f"{len(paths)} groups need {len(paths)} ranks, not {len(ranks)}.")
    fits = [
        _fit_group(tensor, None if ranks is None else ranks[group], seed, restarts)
        for group, tensor in enumerate(tensors)
    ]
    a, b, d = (np.concatenate([getattr(fit, name) for fit in fits], axis=1) for name in ("a", "b", "d"))
    groups = tuple(fit.a.shape[1] for fit in fits)
    total = tensors.sum(axis=0)
    factors = CPFactors(
        lmax=lmax,
        kind=kind,
        rank=sum(groups),
        a=a,
        b=b,
        d=d,
        error=0.0,
        groups=groups,
        grouping=grouping,
        conditioning=conditioning_of(a, b, d),
        seed=seed,
        method="free, penalty 0.01, each group by itself",
    )
    error = float(np.linalg.norm(reconstruct(factors) - total) / np.linalg.norm(total))
    return balance(replace(factors, error=error))


def _fit_group(tensor: Float64[ndarray, "dim dim dim"], rank: int | None, seed: int, restarts: int) -> Fit:
    """Exact factors of one group, of the given or the smallest rank, fitted on its non-zero rows only."""
    rows = [np.flatnonzero(np.any(np.moveaxis(tensor, mode, 0) != 0.0, axis=(1, 2))) for mode in range(3)]
    block = np.ascontiguousarray(tensor[np.ix_(*rows)])
    lowest = max(
        np.linalg.matrix_rank(np.moveaxis(block, m, 0).reshape(block.shape[m], -1)) for m in range(3)
    )
    for candidate in [rank] if rank is not None else range(int(lowest), 10 * int(lowest)):
        fit = fit_factors(block, candidate, seed=seed, restarts=restarts, tolerance=_EXACT)
        if fit.error <= _EXACT:
            return _embed(fit, rows, len(tensor))
    raise UnsupportedError(
        f"A path group is not exact at rank {rank} (error {fit.error:.1e}).",
        fix="use a larger rank or more restarts",
    )


def _embed(fit: Fit, rows: Sequence[ndarray], dim: int) -> Fit:
    """Factors of a block as factors of the whole tensor, with zeros in the other rows."""
    whole = [np.zeros((dim, fit.a.shape[1])) for _ in range(3)]
    for target, index, part in zip(whole, rows, (fit.a, fit.b, fit.d), strict=True):
        target[index] = part
    return Fit(whole[0], whole[1], whole[2], fit.error, fit.conditioning, fit.seed, fit.method)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m atomml.kernels.cp_fit", description="Fit coupling factors."
    )
    parser.add_argument("--lmax", type=int, required=True)
    parser.add_argument("--kind", choices=("cg_even", "so3", "gaunt"), required=True)
    parser.add_argument("--rank", type=int, help="number of columns (needed unless --grouping is given)")
    parser.add_argument("--grouping", choices=("fused", "per_l2", "per_path"), default="fused")
    parser.add_argument("--ranks", help="ranks of the groups, e.g. 9,18,20; by default they are searched for")
    parser.add_argument("--method", choices=("symmetric", "cyclic", "free", "als"))
    parser.add_argument("--triples", type=int, default=0, help="3-cycles of the method cyclic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=8)
    parser.add_argument("--penalty", type=float, default=1e-2, help="first weight against large columns")
    parser.add_argument("--published", action="store_true", help="name the file as the published R = 7L²")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit as the command line asks, write the file and report; the exit code (2 for a bad request)."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.grouping != "fused":
            ranks = [int(word) for word in options.ranks.split(",")] if options.ranks else None
            factors = fit_groups(
                options.lmax,
                options.kind,
                options.grouping,
                ranks=ranks,
                seed=options.seed,
                restarts=options.restarts,
            )
        elif options.rank is None:
            raise UnsupportedError("A fused fit needs a rank.", fix="give --rank")
        else:
            factors = fit_coupling(
                options.lmax,
                options.kind,
                options.rank,
                method=options.method,
                triples=options.triples,
                seed=options.seed,
                restarts=options.restarts,
                penalty=options.penalty,
            )
    except AtommlError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 2
    path = options.out / file_name(factors, published=options.published)
    save_factors(factors, path)
    console.print(
        f"{path}: rank {factors.rank} {factors.groups}, error {factors.error:.2e}, "
        f"conditioning {factors.conditioning:.2f}, seed {factors.seed}, {factors.method}",
        markup=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
