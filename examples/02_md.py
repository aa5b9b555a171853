"""Molecular dynamics of lithium chloride at 600 K with the potential that comes with the package.

Run: python examples/02_md.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase.build import bulk
from ase.io import read

import atomml
from atomml.simulate import run_md

potential = atomml.load("demo")
crystal = bulk("LiCl", "rocksalt", a=5.14, cubic=True) * (2, 2, 2)

with TemporaryDirectory() as folder:
    result = run_md(
        crystal, potential, temperature=600.0, steps=200, friction=0.02, log_every=5, seed=1, out_dir=folder
    )
    frames = read(Path(folder) / "trajectory.extxyz", ":")

temperature = result.log["temperature_K"][20:].mean()
energy = result.log["potential_eV"] / len(crystal)
closest = result.log["min_distance_A"].min()
print(f"{len(crystal)} atoms, {result.summary['time_ps']:.1f} ps in {result.summary['seconds']:.0f} s")
print(f"temperature {temperature:.0f} K, potential energy {energy[0]:.3f} -> {energy[-1]:.3f} eV/atom")
print(f"closest pair {closest:.2f} Å, pressure {result.log['pressure_GPa'][20:].mean():.1f} GPa")

assert len(frames) == 41
assert 350 < temperature < 800
assert np.isfinite(energy).all()
assert energy[-1] > energy[0]  # the lattice takes up heat
assert closest > 1.7
assert np.abs(result.atoms.get_momenta().sum(axis=0)).max() < 1e-6
