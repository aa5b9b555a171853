"""Files of OC20 written by tests: LMDB shards and records of every layout of PyG."""

import pickle

import lmdb
import numpy as np
import torch
from torch_geometric.data import Data

LEGACY = ("x", "edge_index", "edge_attr", "y", "pos", "norm", "face")


def record(k=0, n=3, **changes):
    """Attributes of an S2EF record; ``None`` removes one."""
    rng = np.random.default_rng(k)
    values = {
        "y": -1.5 - k,
        "pos": torch.tensor(rng.random((n, 3)) * 4, dtype=torch.float32),
        "cell": 5 * torch.eye(3).reshape(1, 3, 3),
        "atomic_numbers": torch.tensor([78.0, 78.0, 8.0][:n]),
        "natoms": n,
        "force": torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32),
        "fixed": torch.tensor([1.0, 0.0, 0.0][:n]),
        "tags": torch.tensor([0, 1, 2][:n]),
        "sid": 100 + k,
        "fid": k,
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def modern(values):
    """As PyG 2.1 and later pickle it."""
    return pickle.dumps(Data(**values), 5)


def legacy(values):
    """As PyG 1.x pickled it: every default attribute is there, None where it was not set."""
    data = Data.__new__(Data)
    data.__dict__.clear()
    data.__dict__.update(dict.fromkeys(LEGACY))
    data.__dict__.update(values)
    return pickle.dumps(data, 4)


def write_lmdb(path, entries):
    """An LMDB file of text keys and byte values, as fairchem writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    env = lmdb.open(str(path), subdir=False, map_size=2**28, meminit=False, map_async=True, lock=False)
    with env.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(str(key).encode(), value)
    env.sync()
    env.close()
    return path
