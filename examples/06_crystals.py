"""Crystals from nothing: the structure of a formula, a chemical system, a density, and what they are worth.

Run: python examples/06_crystals.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import atomml
from atomml.crystals.evaluate.distributions import GRAM_PER_CM3
from atomml.crystals.evaluate.symmetry import space_groups
from atomml.crystals.evaluate.validity import structure_validity
from atomml.crystals.generate import SamplingSettings, generate_folder
from atomml.crystals.outputs import read_records


def density(atoms) -> float:
    return GRAM_PER_CM3 * atoms.get_masses().sum() / atoms.get_volume()


def main() -> None:
    # 1. Eight guesses of the structure of one formula.
    guesses = atomml.generate("demo", n=8, formula="SrTiO3", z=1, steps=50, seed=1)
    (groups,) = space_groups(guesses, (0.1,)).groups
    for atoms, group in zip(guesses, groups, strict=True):
        print(f"{atoms.get_chemical_formula()}: a = {atoms.cell.lengths().mean():.2f} Å, {group}")

    # 2. New crystals of a chemical system: other elements have probability zero.
    salts = atomml.generate("demo", n=12, chemical_system="Li-Na-Cl-Br", steps=20, seed=2)
    valid = sum(structure_validity(atoms).valid for atoms in salts)
    print(f"{valid} of {len(salts)} valid: {', '.join(sorted({a.get_chemical_formula() for a in salts}))}")
    print("elements:", sorted({symbol for atoms in salts for symbol in atoms.get_chemical_symbols()}))

    # 3. Guided by a property that the model was trained with.
    for wanted in (3.0, 6.0):
        guided = atomml.generate("demo", n=24, properties={"density": wanted}, guidance=1.0, steps=20, seed=3)
        print(f"density {wanted:.0f} g/cm³ asked for, median {np.median([density(a) for a in guided]):.1f}")

    # 4. A folder with CIFs, a picture and a line for each; the same call with resume=True goes on after a kill.
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "crystals"
        summary = generate_folder("demo", folder, SamplingSettings(n=16, steps=20, seed=4, batch=8))
        print(summary)
        print(sorted(path.name for path in folder.iterdir()))
        print(read_records(folder)[0])


if __name__ == "__main__":
    main()
