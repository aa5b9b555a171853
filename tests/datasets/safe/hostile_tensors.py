"""Tensors and arrays in pickles made to do harm, byte by byte: name -> (pickle, what the error must name)."""

import io
import struct
import zipfile

import numpy as np

from tests.datasets.safe import pickles as p
from tests.datasets.safe.pickles import Code, call, name, new, pickled, storage, tensor, value

FLOATS = np.arange(12, dtype="f4")


def storages(marker):
    """Bytes of storages."""
    good = storage(FLOATS)
    hostile = pickled(call(name("os", "system", old=True), f"touch {marker}"), protocol=2)
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", hostile)
        file.writestr("archive/data/0", b"\0" * 10_000_000)
    blobs = {
        "zip": (archive.getvalue(), "zip archive"),
        "a zip bomb": (archive.getvalue() * 3, "zip archive"),
        "only a pickle": (hostile, "header"),
        "first pickle": (hostile + good[15:], "header|magic"),
        "third pickle": (good[:21] + hostile + good[len(p.PREAMBLE) :], "header|byte order"),
        "fourth pickle": (good[: len(p.PREAMBLE)] + hostile, "header"),
        "fifth pickle": (good.replace(b"\x80\x02]q\x00", hostile + b"\x80\x02]q\x00"), "header|key"),
        "type os.system": (good.replace(b"ctorch\nFloatStorage\n", b"cos\nsystem\n"), "not described"),
        "type torch.load": (good.replace(b"FloatStorage", b"load"), "load"),
        "type torch.os": (storage(FLOATS, kind="os"), "type 'os'"),
        "quantised": (storage(FLOATS, kind="QInt8Storage"), "QInt8Storage"),
        "magic number": (good.replace(b"\x6c\xfc\x9c", b"\x6c\xfc\x9d", 1), "magic"),
        "version": (good.replace(b"M\xe9\x03.", b"M\xea\x03.", 1), "version"),
        "big-endian": (good.replace(b"q\x02\x88X", b"q\x02\x89X", 1), "big-endian"),
        "another key": (
            good.replace(b"\x80\x02]q\x00X\x0e\0\0\x0094", b"\x80\x02]q\x00X\x0e\0\0\x0095"),
            "key",
        ),
        "a view": (storage(FLOATS, view=("94", 0, 4)), "view"),
        "more elements stated": (storage(FLOATS, numel=1000, count=1000), "1000 elements"),
        "a count that lies": (storage(FLOATS, count=11), "12 elements .* and 11"),
        "a negative count": (storage(FLOATS, numel=-1, count=-1), "-1 elements"),
        "2^62 elements": (storage(FLOATS, numel=1 << 62, count=1 << 62), "4611686018427387904"),
        "2^64 elements": (storage(FLOATS, numel=(1 << 64) + 12), "18446744073709551628"),
        "True elements": (storage(FLOATS[:1], numel=True), "True|described"),
        "elements missing": (good[:-4], "44 bytes instead of 48"),
        "elements left over": (good + b"\0" * 4, "52 bytes instead of 48"),
        "no count": (good[: -len(FLOATS.tobytes()) - 4], "elements"),
        "empty": (b"", "header"),
        "half a bool": (storage(np.array([0, 7], "u1"), kind="BoolStorage"), "other than 0 and 1"),
        "endless memo": (good[: len(p.PREAMBLE)] + b"\x80\x02" + b"}" * 500, "header"),
        "LONG1 cut": (b"\x80\x02\x8a\xff", "header"),
    }
    cases = {
        f"storage, {key}": (pickled(tensor(FLOATS, blob=blob)), match) for key, (blob, match) in blobs.items()
    }
    for end in range(0, len(good), 7):
        cases[f"storage, cut at {end}"] = pickled(tensor(FLOATS, blob=good[:end])), "storage"
    return cases


def tensors(marker):
    """Sizes and strides of tensors."""
    bad = {
        "negative stride": ({"size": (3,), "stride": (-1,)}, "stride is negative"),
        "negative size": ({"size": (-3,), "stride": (1,)}, "size is negative"),
        "negative sizes": ({"size": (-3, -4), "stride": (4, 1)}, "size is negative"),
        "negative offset": ({"offset": -4}, "offset is negative"),
        "offset beyond": ({"offset": 1}, "beyond its storage"),
        "stride beyond": ({"size": (4, 3), "stride": (4, 1)}, "beyond its storage"),
        "size beyond": ({"size": (13,), "stride": (1,)}, "beyond its storage"),
        "stride of 2^62": ({"size": (5,), "stride": (1 << 62,)}, "beyond 2"),
        "stride of 2^64": ({"size": (2,), "stride": (1 << 64,)}, "beyond 2"),
        "strides that overflow together": (
            {"size": (1 << 40, 1 << 40), "stride": (1 << 40, 1 << 40)},
            "larger|beyond",
        ),
        "size of 2^64": ({"size": (1 << 64,), "stride": (0,)}, "beyond 2"),
        "sizes whose product overflows": ({"size": (1 << 32, 1 << 32), "stride": (0, 0)}, "much larger"),
        "a terabyte of one number": ({"size": (1 << 38,), "stride": (0,)}, "much larger"),
        "more sizes than strides": ({"size": (3, 4), "stride": (1,)}, "2 sizes and 1 strides"),
        "99 dimensions": ({"size": (1,) * 99, "stride": (1,) * 99}, "99 dimensions"),
        "size True": ({"size": (True,), "stride": (1,)}, "whole numbers"),
        "size 1.5": ({"size": (1.5,), "stride": (1,)}, "whole numbers"),
        "offset None": ({"offset": None}, "whole numbers"),
        "offset text": ({"offset": "1"}, "whole numbers"),
    }
    cases = {
        f"tensor, {key}": (pickled(tensor(FLOATS, **options)), match) for key, (options, match) in bad.items()
    }
    rebuild, load = name("torch._utils", "_rebuild_tensor_v2"), name("torch.storage", "_load_from_bytes")
    blob = call(load, storage(FLOATS))
    many = Code(tensor(np.zeros(1), size=(100_000,), stride=(0,)))
    others = {
        "size a list": (call(rebuild, blob, 0, [3], (1,), False, {}), "whole numbers"),
        "size a number": (call(rebuild, blob, 0, 3, (1,), False, {}), "whole numbers"),
        "no storage": (call(rebuild, b"", 0, (3,), (1,), False, {}), "without a storage"),
        "a tensor as storage": (call(rebuild, tensor(FLOATS), 0, (3,), (1,), False, {}), "without a storage"),
        "storage of a text": (call(rebuild, call(load, "x"), 0, (3,), (1,), False, {}), "not bytes"),
        "storage of two": (call(rebuild, call(load, b"x", b"y"), 0, (3,), (1,), False, {}), "2 arguments"),
        "hooks": (call(rebuild, blob, 0, (3,), (1,), False, {1: 2}), "hooks"),
        "hooks of another kind": (call(rebuild, blob, 0, (3,), (1,), False, [1]), "hooks"),
        "metadata": (call(rebuild, blob, 0, (3,), (1,), False, {}, {"conj": True}), "metadata"),
        "few arguments": (call(rebuild, blob), "1 arguments"),
        "many arguments": (call(rebuild, *range(1000)), "1000 arguments"),
        "many tensors of one number": (Code(b"](" + many * 200 + b"e"), "much larger"),
    }
    return cases | {f"tensor, {key}": (pickled(code), match) for key, (code, match) in others.items()}


def arrays(marker):
    """numpy's arrays, types and numbers."""
    dtype_of, ndarray = name("numpy", "dtype"), name("numpy", "ndarray")
    reconstruct, scalar = (
        name("numpy._core.multiarray", "_reconstruct"),
        name("numpy.core.multiarray", "scalar"),
    )
    buffer = name("numpy.core.numeric", "_frombuffer")

    def dtype(code, state=(3, "<", None, None, None, -1, -1, 0)):
        return new(dtype_of, state) if code is None else Code(
            call(dtype_of, code, False, True) + (value(state) + b"b" if state else b"")
        )  # fmt: skip

    def array(shape=(2,), kind=None, data=b"\0" * 16, fortran=False, made=(ndarray, (0,), b"b")):
        return Code(call(reconstruct, *made) + value((1, shape, kind or dtype("f8"), fortran, data)) + b"b")

    pickle_bytes = pickled(call(name("os", "system"), f"touch {marker}"))
    fields = (3, "<", None, ("a",), {"a": 1}, 8, 1, 0)
    cases = {
        "objects": (array(kind=dtype("O8", (3, "|", None, None, None, -1, -1, 63)), data=[1, 2]), "'O8'"),
        "objects by pointer": (array(kind=dtype("O"), data=struct.pack("<QQ", 1, 2)), "'O'"),
        "number of objects": (call(scalar, dtype("O"), pickle_bytes), "'O'"),
        "number of one byte": (call(scalar, dtype("f8"), b"\0"), "1 bytes instead of 8"),
        "number without bytes": (call(scalar, dtype("f8")), "1 arguments"),
        "number of a text": (call(scalar, dtype("f8"), "x" * 8), "not bytes"),
        "fields": (array(kind=dtype("V8", fields)), "'V8'"),
        "fields of numbers": (array(kind=dtype("f8", fields)), "fields"),
        "fields by text": (array(kind=dtype("f8,O", None)), "'f8,O'"),
        "dates": (array(kind=dtype("M8[s]", None)), "M8"),
        "texts": (array(kind=dtype("U9999999", None)), "U9999999"),
        "a type by number": (array(kind=call(dtype_of, 1, False, True)), "without a type"),
        "a type by call": (array(kind=call(dtype_of, dtype("f8"))), "without a type"),
        "a type without arguments": (array(kind=dtype(None)), "without a type"),
        "an unknown order": (
            array(kind=dtype("f8", (3, "?", None, None, None, -1, -1, 0))),
            "fields or parts",
        ),
        "a state of the type": (array(kind=dtype("f8", "x")), "not numpy's"),
        "no type": (array(kind=value(1)), "without a type"),
        "negative shape": (array(shape=(-2,)), "whole numbers"),
        "shape too large": (array(shape=(1 << 40,)), "16 bytes instead of"),
        "shape that overflows": (array(shape=(1 << 33, 1 << 33)), "16 bytes instead of"),
        "shape of 2^64": (array(shape=(1 << 64,)), "whole numbers"),
        "shape too small": (array(shape=(1,)), "16 bytes instead of 8"),
        "shape a list": (array(shape=[2]), "whole numbers"),
        "shape of 99": (array(shape=(1,) * 99, data=b"\0" * 8), "32 dimensions"),
        "a bool of 9": (array(kind=dtype("b1"), data=b"\0\x09"), "other than 0 and 1"),
        "another class": (array(made=(dtype_of, (0,), b"b")), "not made as numpy"),
        "a class of torch": (
            array(made=(name("torch_geometric.data.data", "Data"), (0,), b"b")),
            "not made as numpy",
        ),
        "another start": (array(made=(ndarray, (1 << 40,), b"b")), "not made as numpy"),
        "no state": (call(reconstruct, ndarray, (0,), b"b"), "without its elements"),
        "ndarray called": (call(ndarray, (1 << 40,)), "place of a value"),
        "state of ndarray": (new(ndarray, (1, (2,), dtype("f8"), False, b"\0" * 16)), "place of a value"),
        "a buffer too short": (call(buffer, b"\0" * 8, dtype("f8"), (2,), "C"), "8 bytes instead of 16"),
        "a buffer in no order": (call(buffer, b"\0" * 16, dtype("f8"), (2,), "K"), "order"),
        "a buffer of objects": (call(buffer, b"\0" * 16, dtype("O"), (2,), "C"), "'O'"),
        "a buffer that is a list": (call(buffer, [0] * 16, dtype("f8"), (2,), "C"), "not bytes"),
    }
    return {f"array, {key}": (pickled(code), match) for key, (code, match) in cases.items()}
