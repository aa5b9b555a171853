"""Read foreign files, convert them once, choose frames without decoding any, and make batches.

Run: python examples/04_datasets.py
"""

import json
import time
from pathlib import Path

import ase.io
import numpy as np

from atomml.datasets import FrameStore, convert, load_frames, rows_where, split_by_group, tag_values
from atomml.demo import ASSETS, SAMPLE

# Any known kind of file reads the same way; this one comes with the package.
frames = load_frames(ASSETS / SAMPLE)
print(frames)

# A file in another format: MatPES-like JSON, where the stress is in kbar and has VASP's sign.
documents = [
    {
        "matpes_id": f"halide-{i}",
        "structure": {
            "lattice": {"matrix": atoms.cell.tolist(), "pbc": [True] * 3},
            "sites": [
                {"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist(), "xyz": xyz.tolist()}
                for symbol, abc, xyz in zip(
                    atoms.symbols, atoms.get_scaled_positions(wrap=False), atoms.positions, strict=True
                )
            ],
        },
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces().tolist(),
        "stress": (atoms.get_stress() / ase.units.GPa * -10).tolist(),
        "provenance": {"md_temperature": float(atoms.info["T"])},
    }
    for i, atoms in ((i, frames[i]) for i in range(0, len(frames), 5))
]
Path("MatPES-example.json").write_text(json.dumps(documents))

# Converted once, in pieces; killed and started again it goes on, with the same bytes.
store = convert("MatPES-example.json", "store", reader="matpes", cutoff=5.0, overwrite=True).store
assert np.allclose(store.stress, frames.subset(range(0, len(frames), 5)).stress, atol=1e-12)
print(store, "tags:", ", ".join(store.tags))

# Filters and divisions use the index; a frame is decoded when it is asked for.
hot = rows_where(store, "md_temperature >= 1000 and has_Cl == true and fmax < 5")
split = split_by_group(tag_values(store, "formula"), valid=0.2, seed=0)
print(f"{len(hot)} hot chlorides; by composition: {split.summary()}")

start = time.perf_counter()
energies = [store.frame(i).energy for i in np.random.default_rng(0).permutation(len(store))]
print(f"{1e6 * (time.perf_counter() - start) / len(store):.1f} µs for a random frame")

graph = store.graph(0, cutoff=5.0)
assert graph.edge_index.shape[1] == store.index.n_edges[0]
assert FrameStore.open("store").fingerprint() == store.fingerprint()
assert np.isclose(np.sum(energies), store.energy.sum())
