"""ASE calculator of a potential: energy, free energy, per-atom energies, forces and stress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress

from atomml.errors import DataError, SimulationError, UnsupportedError
from atomml.graph.atom_graph import graph_from_ase
from atomml.graph.neighbors import SkinnedNeighbors
from atomml.shapes import Float, ndarray
from atomml.simulate.deviations import (
    DEVIATIONS,
    MEMBERS,
    choose_deviations,
    fitted_exact,
    mean_potential,
    missing_deviation,
)
from atomml.simulate.interface import PotentialLike, evaluating, refuse_unknown_elements, resolve_potential

if TYPE_CHECKING:
    from atomml.potentials.compiled import CompiledPotential

__all__ = ["Calculator", "electronic_state", "has_volume", "refuse_charge_and_spin"]

Array = Float[ndarray, "..."]

_BASE = ("energy", "free_energy", "energies", "forces", "stress")
_PER_ATOM = ("energies", "forces", "energies_std", "forces_std", "forces_cov")


class Calculator(AseCalculator):
    """A potential as an ASE calculator.

    ``energy`` (eV, a float) = ``free_energy`` = Σ ``energies`` (reference energies included); ``forces``
    −∂E/∂r in eV/Å, without constraints, which ASE applies itself; ``stress`` (1/V) ∂E/∂ε in eV/Å³, order
    xx yy zz yz xz xy, only for structures with a volume (three periodic directions): otherwise ASE raises
    PropertyNotImplementedError.

    Of potentials with an uncertainty also standard deviations in the same units: ``energy_std`` (a float) and its
    parts ``energy_std_epistemic`` and ``energy_std_aleatoric``, ``energies_std`` [N], ``forces_std`` [N, 3],
    ``forces_cov`` [N, 3, 3] in (eV/Å)², ``stress_std`` [6].

    Neighbours within ``cutoff + skin`` are kept and reused until an atom has moved by half the skin; the
    pairs handed to the potential are always exactly those within the cutoff, so the skin never changes a
    result.
    Nothing global is touched: no default dtype, seed, thread number or environment variable.

    Args:
        potential: a potential, a model file, or "demo".
        skin: in Å; 0 builds a new list at each call.
        deviations: None: those that the potential has. True: likewise, and a potential without any is refused.
            False: only the mean. That is cheaper for a last-layer posterior, several heads and predicted deviations,
            where one network gives the mean; the mean of a deep ensemble (or of sampled weights) needs all members.
        exact: derive the spread of forces and stress of a last-layer posterior instead of estimating it from the
            atomic energies; one more backward pass for each direction of the weights. None: as the calibration
            was fitted, whose scale is that of the one or the other. Others are exact anyway.
        members: also ``energy_members`` [M], ``forces_members`` [M, N, 3] and ``stress_members`` [M, 6].

    Raises:
        UnsupportedError: ``deviations=True``, ``exact`` or ``members`` of a potential that has none.
        ConfigError: ``exact`` or ``members`` together with ``deviations=False``.
    """

    def __init__(
        self,
        potential: PotentialLike | str | Path,
        *,
        skin: float = 0.5,
        deviations: bool | None = None,
        exact: bool | None = None,
        members: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = resolve_potential(potential)
        self.potential = mean_potential(given) if deviations is False else given
        found = choose_deviations(given, deviations, exact=bool(exact), members=members)
        if exact is None:
            exact = bool(found) and fitted_exact(given)
        base = _BASE if given.conservative else tuple(name for name in _BASE if name != "stress")
        self.implemented_properties = [*base, *found]
        self.evaluations = 0
        self._uncertain = bool(getattr(given, "deviations", ()))
        self.deviation_options = {"exact": exact, "members": members} if found else {}
        self._neighbors = SkinnedNeighbors(self.potential.cutoff, skin)

    def _get_name(self) -> str:
        return "atomml"

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last call, exactly, not to a tolerance: that is several times faster.

        Charge and spin in ``atoms.info``, which ASE does not look at, count too.
        """
        old = self.atoms
        if old is None:
            return [*all_changes]
        changes = [] if np.array_equal(old.cell.array, atoms.cell.array) else ["cell"]
        changes += [] if np.array_equal(old.pbc, atoms.pbc) else ["pbc"]
        for name in ("positions", "numbers", "initial_charges", "initial_magmoms"):
            before, now = old.arrays.get(name), atoms.arrays.get(name)
            if before is not now and not np.array_equal(before, now):
                changes.append(name)
        if electronic_state(old) != electronic_state(atoms):
            changes.append("info")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As in ASE.

        Raises:
            MissingDeviationError: a deviation that this model or this calculator does not give; says how to get it.
        """
        if name in (*DEVIATIONS, *MEMBERS) and name not in self.implemented_properties:
            raise missing_deviation(name, uncertain=self._uncertain)
        return super().get_property(name, atoms, allow_calculation)

    def export_properties(self) -> Properties:
        """The results that ASE has names for, which deviations are not among."""
        return Properties({name: x for name, x in self.results.items() if name in all_outputs})

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything the potential gives for ``atoms`` into ``results``.

        Raises:
            UnsupportedError: an unknown element, a charge or a spin.
            DataError: no atoms.
            SimulationError: a NaN or infinity in the results; names the atoms.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        atoms = self.atoms
        if len(atoms) == 0:
            raise DataError(
                "A structure without atoms has no energy.", fix="check how the structure was made"
            )
        refuse_charge_and_spin(atoms)
        refuse_unknown_elements(atoms, self.potential.elements)
        output = self._evaluate(atoms, stress="stress" in self.implemented_properties and has_volume(atoms))
        self.evaluations += 1
        results = _to_results(output, self.implemented_properties)
        refuse_nan(results, atoms, where=f"evaluation {self.evaluations} of this calculator")
        self.results = results

    def min_distance(self) -> float:
        """Shortest distance in Å between two atoms of the last structure; infinity beyond the cutoff."""
        return self._neighbors.closest()

    def _evaluate(self, atoms: Atoms, *, stress: bool) -> Mapping[str, Array]:
        # a compiled potential needs neither a graph nor a filtered list
        if getattr(self.potential, "takes_arrays", False):
            fast = cast("CompiledPotential", self.potential)
            return fast.evaluate_arrays(*_arrays(atoms, self._neighbors), stress=stress)
        graph = graph_from_ase(atoms, self.potential.cutoff, neighbors=self._neighbors)
        # the potential enables the gradients that its own derivatives need
        with evaluating(self.potential), torch.no_grad():
            output = self.potential(
                graph.to(self.potential.device), forces=True, stress=stress, **self.deviation_options
            )
        wanted = self.implemented_properties  # moving the others from a GPU would cost time
        return {k: v.detach().cpu().double().numpy() for k, v in output.items() if k in wanted}


def has_volume(atoms: Atoms) -> bool:
    """Whether a stress exists: three periodic directions and three independent lattice vectors."""
    return bool(np.all(atoms.pbc)) and int(atoms.cell.rank) == 3


def electronic_state(atoms: Atoms) -> tuple[float, float]:
    """Total charge in e and spin multiplicity that ``atoms.info`` asks for; (0, 1) when it says nothing."""
    charge = float(atoms.info.get("charge") or 0.0)
    spin = float(atoms.info.get("spin") or atoms.info.get("multiplicity") or 1.0)
    return charge, spin


def refuse_charge_and_spin(atoms: Atoms) -> None:
    """Potentials of this package describe neutral, closed-shell structures; anything else is refused.

    Raises:
        UnsupportedError: says which entry of the structure asks for a charge or a spin.
    """
    charge, spin = electronic_state(atoms)
    total = float(np.sum(atoms.get_initial_charges()))
    problem = None
    if charge != 0.0:
        problem = f"a total charge of {charge:g} e (atoms.info['charge'])"
    elif abs(total) > 1e-6:
        problem = f"initial charges that sum to {total:g} e"
    elif spin != 1.0:
        problem = f"a spin multiplicity of {spin:g} (atoms.info['spin' or 'multiplicity'])"
    elif np.any(atoms.get_initial_magnetic_moments()):
        problem = "initial magnetic moments"
    if problem is not None:
        raise UnsupportedError(
            f"The structure asks for {problem}, which this potential cannot describe.",
            where=atoms.get_chemical_formula(),
            fix="remove the entry if the neutral, non-magnetic structure is meant",
        )


def refuse_nan(results: Mapping[str, Any], atoms: Atoms, *, where: str) -> None:
    """Stop at the first result that is not finite.

    Raises:
        SimulationError: names the quantity and the first five atoms.
    """
    per_atom_first = sorted(results, key=lambda name: name not in _PER_ATOM)
    for name in per_atom_first:
        value = results[name]
        finite = np.isfinite(np.asarray(value))
        if finite.all():
            continue
        atoms_hit = ""
        if name in _PER_ATOM:
            bad = np.flatnonzero(~finite.reshape(len(atoms), -1).all(axis=1))
            atoms_hit = " for atoms " + ", ".join(f"{atoms.symbols[i]} {i}" for i in bad[:5])
            atoms_hit += f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise SimulationError(
            f"The potential returned {name} that are not finite{atoms_hit}.",
            where=f"{atoms.get_chemical_formula()}, {where}",
            fix="look for atoms that overlap or a structure far outside the training data; `atomml check` "
            "tests the model itself",
        )


def _arrays(atoms: Atoms, neighbors: SkinnedNeighbors) -> tuple[Any, ...]:
    """Arguments of `CompiledPotential.evaluate_arrays` with the pairs of a Verlet list, unfiltered."""
    cell, pbc = np.asarray(atoms.cell.array, dtype=np.float64), np.asarray(atoms.pbc, dtype=bool)
    pairs = neighbors.pairs(atoms.positions, cell, pbc)
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    return numbers, atoms.positions, cell[None], pbc[None], np.zeros_like(numbers), *pairs


def _to_results(arrays: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Any]:
    """Those arrays of one structure that are ``wanted``, as the floats and float64 arrays ASE expects."""
    results: dict[str, Any] = {}
    for name, value in ((name, arrays[name]) for name in wanted if name in arrays):
        if name.startswith("stress"):
            voigt = full_3x3_to_voigt_6_stress(value.reshape(-1, 3, 3))
            results[name] = voigt if name in MEMBERS else voigt[0]
        elif name == "energy_members":
            results[name] = value[0]
        elif name.startswith("energy"):
            results[name] = float(value.reshape(-1)[0])
        else:
            results[name] = value
    results["free_energy"] = results["energy"]
    return results
