"""Reads all hostile files in this process and prints, for each, what came of it as a line of JSON.

    python -m tests.datasets.safe.hostile_run FOLDER

A process of its own: what goes wrong ends it and not the tests, and the tests' type checks do not slow it down.
"""

import copyreg
import json
import os
import sys
import time
from pathlib import Path

from atomml.datasets.safe.bounded import gzip_decompress, open_compressed, parse_json, zlib_decompress
from atomml.datasets.safe.safe_pickle import load_pickle
from atomml.errors import DataError
from tests.datasets.safe import hostile_containers, hostile_pickles, hostile_tensors, pickles
from tests.datasets.safe.memory import peak_mib

PICKLES = (
    hostile_pickles.names,
    hostile_pickles.hidden,
    hostile_pickles.instructions,
    hostile_pickles.sizes,
    hostile_pickles.types,
    hostile_tensors.storages,
    hostile_tensors.tensors,
    hostile_tensors.arrays,
)


def cases(folder):
    """name -> (function without arguments, what the error must name)."""
    marker = str(folder / "executed")
    for family in PICKLES:
        for name, (data, match) in family(marker).items():
            yield (
                f"{family.__name__}: {name}",
                lambda data=data: load_pickle(data, where="here", allow="pyg"),
                match,
            )
    for name, (kind, data, match) in hostile_containers.compressed().items():
        yield f"compressed: {name}", lambda kind=kind, data=data: inflate(kind, data, folder), match
    for name, (nan, data, match) in hostile_containers.jsons().items():
        limit = hostile_containers.LIMIT if "limit" in name else 1 << 28
        yield name, lambda a=(data, nan, limit): parse_json(a[0], where="here", nan=a[1], limit=a[2]), match


def inflate(kind, data, folder):
    limit = hostile_containers.LIMIT
    if kind in ("zlib", "gzip"):
        return {"zlib": zlib_decompress, "gzip": gzip_decompress}[kind](data, limit=limit, where="here")
    path = folder / kind
    path.write_bytes(data)
    with open_compressed(path, limit=limit, where="here") as file:
        while file.read(1 << 16):
            pass
    return "read to the end"


def outcome(function):
    try:
        return "value", repr(type(function()))
    except DataError as error:
        return "DataError", str(error)
    except BaseException as error:
        return type(error).__name__, repr(error)[:500]


def truncations():
    """Every beginning of a frame, and the frame with every byte replaced by one that ends, calls or builds."""
    import numpy as np

    attributes = {"pos": np.zeros((2, 3), "f4"), "y": 1.5, "sid": 3, "z": [{"a": (1, "x")}]}
    kinds = {"value": 0, "DataError": 0}
    for write in (pickles.pyg1, pickles.pyg2):
        data = write(attributes)
        for end in range(len(data)):
            kind, _ = outcome(lambda: load_pickle(data[:end], where="here", allow="pyg"))  # noqa: B023
            kinds[kind if kind != "value" else "a beginning that was read"] = kinds.get(kind, 0) + 1
        for at in range(len(data)):
            for code in (b".R\x93b\x81", b"\x82Q\x92o(")[at % 2]:
                changed = data[:at] + bytes([code]) + data[at + 1 :]
                kind, _ = outcome(lambda: load_pickle(changed, where="here", allow="pyg"))  # noqa: B023
                kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def main():
    folder = Path(sys.argv[1])
    copyreg.add_extension("os", "system", 0x77)
    copyreg._extension_cache[0x77] = os.system  # as after a first use of the code
    before = dict(os.environ)
    for name, function, match in cases(folder):
        start = time.process_time()
        kind, text = outcome(function)
        print(json.dumps({
            "name": name, "kind": kind, "text": text, "match": match, "seconds": time.process_time() - start,
            "executed": (folder / "executed").exists() or dict(os.environ) != before,
        }), flush=True)  # fmt: skip
    print(json.dumps({"truncations": truncations(), "peak_MiB": peak_mib()}))


if __name__ == "__main__":
    main()
