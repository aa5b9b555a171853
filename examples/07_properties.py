"""Properties of lithium chloride from the potential that comes with the package, and of a random walk.

Equation of state, elastic constants, phonons (where phonopy is installed), radial distribution function; then the
diffusion coefficient of a walk whose value is known, with its error bar.
Run: python examples/07_properties.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.build import bulk

from atomml._optional import installed
from atomml.simulate.properties import (
    diffusion,
    elastic_constants,
    equation_of_state,
    model_of,
    phonons,
    radial_distribution,
    trajectory_of,
    write_property,
)
from atomml.simulate.properties.figures import eos_figure

model = model_of("demo")  # in float64; also a model file, "emt", "chgnet", any potential or ASE calculator
salt = bulk("LiCl", "rocksalt", a=5.2)

eos = equation_of_state(salt, model)
lattice_constant = (4 * eos.v0) ** (1 / 3)
print(f"a = {lattice_constant:.3f} Å, B0 = {eos.b0:.1f} GPa, B0' = {eos.b0_prime:.1f}")

with TemporaryDirectory() as folder:
    write_property(folder, "eos", eos, eos_figure(eos), model.provenance)
    print(sorted(path.name for path in Path(folder).iterdir()))

elastic = elastic_constants(salt, model)
c = elastic.c
print(f"C11 {c[0, 0]:.1f}, C12 {c[0, 1]:.1f}, C44 {c[3, 3]:.1f} GPa, point group {elastic.point_group}")
print(f"K {elastic.moduli.k_hill:.1f}, G {elastic.moduli.g_hill:.1f} GPa, stable: {elastic.stable}")

if installed("phonopy"):
    modes = phonons(salt, model, supercell=(3, 3, 3), mesh=10)
    print(f"phonons up to {modes.frequencies.max():.1f} THz, {len(modes.imaginary)} imaginary q points")
    assert not modes.imaginary

g = radial_distribution(salt, r_max=5.0)
print({pair: round(peak.coordination) for pair, peak in g.peaks.items() if peak is not None})

# A walk with D = 1e-5 cm²/s: 400 frames of 50 fs, 30 ions, wrapped into the cell.
rng = np.random.default_rng(1)
steps = rng.normal(scale=np.sqrt(2 * 1e-4 * 50), size=(400, 30, 3))  # 1e-5 cm²/s = 1e-4 Å²/fs
frames = [Atoms("Li30", positions, cell=[12.0] * 3, pbc=True) for positions in np.cumsum(steps, axis=0)]
for atoms in frames:
    atoms.wrap()
found = diffusion(trajectory_of(frames, interval=50.0, temperature=600.0), "Li", charge=1.0)
print(f"D = ({1e5 * found.d:.2f} ± {1e5 * found.d_std:.2f})e-5 cm²/s, MSD ~ τ^{found.exponent:.2f}")
print(f"Nernst-Einstein: {found.conductivity:.0f} ± {found.conductivity_std:.0f} mS/cm at 600 K")

assert abs(elastic.moduli.k_hill - eos.b0) < 0.1 * eos.b0
assert elastic.stable
assert abs(found.d - 1e-5) < 2 * found.d_95
