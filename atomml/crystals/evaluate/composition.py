"""Validity of compositions: charges that cancel, and anions more electronegative than cations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from math import gcd
from typing import Any, Literal, NamedTuple

from ase.data import chemical_symbols
from ase.formula import Formula

from atomml._optional import require
from atomml.errors import DataError

__all__ = ["CompositionValidity", "SmactRules", "Variant", "composition_validity", "smact_rules"]

Variant = Literal["cdvae", "smact"]


@dataclass(frozen=True)
class CompositionValidity:
    """What the rules say of a composition.

    Attributes:
        formula: the reduced formula.
        valid: None when the rules cannot say, because SMACT has no oxidation states of an element. Published shares
            count this as not valid.
        reason: what decided.
    """

    formula: str
    valid: bool | None
    reason: str


@dataclass(frozen=True)
class SmactRules:
    """What a share of valid compositions was computed with: print it beside the share."""

    variant: Variant
    smact_version: str
    oxidation_states: str
    text: str


def smact_rules(variant: Variant = "cdvae") -> SmactRules:
    """Version, oxidation states and rules behind `composition_validity`.

    Raises:
        UnsupportedError: smact is not installed.
    """
    require("smact", extra="crystals")
    return SmactRules(variant, metadata.version("smact"), *_RULES[variant])


_RULES: dict[Variant, tuple[str, str]] = {
    "cdvae": (
        "smact14 (what SMACT used before version 3)",
        "a single element is valid; metals only are valid; otherwise there must be one oxidation state for each "
        "element such that the charges of the reduced formula cancel and every cation is less electronegative "
        "(Pauling) than every anion; a pair with an unknown electronegativity passes",
    ),
    "smact": (
        "icsd24, states reported at least three times",
        "smact.screening.smact_validity with its own defaults: as cdvae, but with these oxidation states, and no "
        "formula with an unknown electronegativity passes",
    ),
}


def composition_validity(numbers: Sequence[int], variant: Variant = "cdvae") -> CompositionValidity:
    """Whether charges can cancel in a composition.

    ``cdvae`` is the test behind the published shares of valid crystals (Xie et al., CDVAE, ICLR 2022). With the
    counts c_k of the reduced formula, oxidation states S_k and electronegativities χ_k of its elements,
        valid ⇔ ∃ q_k ∈ S_k:  Σ_k c_k q_k = 0  and  χ_i < χ_j wherever q_i > 0 > q_j,
    or there is one element only, or there are metals only. Those shares were computed with SMACT 2.2.1, whose list
    of oxidation states is now called smact14.

    ``smact`` calls ``smact.screening.smact_validity`` with its defaults, which have another list of oxidation
    states. Called with ``oxidation_states_set="smact14"`` it agrees with ``cdvae`` except for formulas with Pm, Rn
    or Lr, whose electronegativities SMACT does not know: they fail there.

    Shares that are valid, smact 4.0.2 (cdvae, smact): Perov-5 validation 0.987, 0.990; MP-20 validation, binary and
    ternary part, 0.893, 0.909; MPTS-52 validation 0.894, 0.910. With SMACT 2.2.1 they were published as 0.986 (test
    set), 0.893 and 0.895.

    Args:
        numbers: atomic numbers of the atoms; only their ratios matter.
        variant: see above.

    Raises:
        DataError: no atoms, or a number that is not of an element.
        UnsupportedError: smact is not installed.
    """
    counts = Counter(int(number) for number in numbers)
    if not counts or not 0 < min(counts) <= max(counts) < len(chemical_symbols):
        raise DataError(
            "A composition needs atoms of known elements.", where=f"atomic numbers {sorted(counts)}"
        )
    divisor = gcd(*counts.values())
    return _decided(tuple((z, counts[z] // divisor) for z in sorted(counts)), variant)


class _Ion(NamedTuple):
    number: int
    states: tuple[int, ...]
    electronegativity: float | None


@cache
def _decided(counts: tuple[tuple[int, int], ...], variant: Variant) -> CompositionValidity:
    smact = require("smact", extra="crystals")
    symbols = {chemical_symbols[z]: count for z, count in counts}
    formula = Formula.from_dict(symbols).format("metal")
    if len(symbols) == 1:
        return CompositionValidity(formula, True, "a single element")
    if symbols.keys() <= set(smact.metals):
        return CompositionValidity(formula, True, "metals only")
    elements = {symbol: _element(symbol) for symbol in symbols}
    states = {symbol: _states(element, variant) for symbol, element in elements.items()}
    if unknown := [symbol for symbol, found in states.items() if not found]:
        return CompositionValidity(formula, None, f"no oxidation states of {', '.join(unknown)}")
    if variant == "smact":
        valid = require("smact.screening", extra="crystals").smact_validity(formula)
    else:
        valid = _balanced(
            [_Ion(n, states[symbol], elements[symbol].pauling_eneg) for symbol, n in symbols.items()]
        )
    return CompositionValidity(formula, bool(valid), "charges cancel" if valid else "charges cannot cancel")


def _element(symbol: str) -> Any:
    """SMACT's data of an element, None where it has none."""
    try:
        return require("smact", extra="crystals").Element(symbol)
    except (KeyError, NameError):
        return None


def _states(element: Any, variant: Variant) -> tuple[int, ...]:
    found = getattr(
        element, {"cdvae": "oxidation_states_smact14", "smact": "oxidation_states_icsd24"}[variant], None
    )
    return tuple(found or ())


def _balanced(ions: Sequence[_Ion]) -> bool:
    """Whether a choice of states is neutral with every cation less electronegative than every anion.

    The cations of such a choice are the elements up to some electronegativity, so that each possible border takes
    one pass over the reachable charges, instead of a pass over all combinations of states.
    """
    borders = {0.0} | {ion.electronegativity for ion in ions if ion.electronegativity is not None}
    return any(_neutral(ions, border) for border in borders)


def _neutral(ions: Sequence[_Ion], border: float) -> bool:
    charges = {0}
    for number, states, electronegativity in ions:
        allowed = [
            q
            for q in states
            if electronegativity is None or q == 0 or (q > 0) == (electronegativity <= border)
        ]
        charges = {charge + number * q for charge in charges for q in allowed}
    return 0 in charges
