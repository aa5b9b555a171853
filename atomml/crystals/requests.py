"""What a generated crystal shall be, and how wishes (formula, chemical system, size) become such requests."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np

from atomml.crystals.formulas import composition_of, symbols_of, system_of
from atomml.crystals.sizes import normalised, ranges, require_sizes, sizes_for
from atomml.crystals.templates import Site, Vector, read_compositions, read_template
from atomml.errors import ConfigError, UnsupportedError

__all__ = [
    "Generator",
    "Request",
    "RequestPlan",
    "Site",
    "Wishes",
    "plan_requests",
    "requests_for",
]


@runtime_checkable
class Generator(Protocol):
    """The part of a crystal model that decides what can be asked of it."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model knows."""

    @property
    def atom_counts(self) -> Mapping[int, float]:
        """Weight of each number of atoms in the training data; they need not sum to 1."""

    @property
    def predicts(self) -> Literal["structure", "everything"]:
        """``structure``: cell and positions of a given composition; ``everything``: the elements too."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one crystal shall be.

    Attributes:
        n_atoms: number of atoms in the cell.
        numbers: atomic numbers in the order of the atoms; None: the model chooses the elements.
        allowed: elements it may choose from; None: all that the model knows.
        sites: atoms that are known, kept exactly; they are the first atoms, in this order.
        lattice: rows are lattice vectors in Å, kept exactly; None: the model chooses the cell.
        properties: targets that guide the generation, such as ``{"density": 4.2}``.
        reference: row of the crystal whose composition was asked for, if it was taken from one.
    """

    n_atoms: int
    numbers: tuple[int, ...] | None = None
    allowed: frozenset[int] | None = None
    sites: tuple[Site, ...] | None = None
    lattice: tuple[Vector, Vector, Vector] | None = None
    properties: Mapping[str, float] = field(default_factory=dict)
    reference: int | None = None


class Wishes(TypedDict, total=False):
    """Keyword arguments of `plan_requests`, which explains them."""

    formula: str | None
    chemical_system: str | None
    exactly: bool
    n_atoms: int | None
    z: int | None
    max_atoms: int | None
    like: str | Path | None
    template: str | Path | None
    fix_lattice: bool
    properties: Mapping[str, float] | None


@dataclass(frozen=True)
class RequestPlan:
    """The requests that fulfil a wish.

    Attributes:
        choices: requests that differ in the number of atoms, or a list of compositions.
        weights: their probabilities, which sum to 1; None: one after the other.
        required: elements that must occur; a crystal without one of them is to be left out.
        unit: number of atoms of the formula as it was given; 0 without a formula.
    """

    choices: tuple[Request, ...]
    weights: tuple[float, ...] | None
    required: frozenset[int] = frozenset()
    unit: int = 0

    @property
    def natural_size(self) -> int:
        """How many crystals are made unless someone says: 16, or one of each in a list."""
        return 16 if self.weights else len(self.choices)

    def draw(self, n: int, rng: np.random.Generator, start: int = 0) -> list[Request]:
        """The requests number ``start`` to ``start`` + n: drawn independently, or next in the (repeated) list."""
        if self.weights is None:
            return [self.choices[k % len(self.choices)] for k in range(start, start + n)]
        return [self.choices[k] for k in rng.choice(len(self.choices), size=n, p=self.weights)]

    def fingerprint(self) -> str:
        """A hash of all of it."""
        plain = [self.weights, sorted(self.required), self.unit, *(_plain(choice) for choice in self.choices)]
        return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


def requests_for(model: Generator, *, n: int, seed: int = 0, **wishes: Unpack[Wishes]) -> list[Request]:
    """Draw n requests that fulfil the wishes, see `plan_requests`.

    Raises:
        ConfigError: wishes that contradict each other or cannot be fulfilled.
        UnsupportedError: wishes beyond this model.
    """
    return plan_requests(model, **wishes).draw(n, np.random.default_rng(seed))


def plan_requests(
    model: Generator,
    *,
    formula: str | None = None,
    chemical_system: str | None = None,
    exactly: bool = False,
    n_atoms: int | None = None,
    z: int | None = None,
    max_atoms: int | None = None,
    like: str | Path | None = None,
    template: str | Path | None = None,
    fix_lattice: bool = True,
    properties: Mapping[str, float] | None = None,
) -> RequestPlan:
    """Which numbers of atoms, and with which probability: p(n) ∝ weight of n in the training data, where wished.

    Args:
        model: decides what is possible.
        formula: composition of the crystal, "LiMn3O4": every crystal has it, with Z formula units as written.
        chemical_system: "Li-O": no other elements; not necessarily all of them.
        exactly: all elements of the chemical system must occur.
        n_atoms: this number of atoms; one that was not in the training data is warned of.
        z: this number of formula units; likewise.
        max_atoms: no more atoms than this; of the sizes in the training data by default.
        like: data set whose compositions are wanted, row by row; a row with elements that the model does not know is
            left out with a warning. For the evaluation of structure prediction.
        template: file with the atoms that are known; they and (``fix_lattice``) their cell are kept.
        fix_lattice: keep the cell of the template too.
        properties: targets that guide the generation.

    Raises:
        ConfigError: wishes that contradict each other or cannot be fulfilled.
        UnsupportedError: elements that the model does not know; no composition for a model that only predicts
            structures.
        DataError: a template that cannot be used.
    """
    if like is not None:
        if formula or chemical_system or n_atoms or z or max_atoms or template is not None:
            raise ConfigError(
                "A list of compositions says everything.", fix="leave out formula, system, sizes and template"
            )
        return RequestPlan(_compositions(model, like, properties or {}), None)
    _refuse_contradictions(formula, chemical_system, exactly, n_atoms, z, max_atoms)
    if model.predicts == "structure" and formula is None:
        raise UnsupportedError(
            "This model predicts the structure of a composition, and does not choose elements by itself.",
            fix="give a formula (--formula LiMn3O4), or use a model that was trained to generate",
        )
    base = Request(n_atoms=0, properties=dict(properties or {}))
    if template is not None:
        sites, lattice = read_template(template)
        base = replace(base, sites=sites, lattice=lattice if fix_lattice else None)
        _refuse_unknown(model, [site.number for site in sites], str(template))
    if formula is not None:
        unit = composition_of(formula)
        _refuse_unknown(model, unit, formula)
        sizes = sizes_for(model.atom_counts, n_atoms, max_atoms, step=sum(unit.values()), z=z, what=formula)
        return _plan_of_formula(base, unit, sizes, formula)
    system = None if chemical_system is None else system_of(chemical_system)
    if system is not None:
        _refuse_unknown(model, system, str(chemical_system))
        _refuse_foreign(base.sites or (), system)
    smallest = max(len(system or ()) if exactly else 1, len(base.sites or ()) + (base.lattice is not None))
    sizes = {k: w for k, w in sizes_for(model.atom_counts, n_atoms, max_atoms).items() if k >= smallest}
    require_sizes(sizes, f"{smallest} atoms or more are needed")
    choices = tuple(replace(base, n_atoms=k, allowed=system) for k in sizes)
    return RequestPlan(choices, normalised(sizes), (system if exactly else None) or frozenset())


def _compositions(model: Generator, path: str | Path, properties: Mapping[str, float]) -> tuple[Request, ...]:
    """A request for the composition of each crystal of a data set.

    Raises:
        DataError: the file cannot be read.
        UnsupportedError: no crystal of it has only elements that the model knows.
    """
    rows, known = read_compositions(path), set(model.elements)
    found = tuple(
        Request(n_atoms=len(numbers), numbers=numbers, properties=dict(properties), reference=row)
        for row, numbers in enumerate(rows)
        if known.issuperset(numbers)
    )
    if not found:
        raise UnsupportedError(
            "The model does not know the elements of any of these crystals.", where=str(path)
        )
    if len(found) < len(rows):
        warnings.warn(
            f"{len(rows) - len(found)} of {len(rows)} compositions have elements that the model does not know.",
            stacklevel=3,
        )
    return found


def _plain(request: Request) -> list[Any]:
    allowed = None if request.allowed is None else sorted(request.allowed)
    properties = sorted(request.properties.items())
    return [
        request.n_atoms,
        request.numbers,
        allowed,
        request.sites,
        request.lattice,
        properties,
        request.reference,
    ]


def _refuse_contradictions(
    formula: str | None,
    chemical_system: str | None,
    exactly: bool,
    n_atoms: int | None,
    z: int | None,
    max_atoms: int | None,
) -> None:
    """Wishes that no crystal can fulfil.

    Raises:
        ConfigError: says which.
    """
    if formula is not None and chemical_system is not None:
        raise ConfigError("A formula already says which elements.", fix="give a formula or a chemical system")
    if exactly and chemical_system is None:
        raise ConfigError('"Exactly" belongs to a chemical system.', fix="add the chemical system: Li-O")
    if z is not None and (formula is None or n_atoms is not None):
        raise ConfigError(
            "The number of formula units (z) needs a formula, and then already says how many atoms.",
            fix="give a formula and z, a formula and a number of atoms, or only one of the three",
        )
    if max_atoms is not None and (n_atoms is not None or z is not None):
        raise ConfigError(
            "The largest number of atoms has no use beside a fixed one.", fix="give one of both"
        )
    for name, value in (("number of atoms", n_atoms), ("number of formula units", z), ("limit", max_atoms)):
        if value is not None and value < 1:
            raise ConfigError(f"The {name} must be 1 or more, not {value}.")


def _refuse_unknown(model: Generator, numbers: Iterable[int], where: str) -> None:
    unknown = set(numbers) - set(model.elements)
    if unknown:
        raise UnsupportedError(
            f"This model does not know {symbols_of(unknown)}.",
            where=where,
            fix=f"use elements that it was trained on: {symbols_of(model.elements)}",
        )


def _refuse_foreign(sites: Sequence[Site], system: frozenset[int]) -> None:
    foreign = frozenset(site.number for site in sites) - system
    if foreign:
        raise ConfigError(
            f"The template has {symbols_of(foreign)}, which the chemical system {symbols_of(system)} has not.",
            fix="add the elements to the chemical system",
        )


def _plan_of_formula(
    base: Request, unit: Mapping[int, int], sizes: Mapping[int, float], formula: str
) -> RequestPlan:
    """One request for each number of formula units that holds the known sites.

    Raises:
        ConfigError: none does, or the template has elements that the formula has not.
    """
    known, per_unit = Counter(site.number for site in base.sites or ()), sum(unit.values())
    fitting = {}
    for size in sizes:
        whole = Counter({number: count * size // per_unit for number, count in unit.items()})
        free = tuple((whole - known).elements())
        if known <= whole and (free or base.lattice is None):
            fitting[size] = replace(
                base, n_atoms=size, numbers=(*(s.number for s in base.sites or ()), *free)
            )
    if not fitting:
        raise ConfigError(
            f"The template does not leave atoms to place in {formula} with {ranges(sizes)} atoms.",
            fix="the formula times a whole number must contain the atoms of the template and more",
        )
    weights = {size: sizes[size] for size in fitting}
    return RequestPlan(tuple(fitting.values()), normalised(weights), unit=per_unit)
