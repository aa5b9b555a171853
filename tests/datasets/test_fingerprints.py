import numpy as np
import pytest
from ase.build import bulk, molecule

from atomml.datasets import frame_fingerprints, from_ase


@pytest.fixture(name="frames")
def _frames():
    frames = [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.64), molecule("H2O")]
    for atoms in frames:
        atoms.rattle(0.05, seed=1)
    return frames


def test_the_same_structure_has_the_same_fingerprint_whatever_its_labels(frames):
    store = from_ase(frames)
    again = from_ase([atoms.copy() for atoms in frames[::-1]])
    assert np.array_equal(frame_fingerprints(store), frame_fingerprints(again)[::-1])
    assert np.array_equal(frame_fingerprints(store, [2, 0]), frame_fingerprints(store)[[2, 0]])


@pytest.mark.parametrize("change", ["moved", "element", "cell"])
def test_another_structure_has_another_fingerprint(frames, change):
    other = frames[1].copy()
    if change == "moved":
        other.positions[0, 0] += 1e-4
    elif change == "element":
        other.numbers[0] = 19
    else:
        other.cell[0, 1] += 1e-4
    a, b = frame_fingerprints(from_ase([frames[1], other]))
    assert a != b
