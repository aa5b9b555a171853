"""Make the sample of relaxation trajectories from the full set: 40 molecules, about 8 steps of each.

    python data/qcr_like/prepare.py SOURCE [OUT]

SOURCE is ``qcr_like.extxyz.gz`` (5,097 frames, 119 molecules, every step of each relaxation).
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import ase.io
import numpy as np

from atomml.datasets import FrameStore, label_summary, load_frames

KEEP = ("mol_id", "name", "step", "n_steps", "converged")
EVERY_MOLECULE, STEPS, HOLD_OUT = 3, 8, 5


def steps_of(n: int) -> np.ndarray:
    """About eight steps, denser at the start where forces are large; first and last always."""
    return np.unique(np.round(np.linspace(0.0, np.sqrt(n - 1), STEPS) ** 2).astype(int))


def choose(store: FrameStore) -> np.ndarray:
    """Rows of the chosen steps of every third molecule."""
    rows = []
    for molecule in np.unique(store.tags["mol_id"])[::EVERY_MOLECULE]:
        own = np.flatnonzero(store.tags["mol_id"] == molecule)
        own = own[np.argsort(store.tags["step"][own], kind="stable")]
        rows.extend(own[steps_of(len(own))])
    return np.array(rows)


def main(source: str, out: Path) -> None:
    """Write ``out``; the same bytes for the same source."""
    sample = load_frames(source)
    sample = sample.subset(choose(sample))
    held_out = set(np.unique(sample.tags["mol_id"])[HOLD_OUT - 1 :: HOLD_OUT].tolist())
    text = io.StringIO()
    for i in range(len(sample)):
        atoms = sample[i]
        atoms.info = {key: atoms.info[key] for key in KEEP}
        atoms.info["part"] = "test" if atoms.info["mol_id"] in held_out else "train"
        ase.io.write(text, atoms, format="extxyz")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{out}: {len(sample)} frames, {label_summary(sample)}, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = Path(__file__).parent / "sample" / "qcr_like.extxyz.gz"
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else default)
