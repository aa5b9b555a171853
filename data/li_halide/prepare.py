"""Make the sample of Li-halide frames from the full set: every third frame of every trajectory.

    python data/li_halide/prepare.py data/li_halide/li_halide_umlip.extxyz.gz [OUT]

The full set has 1,300 frames, 65 trajectories of 20 frames 8 fs apart.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import ase.io
import numpy as np

from atomml.datasets import FrameStore, label_summary, load_frames

KEEP = ("system", "T", "traj", "strain", "step")
EVERY = 3


def part_of(temperature: int, traj: str) -> str:
    """Held out: everything at 1500 K and the expanded trajectories at 1000 K."""
    return "test" if temperature >= 1500 or (temperature == 1000 and traj.endswith("_1")) else "train"


def choose(store: FrameStore) -> np.ndarray:
    """Rows of every third frame of every trajectory, in the order of the source."""
    order = np.zeros(len(store), dtype=int)
    for name in np.unique(store.tags["traj"]):
        rows = np.flatnonzero(store.tags["traj"] == name)
        order[rows] = np.argsort(np.argsort(store.tags["step"][rows], kind="stable"))
    return np.flatnonzero(order % EVERY == 0)


def main(source: str, out: Path) -> None:
    """Write ``out``; the same bytes for the same source."""
    sample = load_frames(source)
    sample = sample.subset(choose(sample))
    text = io.StringIO()
    for i in range(len(sample)):
        atoms = sample[i]
        atoms.info = {key: atoms.info[key] for key in KEEP}
        atoms.info["part"] = part_of(atoms.info["T"], atoms.info["traj"])
        ase.io.write(text, atoms, format="extxyz")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{out}: {len(sample)} frames, {label_summary(sample)}, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = Path(__file__).parent / "sample" / "li_halide.extxyz.gz"
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else default)
