"""Mutations of real pickles, archives and JSON: every input must end in a value or a DataError.

    python -m tests.datasets.safe.fuzz N [SEED] [FILE ...]

The files are pickles to begin with, beside those written here. Prints a summary as JSON; what is neither value nor
DataError is printed with its input and ends the run with exit code 1.
"""

import bz2
import gzip
import io
import itertools
import json
import lzma
import pickle
import pickletools
import random
import signal
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from atomml.datasets.safe import bounded
from atomml.datasets.safe.pickle_scan import scan
from atomml.datasets.safe.safe_pickle import load_pickle
from atomml.errors import DataError
from tests.datasets.safe import pickles
from tests.datasets.safe.memory import peak_mib

LIMIT, SLOWEST = 1 << 20, 1.0
OPCODES = b"(.012BCFGIJKLMNPQRSTUVXabcdeghijlopqrstu)]}" + bytes(range(0x80, 0x99))
FRAGMENTS = [
    pickles.name("os", "system"),
    pickles.name("builtins", "eval", old=True),
    pickles.call(pickles.name("collections", "OrderedDict")),
    pickles.tensor(np.zeros(3)),
    *(
        b"\xff\xff\xff\x7f",
        b"\xff" * 8,
        b"\0" * 4,
        b"h\0",
        b"\x94",
        b"(",
        b"]",
        b"\x85",
        b"\x93",
        b"R",
        b"b",
        b"q\0",
    ),
    *(b"NaN", b"[", b"{", b'"', b"1e999", b"PK\x03\x04", b"\x8a\xff"),
]


def frame(rng):
    n = int(rng.integers(1, 12))
    return {
        "pos": rng.normal(size=(n, 3)).astype("f4"), "cell": np.eye(3, dtype="f4")[None], "y": float(rng.normal()),
        "atomic_numbers": rng.integers(1, 90, n), "natoms": n, "sid": 2**40, "name": "slab", "fixed": [True, None],
    }  # fmt: skip


def pickles_to_begin_with(rng):
    plain = {
        "pm3": [{"coordinates": [{"atom": "C", "charge": 6, "x": 0.5}], "energy": -1.0}],
        "DFT_1st": None,
    }
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(1)}
    values = [plain, arrays, {1, "x"}, (frozenset((2,)), b"xyz"), 2**70]
    seeds = [pickle.dumps(value, protocol) for value in values for protocol in (2, 3, 4, 5)]
    for _ in range(4):
        seeds += [pickles.pyg1(frame(rng)), pickles.pyg2(frame(rng)), pickles.pyg2(frame(rng), classes=False)]
        seeds.append(pickles.pickled([pickles.pyg1_code(frame(rng)), frame(rng)], protocol=3))
    return seeds


def others_to_begin_with():
    text = json.dumps(
        {"energy": -1.5e-3, "positions": {"__ndarray__": [[2, 3], "float64", [0.1] * 6]}, "é": [None]}
    )
    data = text.encode() * 3
    return [
        ("zlib", zlib.compress(data)),
        ("gzip", gzip.compress(data) + gzip.compress(b"more")),
        ("gzip", gzip.compress(b"\0" * 99_999)),
        ("gzip_stream", gzip.compress(data) * 2),
        ("xz", lzma.compress(data) * 2),
        ("bz2", bz2.compress(data)),
        ("json", text.encode()),
        ("json", b'[[1, 2.5e3, -0], NaN, "\\u00e9", {}]'),
        ("json", b"[" * 90 + b"]" * 90),
    ]


def mutated(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 2 if data:
                data[at % len(data)] = chance.choice(OPCODES)
            case 3:
                data[at:at] = chance.choice(FRAGMENTS)
            case 4:
                del data[at : at + chance.choice((1, 2, 4, 16))]
            case 5:
                length = chance.choice((1, 8, 64))
                data[at:at] = data[(start := chance.randrange(len(data) + 1)) : start + length]
            case 6:
                del data[at:]
            case _:
                data[at:at] = bytes([chance.choice(OPCODES)]) * chance.choice((1, 1, 200))
    return bytes(data)


def instructions(data):
    """A pickle cut between its instructions."""
    starts = [position for _, _, position in pickletools.genops(data)]
    return [data[start:stop] for start, stop in itertools.pairwise([*starts, len(data)])]


def rearranged(parts, chance):
    """A pickle with instructions left out, repeated, exchanged, replaced, or with another operand."""
    parts = list(parts)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, other = chance.randrange(1, len(parts)), chance.randrange(1, len(parts))
        match chance.randrange(5):
            case 0:
                parts[at] = b""
            case 1:
                parts[at] = parts[at] + parts[other]
            case 2:
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = parts[other]
            case _ if len(parts[at]) > 1:
                operand = bytearray(parts[at])
                operand[chance.randrange(1, len(operand))] = chance.randrange(256)
                parts[at] = bytes(operand)
    return b"".join(parts)


def read(kind, data):
    if kind == "pickle":
        load_pickle(data, where="here", allow="pyg")
    elif kind == "plain pickle":
        load_pickle(data, where="here")
    elif kind == "scan":
        scan(data, where="here")
    elif kind == "json":
        bounded.parse_json(data, where="here", nan=True)
        bounded.parse_json(data, where="here")
    elif kind in ("zlib", "gzip"):
        {"zlib": bounded.zlib_decompress, "gzip": bounded.gzip_decompress}[kind](
            data, limit=LIMIT, where="here"
        )
    else:
        start = {"xz": bounded._xz, "bz2": bounded._bz2, "gzip_stream": bounded._Gzip}[kind]
        bounded._Inflated(io.BytesIO(data), start, kind, LIMIT, "here").readall()


def main(n, seed, files):
    chance, rng = random.Random(seed), np.random.default_rng(seed)
    seeds = [("pickle", data) for data in pickles_to_begin_with(rng) + [Path(f).read_bytes() for f in files]]
    seeds = seeds * 2 + others_to_begin_with() * 3
    parts = {data: instructions(data) for kind, data in seeds if kind == "pickle"}
    before = peak_mib()
    counts, slowest, wrong = {"value": 0, "DataError": 0}, 0.0, 0
    for _ in range(n):
        kind, data = chance.choice(seeds)
        if kind == "pickle":
            kind = chance.choice(("pickle", "pickle", "pickle", "plain pickle", "scan"))
        is_pickle = kind in ("pickle", "plain pickle", "scan")
        data = (
            rearranged(parts[data], chance) if is_pickle and chance.random() < 0.5 else mutated(data, chance)
        )
        signal.setitimer(signal.ITIMER_REAL, 60)  # ends the process: a hang
        start = time.process_time()
        try:
            read(kind, data)
            counts["value"] += 1
        except DataError:
            counts["DataError"] += 1
        except BaseException as error:
            wrong += 1
            print(kind, data.hex(), repr(error)[:300], file=sys.stderr)
        slowest = max(slowest, time.process_time() - start)
        if time.process_time() - start > SLOWEST:
            wrong += 1
            print("slow", kind, data.hex(), file=sys.stderr)
    print(
        json.dumps(
            {
                "inputs": n,
                **counts,
                "wrong": wrong,
                "slowest_s": round(slowest, 4),
                "grown_MiB": peak_mib() - before,
            }
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, sys.argv[3:]))
