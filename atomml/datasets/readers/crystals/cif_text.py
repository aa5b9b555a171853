"""CIF text to a crystal: a fast path for regular P1 files, pymatgen for every other."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from atomml.datasets.lattice import canonical_lattice, wrap_fractional
from atomml.errors import DataError
from atomml.shapes import Float64, Int64, ndarray

__all__ = ["Crystal", "parse_cif"]

THIRDS = 1e-4  # relative; pymatgen's frac_tolerance
SAME_SITE = 1e-4  # of a fractional coordinate; pymatgen's site_tolerance
LARGEST_CIF = 16 << 20  # characters
FIX = "correct it, or leave it out with skip_bad=True"
NOTE_THIRDS = "digits of coordinates near 1/3 and 2/3"
NOTE_CHARGES, NOTE_ISOTOPES = "oxidation states (crystals)", "isotopes D and T (atoms)"
NOTE_PYMATGEN = "pymatgen: "
INCOMPLETE = ("implicit hydrogens", "Missing elements", "Incorrect stoichiometry", "occupancies (")
NUMBER = r"[ \t]+([-+.\deE]+)[ \t]*\n"
# What pymatgen writes without symmetry. Everything is matched: a file with anything more is not regular.
REGULAR = re.compile(
    r"\s*(?:#[^\n]*\n\s*)*data_[^\n]*\n\s*"
    r"_symmetry_space_group_name_H-M[ \t]+'P 1'[ \t]*\n\s*"
    + "".join(rf"_cell_length_{x}{NUMBER}\s*" for x in "abc")
    + "".join(rf"_cell_angle_{x}{NUMBER}\s*" for x in ("alpha", "beta", "gamma"))
    + r"_symmetry_Int_Tables_number[ \t]+1[ \t]*\n\s*"
    r"_chemical_formula_structural[ \t]+[^\s'\";]+[ \t]*\n\s*"
    r"_chemical_formula_sum[ \t]+(?:'([A-Za-z\d ]+)'|([A-Za-z\d]+))[ \t]*\n\s*"
    r"_cell_volume[ \t]+[-+.\deE]+[ \t]*\n\s*"
    r"_cell_formula_units_Z[ \t]+\d+[ \t]*\n\s*"
    r"loop_\s+_symmetry_equiv_pos_site_id\s+_symmetry_equiv_pos_as_xyz\s+1[ \t]+'x, y, z'\s+"
    r"loop_\s+_atom_site_type_symbol\s+_atom_site_label\s+_atom_site_symmetry_multiplicity\s+"
    r"_atom_site_fract_x\s+_atom_site_fract_y\s+_atom_site_fract_z\s+_atom_site_occupancy\s+"
)
COLUMNS = 7  # of the second loop
FORMULA = re.compile(r"([A-Z][a-z]?)(\d*)")


@dataclass(frozen=True, slots=True)
class Crystal:
    """A periodic structure.

    Attributes:
        numbers: atomic numbers [N].
        fractional: coordinates in [0, 1) [N, 3].
        cell: lattice vectors in rows, Å [3, 3].
    """

    numbers: Int64[ndarray, " atoms"]
    fractional: Float64[ndarray, "atoms 3"]
    cell: Float64[ndarray, "3 3"]


def parse_cif(text: str, where: str, *, thirds: bool = True, notes: Counter[str] | None = None) -> Crystal:
    """The crystal of a CIF.

    Args:
        text: of one data block. Files as pymatgen writes them without symmetry are read here, the atoms in
            the order of the file; all others by pymatgen, the atoms in its order.
        where: file and record, for messages.
        thirds: coordinates within 1e-4 (relative) of 1/3 and 2/3 become these, as in pymatgen.
        notes: counts what was changed, and pymatgen's warnings.

    Raises:
        DataError: not a CIF, partly occupied or shared sites, several structures, formula and sites disagree.
    """
    if len(text) > LARGEST_CIF:
        raise DataError(f"The CIF has more than {LARGEST_CIF} characters.", where=where, fix="leave it out")
    counts: Counter[str] = Counter() if notes is None else notes
    crystal = _regular(text, thirds, counts)
    return _by_pymatgen(text, where, thirds, counts) if crystal is None else crystal


def _regular(text: str, thirds: bool, notes: Counter[str]) -> Crystal | None:
    """The crystal of a regular file; None for a file that is not, or is doubtful in any way."""
    head = REGULAR.match(text)
    if head is None:
        return None
    words = text[head.end() :].split()
    symbols, occupancies = words[0::COLUMNS], words[6::COLUMNS]
    if not words or len(words) % COLUMNS or not set(occupancies) <= {"1", "1.0"}:
        return None
    try:
        numbers = np.array([atomic_numbers[s] for s in symbols], dtype=np.int64)
        values = [float(x) for k in (3, 4, 5) for x in words[k::COLUMNS]]
        parameters = np.array([float(x) for x in head.groups()[:6]])
        cell = canonical_lattice(parameters[:3], parameters[3:])
    except (KeyError, ValueError, DataError):
        return None
    raw = np.array(values).reshape(3, -1).T
    formula = head.group(7) or head.group(8)
    if numbers.min() < 1 or not np.isfinite(raw).all() or not _agrees(formula, Counter(symbols)):
        return None
    ideal, moved = _ideal_thirds(raw) if thirds else (raw, 0)
    fractional = wrap_fractional(ideal)
    if _shared_site(fractional):
        return None
    notes[NOTE_THIRDS] += moved
    return Crystal(numbers, fractional, cell)


def _agrees(formula: str, symbols: Mapping[str, int]) -> bool:
    """Whether a formula ("Tm1 Mg1 Hg2", of the cell or of one unit) has the elements in these ratios."""
    stated: Counter[str] = Counter()
    for symbol, count in FORMULA.findall(formula):
        stated[symbol] += int(count or 1)
    total, atoms = sum(stated.values()), sum(symbols.values())
    same = stated.keys() == symbols.keys()
    return same and all(count * total == stated[s] * atoms for s, count in symbols.items())


def _ideal_thirds(raw: ndarray) -> tuple[ndarray, int]:
    ideal = raw
    for third in (1 / 3, 2 / 3):
        ideal = np.where(abs(raw / third - 1) <= THIRDS, third, ideal)
    return ideal, int((ideal != raw).sum())


def _shared_site(fractional: ndarray) -> bool:
    """Whether two atoms are at one place."""
    n = len(fractional)
    step = max(1, 20_000 // n)
    for start in range(0, n, step):
        apart = fractional[start : start + step, None] - fractional
        near = (abs(apart - np.rint(apart)) < 2 * SAME_SITE).all(axis=2)
        if near.sum() > len(near):
            return True
    return False


def _by_pymatgen(text: str, where: str, thirds: bool, notes: Counter[str]) -> Crystal:
    from pymatgen.io.cif import CifParser

    parser = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parser = CifParser.from_str(text, frac_tolerance=THIRDS if thirds else 0.0)
            structures = parser.parse_structures(primitive=False, on_error="ignore")
        except Exception as error:  # a parser of free text fails in many ways
            reasons = [] if parser is None else [_one_line(r) for r in parser.warnings if "parsed for" in r]
            raise DataError(
                f"pymatgen cannot read this CIF: {'; '.join(reasons) or _one_line(repr(error))}",
                where=where,
                fix=FIX,
            ) from error
    if len(structures) != 1:
        raise DataError(f"The CIF holds {len(structures)} structures.", where=where, fix="one CIF for each")
    messages = dict.fromkeys([*parser.warnings, *(str(w.message) for w in caught)])
    _note_warnings([_one_line(m) for m in messages], where, notes)
    return _ordered(structures[0], where, notes)


def _note_warnings(messages: list[str], where: str, notes: Counter[str]) -> None:
    for message in messages:
        if any(part in message for part in INCOMPLETE):
            raise DataError(f"The CIF is incomplete or contradicts itself: {message}", where=where, fix=FIX)
        rounded = re.match(r"(\d+) fractional coordinates rounded", message)
        if rounded:
            notes[NOTE_THIRDS] += int(rounded.group(1))
        elif not message.startswith("Issues encountered"):
            notes[NOTE_PYMATGEN + re.sub(r"\d+", "N", message)] += 1


def _ordered(structure: Any, where: str, notes: Counter[str]) -> Crystal:
    """The crystal of a pymatgen structure with one whole atom on every site."""
    from pymatgen.core import DummySpecies

    if not structure.is_ordered:
        raise DataError(
            f"Sites are partly occupied or shared by elements: {structure.composition.formula}.",
            where=where,
            fix="order the structure first, or leave it out with skip_bad=True",
        )
    kinds = [site.specie for site in structure]
    strange = [kind.symbol for kind in kinds if isinstance(kind, DummySpecies)]
    if strange:
        raise DataError(f"A site holds {strange[0]}, which is not an element.", where=where, fix=FIX)
    cell, fractional = np.array(structure.lattice.matrix), np.array(structure.frac_coords)
    if not (np.isfinite(cell).all() and np.isfinite(fractional).all()):
        raise DataError("The cell or a coordinate is NaN or infinite.", where=where, fix=FIX)
    notes[NOTE_CHARGES] += any(getattr(kind, "oxi_state", None) for kind in kinds)
    notes[NOTE_ISOTOPES] += sum(getattr(kind, "element", kind).name in ("D", "T") for kind in kinds)
    return Crystal(
        np.array([kind.Z for kind in kinds], dtype=np.int64),
        wrap_fractional(fractional),
        cell,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
