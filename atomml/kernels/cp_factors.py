"""Canonical polyadic (CP) factors of the coupling tensors, shipped with the package.

    M[a, b, k] ≈ Σ_r A[a, r] B[b, r] D[k, r]

so that M(x, y) = D ((Aᵀx) ∘ (Bᵀy)): A and D act on nodes, and an edge costs R multiply-adds per channel. At
the exact rank the product is equivariant to rounding; below it, it is not. The factors are made by
:mod:`atomml.kernels.cp_fit` and are part of every model file.

Exact ranks shipped, the smallest found (columns of all path groups together in the last two rows):

| | L = 1 | 2 | 3 | 4 |
|---|---|---|---|---|
| ``cg_even`` | 6 | 18 | 52 | 118 |
| ``so3`` | 8 | 28 | 85 | 210 |
| ``gaunt`` | 6 | 18 | 32 | 58 |
| ``cg_even``, ``per_l2`` | 10 | 37 | 99 | |
| ``cg_even``, ``per_path`` | 10 | 53 | 170 | |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atomml.errors import ModelFileError, UnsupportedError
from atomml.kernels.coupling import CouplingKind, Grouping, dimension
from atomml.shapes import Float64, ndarray

__all__ = [
    "EXACT_ERROR",
    "CPFactors",
    "balance",
    "conditioning_of",
    "factor_files",
    "file_name",
    "load_factors",
    "load_group_factors",
    "read_factors",
    "reconstruct",
    "save_factors",
]

EXACT_ERROR = 1e-6
"""Relative Frobenius error below which a factorisation counts as exact: below the rounding of float32."""

_FORMAT_VERSION = "1"
_FOLDER = Path(__file__).parent / "factors"


@dataclass(frozen=True, eq=False)
class CPFactors:
    """A, B, D with M[a, b, k] ≈ Σ_r A[a, r] B[b, r] D[k, r], and how good they are.

    Attributes:
        lmax: highest degree L; d = (L+1)².
        kind: which coupling tensor.
        rank: R, the number of columns of each factor.
        a: factor of the feature.
        b: factor of the spherical harmonic.
        d: factor of the output.
        error: ‖Σ_r A∘B∘D − M‖_F / ‖M‖_F.
        groups: number of columns of each path group, in order; they sum to R. By default one group.
        grouping: how the paths are grouped.
        conditioning: ‖Σ_r |A|∘|B|∘|D|‖_F / ‖M‖_F, the amplification of rounding errors (1 = none).
        seed: seed of the fit.
        method: the fit, in words.
    """

    lmax: int
    kind: CouplingKind
    rank: int
    a: Float64[ndarray, "dim rank"]
    b: Float64[ndarray, "dim rank"]
    d: Float64[ndarray, "dim rank"]
    error: float
    groups: tuple[int, ...] = ()
    grouping: Grouping = "fused"
    conditioning: float = float("nan")
    seed: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.rank,))

    @property
    def exact(self) -> bool:
        """Whether the product is equivariant to rounding in float32."""
        return self.error <= EXACT_ERROR


def reconstruct(factors: CPFactors, group: int | None = None) -> Float64[ndarray, "dim dim dim"]:
    """Σ_r A[a, r] B[b, r] D[k, r] over all columns, or over those of one path group."""
    columns = slice(None)
    if group is not None:
        start = sum(factors.groups[:group])
        columns = slice(start, start + factors.groups[group])
    a, b, d = factors.a[:, columns], factors.b[:, columns], factors.d[:, columns]
    tensor: Float64[ndarray, "dim dim dim"] = np.einsum("ar,br,kr->abk", a, b, d, optimize=True)
    return tensor


def balance(factors: CPFactors) -> CPFactors:
    """The same product with |a_r| = |b_r| = |d_r| in every column, which keeps float32 values in range."""
    parts = (factors.a, factors.b, factors.d)
    norms = [np.linalg.norm(part, axis=0) for part in parts]
    mean = np.cbrt(norms[0] * norms[1] * norms[2])
    a, b, d = (
        part * (mean / np.where(norm == 0.0, 1.0, norm)) for part, norm in zip(parts, norms, strict=True)
    )
    return replace(factors, a=a, b=b, d=d)


def conditioning_of(
    a: Float64[ndarray, "rows_a rank"], b: Float64[ndarray, "rows_b rank"], d: Float64[ndarray, "rows_d rank"]
) -> float:
    """‖Σ_r |A|∘|B|∘|D|‖_F / ‖Σ_r A∘B∘D‖_F: large when big columns cancel, which would ruin float32."""
    total = np.einsum("ar,br,kr->abk", a, b, d, optimize=True)
    absolute = np.einsum("ar,br,kr->abk", np.abs(a), np.abs(b), np.abs(d), optimize=True)
    return float(np.linalg.norm(absolute) / np.linalg.norm(total))


def file_name(factors: CPFactors, *, published: bool = False) -> str:
    """Name of the file of these factors.

    ``cg_even_l2_r18``, ``cg_even_l2_per_path`` or, for the plain fit at the published rank, ``so3_l2_7L2``;
    + ``.safetensors``.
    """
    tail = "7L2" if published else f"r{factors.rank}"
    if factors.grouping != "fused":
        tail = factors.grouping
    return f"{factors.kind}_l{factors.lmax}_{tail}.safetensors"


def factor_files() -> list[Path]:
    """The shipped factor files, sorted by name."""
    return sorted(_FOLDER.glob("*.safetensors"))


def save_factors(factors: CPFactors, path: Path) -> None:
    """Write factors to a safetensors file: float64 a, b, d, int64 groups and a text header."""
    header = {
        "format_version": _FORMAT_VERSION,
        "kind": factors.kind,
        "lmax": str(factors.lmax),
        "rank": str(factors.rank),
        "grouping": factors.grouping,
        "error": repr(factors.error),
        "conditioning": repr(factors.conditioning),
        "seed": str(factors.seed),
        "method": factors.method,
    }
    tensors = {name: np.ascontiguousarray(getattr(factors, name)) for name in ("a", "b", "d")}
    tensors["groups"] = np.asarray(factors.groups, dtype=np.int64)
    save_file(tensors, path, metadata=header)


def read_factors(path: Path) -> CPFactors:
    """Read and verify one factor file.

    Raises:
        ModelFileError: not such a file, an unknown version, or shapes that do not fit the header.
    """
    fix = "reinstall atomml, or remake the file with python -m atomml.kernels.cp_fit"
    try:
        with safe_open(path, framework="numpy") as file:
            header: Mapping[str, str] = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"Cannot read coupling factors ({error}).", where=str(path), fix=fix) from error
    if header.get("format_version") != _FORMAT_VERSION or set(arrays) != {"a", "b", "d", "groups"}:
        raise ModelFileError("Not coupling factors of a known version.", where=str(path), fix=fix)
    lmax, rank = int(header["lmax"]), int(header["rank"])
    groups = tuple(int(size) for size in arrays["groups"])
    expected = (dimension(lmax), rank)
    shapes = {arrays[name].shape for name in ("a", "b", "d")}
    if shapes != {expected} or sum(groups) != rank or any(arrays[n].dtype != np.float64 for n in "abd"):
        raise ModelFileError(f"Coupling factors must be float64 {expected}.", where=str(path), fix=fix)
    return CPFactors(
        lmax=lmax,
        kind=cast(CouplingKind, header["kind"]),
        rank=rank,
        a=arrays["a"],
        b=arrays["b"],
        d=arrays["d"],
        error=float(header["error"]),
        groups=groups,
        grouping=cast(Grouping, header["grouping"]),
        conditioning=float(header["conditioning"]),
        seed=int(header["seed"]),
        method=header["method"],
    )


def load_factors(lmax: int, kind: CouplingKind, rank: int | Literal["exact", "7L2"] = "exact") -> CPFactors:
    """Factors of the fused coupling tensor, one path group.

    Args:
        lmax: highest degree L.
        kind: which coupling tensor.
        rank: ``"exact"``: the smallest shipped rank without error (error ≤ ``EXACT_ERROR``); a number: that
            rank; ``"7L2"``: the published rank R = 7L². For ``so3``, the tensor it was published for, these
            are unconstrained fits as published, with their errors of 1.6 to 5.7 %, also where an exact one of
            that rank exists (L = 2); their starts were chosen for the error known of such fits. For the other
            kinds they are the best of that rank or, if that is smaller, of the exact rank.

    Raises:
        UnsupportedError: there is no such file in the package.
    """
    shipped = _shipped_ranks(lmax, kind)
    published = _FOLDER / f"{kind}_l{lmax}_7L2.safetensors"
    if rank == "7L2" and published.is_file():
        return read_factors(published)
    wanted: int | None = None if isinstance(rank, str) else rank
    if isinstance(rank, str):
        exact = min((r for r, path in shipped.items() if read_factors(path).exact), default=None)
        wanted = exact if rank == "exact" else min(7 * lmax**2, exact or 7 * lmax**2)
    if wanted is None or wanted not in shipped:
        raise UnsupportedError(
            f"No factors of rank {rank!r} for lmax {lmax} and kind {kind!r} are shipped.",
            where=f"ranks shipped: {sorted(shipped) or 'none'}",
            fix=f"use one of these, or fit with fit_factors or python -m atomml.kernels.cp_fit --lmax {lmax} "
            f"--kind {kind} --rank {wanted or 'RANK'}",
        )
    return read_factors(shipped[wanted])


def load_group_factors(lmax: int, kind: CouplingKind, grouping: Grouping) -> CPFactors:
    """Exact factors in which every path group has its own columns (``groups`` of them, in order).

    The groups are those of :func:`atomml.kernels.coupling.group_tensors`; ``"fused"`` is
    ``load_factors(lmax, kind, "exact")``.

    Raises:
        UnsupportedError: there is no such file in the package.
    """
    if grouping == "fused":
        return load_factors(lmax, kind, "exact")
    path = _FOLDER / f"{kind}_l{lmax}_{grouping}.safetensors"
    if not path.is_file():
        raise UnsupportedError(
            f"No factors grouped {grouping!r} for lmax {lmax} and kind {kind!r} are shipped.",
            fix=f"fit with python -m atomml.kernels.cp_fit --lmax {lmax} --kind {kind} --grouping {grouping}",
        )
    return read_factors(path)


def _shipped_ranks(lmax: int, kind: CouplingKind) -> dict[int, Path]:
    """Rank -> file of the fused factors of one coupling tensor."""
    prefix = f"{kind}_l{lmax}_r"
    names = {path.stem: path for path in factor_files()}
    return {int(stem.removeprefix(prefix)): path for stem, path in names.items() if stem.startswith(prefix)}
