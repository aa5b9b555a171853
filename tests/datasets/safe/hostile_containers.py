"""Compressed data and JSON made to do harm: name -> (function of `bounded`, data, options, what the error names)."""

import bz2
import gzip
import lzma
import struct
import zlib

LIMIT = 1 << 20
ZEROS = b"\0" * (1 << 24)
REPEAT = 64  # 64 times 16 MiB are 1 GiB


def deflate_bomb(window_bits):
    """One stream of 1 GiB of zeros: a part that ends in a full flush can be repeated."""
    stream = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    first = stream.compress(ZEROS) + stream.flush(zlib.Z_FULL_FLUSH)
    part = stream.compress(ZEROS) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + part * (REPEAT - 1)


def greedy_xz():
    """A valid xz file whose header asks for a window of 4 GiB - 1."""
    data = bytearray(lzma.compress(b"abc" * 100))
    size = (data[12] + 1) * 4
    at = data.index(b"\x21\x01", 12) + 2
    data[at] = 40
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(data[12 : 12 + size - 4]))
    return bytes(data)


def compressed():
    zlib_bomb, gzip_bomb = deflate_bomb(15), deflate_bomb(31)
    member, xz, bz = gzip.compress(ZEROS), lzma.compress(ZEROS), bz2.compress(ZEROS)
    good = {
        "gz": gzip.compress(b"abc" * 1000),
        "xz": lzma.compress(b"abc" * 1000),
        "bz2": bz2.compress(b"abc" * 1000),
    }
    tiny = zlib.compress(b"abc" * 1000)
    nested = gzip.compress(gzip_bomb)
    cases = {
        "zlib bomb": ("zlib", zlib_bomb, "more than 1,048,576 bytes"),
        "zlib cut": ("zlib", tiny[:-3], "too early"),
        "zlib followed": ("zlib", tiny + b"x", "1 bytes follow"),
        "zlib check sum": ("zlib", tiny[:-1] + b"\x00", "zlib data cannot be read"),
        "zlib garbage": ("zlib", b"hello", "zlib data cannot be read"),
        "zlib with a dictionary": ("zlib", bytes.fromhex("78bb08330238"), "zlib"),
        "zlib empty": ("zlib", b"", "too early"),
        "gzip as zlib": ("zlib", good["gz"], "zlib data cannot be read"),
        "gzip bomb": ("gzip", gzip_bomb, "more than 1,048,576 bytes"),
        "gzip bomb of members": ("gzip", member * REPEAT, "more than 1,048,576 bytes"),
        "gzip of a gzip bomb": ("gzip", gzip.compress(b"x" * LIMIT) + nested, "more than 1,048,576 bytes"),
        "gzip of 60,000 empty members, then garbage": ("gzip", gzip.compress(b"") * 60_000 + b"x", "gzip"),
        "gzip garbage": ("gzip", b"hello", "incorrect header"),
        "gzip empty": ("gzip", b"", "too early"),
        "gz bomb": ("x.gz", gzip_bomb, "more than 1,048,576 bytes"),
        "xz bomb": ("x.xz", xz * REPEAT, "more than 1,048,576 bytes"),
        "bz2 bomb": ("x.bz2", bz * REPEAT, "more than 1,048,576 bytes"),
        "xz that needs 4 GiB": ("x.xz", greedy_xz(), "[Mm]emory"),
        "a plain file": ("x.extxyz", b"\0" * (LIMIT + 1), "larger than 1,048,576"),
        "zst": ("x.zst", b"\x28\xb5\x2f\xfd", r"\.zst"),
        "zip": ("x.zip", b"PK\x03\x04", r"\.zip"),
    }
    for kind, data in good.items():
        cases[f"{kind} cut"] = f"x.{kind}", data[:-5], "too early"
        cases[f"{kind} followed by garbage"] = f"x.{kind}", data + b"garbage" * 9, "cannot be read"
        cases[f"{kind} damaged"] = f"x.{kind}", data[:20] + b"\xff\xff\xff\xff" + data[24:], "cannot be read"
        cases[f"{kind} empty"] = f"x.{kind}", b"", "too early"
        cases[f"{kind} of another kind"] = f"x.{kind}", b"hello, world" * 9, "cannot be read"
    return cases


def jsons():
    deep = 1_000_000
    cases = {
        "arrays in each other": (b"[" * deep, "depth|levels"),
        "arrays in each other, closed": (b"[" * deep + b"]" * deep, "depth|levels"),
        "objects in each other": (b'{"a":' * deep, "depth|levels"),
        "500 levels": (b"[" * 500 + b"]" * 500, "100 levels"),
        "500 levels of objects": (b'{"a":' * 500 + b"1" + b"}" * 500, "100 levels"),
        "NaN": (b'{"energy": NaN}', "NaN or Infinity"),
        "Infinity": (b"[1, Infinity]", "NaN or Infinity"),
        "-Infinity": (b"[1, -Infinity]", "NaN or Infinity"),
        "1e999": (b"[1e999]", "infinity"),
        "a number of 10^6 digits": (b"1" * deep, "infinity|digits"),
        "not UTF-8": (b'{"a": "\xff"}', "UTF-8"),
        "half a surrogate": (b'"\\ud800"', "surrogate"),
        "two documents": (b"{} {}", "after document"),
        "cut": (b'{"a": [1, 2', "cannot be read"),
        "empty": (b"", "empty"),
        "zero bytes": (b"\0" * 100, "cannot be read"),
        "nan in lower case": (b"[nan]", "cannot be read"),
        "a comment": (b"// no\n1", "cannot be read"),
        "Python": (b"__import__('os')", "cannot be read"),
        "larger than the limit": (b"[" + b"1," * LIMIT + b"1]", "more than 1,048,576"),
    }
    with_nan = {
        "levels below NaN": (b"[NaN, " + b"[" * deep, "recursion"),
        "101 levels below NaN": (b"[NaN, " + b"[" * 101 + b"]" * 102, "100 levels"),
        "a long number beside NaN": (b"[NaN, " + b"1" * 100_000 + b"]", "digits"),
        "no JSON beside NaN": (b"[NaN, nan]", "cannot be read"),
        "not UTF-8 beside NaN": (b'[NaN, "\xff"]', "utf-8"),
    }
    return {f"JSON, {key}": (False, *case) for key, case in cases.items()} | {
        f"JSON, {key}": (True, *case) for key, case in with_nan.items()
    }
