"""Load a potential, ask it for energies, forces and stress, and find the lattice constant of LiCl.

Run: python examples/01_first_potential.py
"""

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

import atomml

potential = atomml.load("demo", dtype="float64")  # a file of yours, or a model that comes with the package
print(f"The demo potential knows the elements {potential.elements} within {potential.cutoff} Å.")

# Many structures at once, without ASE calculators.
strained = [bulk("LiCl", "rocksalt", a=a) for a in (4.9, 5.0, 5.1, 5.2, 5.3)]
for atoms, prediction in zip(strained, potential.predict(strained), strict=True):
    pressure = -prediction.stress[:3].mean() / 0.00624151  # eV/Å³ to GPa
    print(
        f"a = {atoms.cell.lengths()[0] * 2**0.5:.2f} Å  E = {prediction.energy:.4f} eV  p = {pressure:6.2f} GPa"
    )

# One structure with everything that ASE can do.
atoms = bulk("LiCl", "rocksalt", a=5.3, cubic=True)
atoms.calc = atomml.Calculator(potential)
LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=100)
a = atoms.cell.lengths()[0]
print(f"Relaxed lattice constant {a:.3f} Å (the reference the model learned from: 5.087 Å).")

energies = [p.energy for p in potential.predict(strained)]
assert min(energies) == energies[2], "the minimum lies near 5.1 Å"
assert abs(a - 5.087) < 0.08
assert abs(atoms.get_stress()).max() < 1e-3
assert abs(atoms.get_potential_energies().sum() - atoms.get_potential_energy()) < 1e-9
