"""PubChemQCR shards as bytes: what the published files hold, and everything that can be wrong with a step."""

import copy
import gzip
import pickle

import lmdb
import numpy as np

WATER = ("O", "H", "H")


def make_step(symbols=WATER, seed=0, charge=True, energy=-76.4, case=str):
    """One step of a relaxation in the layout of the source, with the numbers that a seed gives."""
    from ase.data import atomic_numbers

    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(len(symbols), 3)).tolist()
    gradient = rng.normal(scale=0.05, size=(len(symbols), 3)).tolist()
    extra = [{"charge": float(atomic_numbers[s.capitalize()])} if charge else {} for s in symbols]
    return {
        "coordinates": [
            {"atom": case(s), **more, "x": x, "y": y, "z": z}
            for s, more, (x, y, z) in zip(symbols, extra, positions, strict=True)
        ],
        "energy": energy,
        "gradient": [
            {"atom": case(s), **more, "dx": x, "dy": y, "dz": z}
            for s, more, (x, y, z) in zip(symbols, extra, gradient, strict=True)
        ],
    }


def make_steps(n, symbols=WATER, seed=0, **options):
    return [make_step(symbols, seed + k, energy=-76.4 - 0.01 * k, **options) for k in range(n)]


def record(steps, **others):
    return {"pm3": [], "hf": [], "DFT_1st": steps, "DFT_2nd": None, **others}


def changed(step, **values):
    """A copy of a step with other values; ``coordinates__2__x`` is the x of atom 2."""
    step = copy.deepcopy(step)
    for path, value in values.items():
        *parents, last = [int(p) if p.isdigit() else p for p in path.split("__")]
        place = step
        for parent in parents:
            place = place[parent]
        place[last] = value
    return step


def pack(value, protocol=4):
    return gzip.compress(pickle.dumps(value, protocol=protocol), 1)


def write_shard(path, molecules):
    """``molecules``: {CID: record, or the bytes of the value}."""
    env = lmdb.open(str(path), subdir=False, map_size=1 << 28, lock=False, sync=False)
    with env.begin(write=True) as transaction:
        for cid, value in molecules.items():
            key = cid if isinstance(cid, bytes) else f"{cid:09d}".encode()
            transaction.put(key, value if isinstance(value, bytes) else pack(value))
    env.close()
    return path
