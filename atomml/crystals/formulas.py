"""Formulas and chemical systems as users write them."""

from __future__ import annotations

from collections.abc import Iterable

from atomml.errors import ConfigError

__all__ = ["composition_of", "symbols_of", "system_of"]


def composition_of(formula: str) -> dict[int, int]:
    """How often each atomic number occurs in the formula as written, in its order.

    Raises:
        ConfigError: not a formula of whole numbers and known elements, or one without atoms.
    """
    from ase.data import atomic_numbers
    from ase.formula import Formula

    fix = "write symbols with capital letters and whole numbers: LiMn3O4, Ca(OH)2"
    try:
        counts = Formula(formula).count()
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{formula!r} is not a chemical formula.", fix=fix) from error
    unknown = [symbol for symbol in counts if not atomic_numbers.get(symbol)]
    if unknown:
        raise ConfigError(f"There is no element {', '.join(unknown)}.", where=f"formula {formula}", fix=fix)
    if not counts or min(counts.values()) < 1:
        raise ConfigError(f"The formula {formula!r} has an element without atoms, or none.", fix=fix)
    return {atomic_numbers[symbol]: count for symbol, count in counts.items()}


def system_of(text: str) -> frozenset[int]:
    """Atomic numbers of "Li-O".

    Raises:
        ConfigError: a symbol that is not an element.
    """
    from ase.data import atomic_numbers

    symbols = [part.strip() for part in text.replace(",", "-").split("-")]
    unknown = [symbol for symbol in symbols if not atomic_numbers.get(symbol)]
    if unknown:
        raise ConfigError(
            f"There is no element {', '.join(map(repr, unknown))}.",
            where=f"chemical system {text}",
            fix="write symbols with capital letters, separated by hyphens: Li-Mn-O",
        )
    return frozenset(atomic_numbers[symbol] for symbol in symbols)


def symbols_of(numbers: Iterable[int]) -> str:
    """Chemical symbols by atomic number, without repetition: "Li, O"."""
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in sorted(set(numbers)))
