"""One call of a potential for many structures; what is wrong with one of them does not touch the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from atomml.errors import AtommlError, DataError
from atomml.graph import AtomGraph
from atomml.shapes import Float64, Tensor
from atomml.simulate.batched.structures import Ragged, Structures
from atomml.simulate.batched.verlet import VerletLists
from atomml.simulate.calculator import refuse_charge_and_spin, refuse_nan
from atomml.simulate.interface import PotentialLike, evaluating, refuse_unknown_elements

__all__ = ["Evaluation", "evaluate", "refuse_unusable", "results_of"]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Ragged):
    """Energies [B] in eV, forces [N, 3] in eV/Å, stress [B, 3, 3] in eV/Å³, NaN where there is none.

    Attributes:
        closest: shortest distance in Å of each structure; infinity beyond the cutoff.
    """

    of_atoms: ClassVar[tuple[str, ...]] = ("forces",)
    energy: Float64[Tensor, " graphs"]
    forces: Float64[Tensor, "atoms 3"]
    stress: Float64[Tensor, "graphs 3 3"]
    closest: Float64[Tensor, " graphs"]


def evaluate(
    potential: PotentialLike, structures: Structures, lists: VerletLists
) -> tuple[Evaluation, dict[int, AtommlError]]:
    """Energy, forces and stress of all structures, and the errors of those that have none, by their place.

    A structure fails alone: without neighbours, refused by the potential or with results that are not finite.
    """
    errors = lists.update(structures)
    try:
        result = _evaluate(potential, structures, lists)
    except AtommlError as error:
        if len(structures) == 1:
            return _nothing(structures), errors or {0: error}
        return _one_by_one(potential, structures, lists, errors)
    return result, _not_finite(structures, result, stress=potential.conservative) | errors


def refuse_unusable(atoms: Atoms, potential: PotentialLike) -> None:
    """Refuse a structure that the potential cannot describe, before anything is computed.

    Raises:
        DataError: no atoms.
        UnsupportedError: an unknown element, a charge or a spin.
    """
    if len(atoms) == 0:
        raise DataError("A structure without atoms has no energy.", fix="check how the structure was made")
    refuse_charge_and_spin(atoms)
    refuse_unknown_elements(atoms, potential.elements)


def results_of(structures: Structures, result: Evaluation, place: int) -> dict[str, Any]:
    """Energy, forces and, where there is one, stress of one structure as ASE has them."""
    found: dict[str, Any] = {"energy": float(result.energy[place])}
    found["forces"] = result.forces[structures.rows(place)].cpu().numpy()
    if bool(structures.volume[place]) and bool(result.stress[place].isfinite().all()):
        found["stress"] = full_3x3_to_voigt_6_stress(result.stress[place].cpu().numpy())
    return found


def _one_by_one(
    potential: PotentialLike, structures: Structures, lists: VerletLists, errors: dict[int, AtommlError]
) -> tuple[Evaluation, dict[int, AtommlError]]:
    parts = []
    for k in range(len(structures)):
        only = torch.arange(len(structures), device=structures.pos.device) == k
        part, problem = evaluate(potential, structures.select(only), lists.select(only))
        parts.append(part)
        if problem:
            errors.setdefault(k, problem[0])
    return Evaluation.join(parts), errors


def _evaluate(potential: PotentialLike, structures: Structures, lists: VerletLists) -> Evaluation:
    pairs = lists.pairs(structures)
    s, (neighbor, center) = structures, pairs[:2]
    lattice = s.cell[s.owner[center]]
    vector = s.pos[neighbor] - s.pos[center]
    # by components, so that both directions of a pair have the same length, bit for bit
    x, y, z = (pairs.shift[:, a, None] * lattice[:, a] for a in range(3))
    vector = vector + (x + y + z)
    square = (vector * vector).sum(1)
    shortest = square.new_full((len(s),), torch.inf).scatter_reduce(0, s.owner[center], square, "amin").sqrt()
    stress = potential.conservative and bool(s.volume.any())
    if getattr(potential, "takes_arrays", False):  # a compiled potential skips what is beyond the cutoff
        columns = (s.z, s.pos, s.cell, s.pbc, s.owner, *pairs[:3])
        arrays = cast(Any, potential).evaluate_arrays(*(x.numpy() for x in columns), stress=stress)
        out = {name: torch.from_numpy(x) for name, x in arrays.items()}
    else:
        near = pairs.within(square < lists.cutoff**2)
        graph = AtomGraph(
            z=s.z,
            pos=s.pos,
            cell=s.cell,
            pbc=s.pbc,
            batch=s.owner,
            edge_index=torch.stack(near[:2]),
            edge_shift=near.shift,
            edge_transpose=near.transpose,
        )
        with evaluating(potential), torch.no_grad():
            out = dict(potential(graph, forces=True, stress=stress))
    nothing = _nothing(structures)
    given = torch.where(s.volume[:, None, None], out["stress"].double(), nothing.stress) if stress else None
    return Evaluation(
        counts=s.counts,
        energy=out["energy"].detach().double(),
        forces=out["forces"].detach().double(),
        stress=nothing.stress if given is None else given.detach(),
        closest=torch.where(shortest < lists.cutoff, shortest, torch.inf),
    )


def _nothing(structures: Structures) -> Evaluation:
    nan = torch.full((len(structures),), torch.nan, dtype=torch.float64, device=structures.pos.device)
    return Evaluation(
        counts=structures.counts,
        energy=nan,
        forces=torch.full_like(structures.pos, torch.nan),
        stress=torch.full_like(structures.cell, torch.nan),
        closest=torch.full_like(nan, torch.inf),
    )


def _not_finite(structures: Structures, result: Evaluation, *, stress: bool) -> dict[int, AtommlError]:
    errors: dict[int, AtommlError] = {}
    bad_atoms = structures.sums((~result.forces.isfinite()).any(1).double()) > 0
    bad_stress = ~result.stress.isfinite().flatten(1).all(1) & structures.volume & stress
    for k in torch.nonzero(bad_atoms | ~result.energy.isfinite() | bad_stress)[:, 0].tolist():
        rows = structures.rows(k)
        arrays: dict[str, Any] = {"forces": result.forces[rows].cpu().numpy()}
        arrays["energy"] = float(result.energy[k])
        if bad_stress[k]:
            arrays["stress"] = result.stress[k].cpu().numpy()
        try:
            refuse_nan(arrays, Atoms(structures.z[rows].tolist()), where="batch")
        except AtommlError as error:
            errors[k] = error
    return errors
