"""CIF files of generated crystals: as they are (P1), or with the symmetry that they nearly have."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from ase import Atoms

from atomml.errors import DataError

__all__ = ["cif_text", "remove_cifs", "write_cif", "write_cifs"]


def cif_text(atoms: Atoms, *, symprec: float | None = None) -> str | None:
    """A CIF by pymatgen.

    Without ``symprec`` P1: every atom, in the order of ``atoms``. With it the conventional cell, its space group, and
    the atoms that symmetry does not give, moved onto symmetric positions.

    Args:
        atoms: a crystal.
        symprec: how far atoms may be from symmetric positions, Å.

    Returns:
        None where no symmetry is found.
    """
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    structure = Structure(
        atoms.cell.array, atoms.numbers.tolist(), atoms.get_scaled_positions(), to_unit_cell=False
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(CifWriter(structure, symprec=symprec))
    except (SymmetryUndeterminedError, ValueError, TypeError):
        if symprec is None:
            raise
        return None


def write_cif(atoms: Atoms, path: Path, *, symprec: float | None = None) -> bool:
    """Write one crystal as `cif_text` has it, P1 where no symmetry is found; whether one was, if it was asked for.

    Raises:
        DataError: the file cannot be written.
    """
    text = cif_text(atoms, symprec=symprec)
    try:
        path.write_text(text or cif_text(atoms) or "", encoding="utf-8")
    except OSError as error:
        raise DataError(f"Cannot write the CIF ({error.strerror}).", where=str(path)) from error
    return text is not None


def remove_cifs(folder: Path) -> None:
    """Remove what `write_cifs` wrote, and nothing else."""
    for old in folder.glob("[0-9]*.cif"):
        old.unlink()


def write_cifs(
    crystals: Iterable[tuple[Atoms, dict[str, object]]], folder: Path, *, symprec: float | None = None
) -> int:
    """Write ``NNNNNN.cif`` for every crystal, by its index; older ones in the folder are removed.

    Returns:
        How many had no symmetry that could be found, and are P1.

    Raises:
        DataError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_cifs(folder)
    return sum(
        not write_cif(atoms, folder / f"{row['index']:06d}.cif", symprec=symprec) for atoms, row in crystals
    )
