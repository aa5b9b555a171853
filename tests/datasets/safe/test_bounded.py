"""Decompression and JSON within bounds: what is allowed comes back whole, what is not is refused early."""

import bz2
import gzip
import lzma
import math
import zlib

import numpy as np
import pytest

from atomml.datasets.safe import bounded
from atomml.datasets.safe.bounded import gzip_decompress, open_compressed, parse_json, zlib_decompress
from atomml.errors import DataError

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".extxyz": bytes}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.bytes(200_000) + b"a" * 300_000


def test_zlib_comes_back_and_may_be_as_large_as_the_limit(data):
    packed = zlib.compress(data)
    assert zlib_decompress(packed, limit=len(data), where="x") == data
    with pytest.raises(DataError, match="more than 499,999 bytes"):
        zlib_decompress(packed, limit=len(data) - 1, where="x")


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("padding", [b"", b"\0" * 1000])
def test_members_of_gzip_are_joined(data, members, padding):
    packed = gzip.compress(data) * members + padding
    assert gzip_decompress(packed, limit=members * len(data), where="x") == data * members
    with pytest.raises(DataError, match="more than"):
        gzip_decompress(packed, limit=members * len(data) - 1, where="x")


def test_empty_members_are_nothing():
    assert gzip_decompress(gzip.compress(b"") * 3 + gzip.compress(b"x"), limit=10, where="x") == b"x"
    assert zlib_decompress(zlib.compress(b""), limit=0, where="x") == b""


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("streams", [1, 3])
def test_files_are_read_whole_and_in_pieces(data, suffix, streams, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](data) * streams)
    limit = streams * len(data)
    with open_compressed(path, limit=limit, where="x") as file:
        assert file.read() == data * streams
    with open_compressed(path, limit=limit, where="x") as file:
        parts = []
        while part := file.read(99_999):
            parts.append(part)
    assert b"".join(parts) == data * streams
    with open_compressed(path, limit=limit - 1, where="x") as file, pytest.raises(DataError):
        file.read()


@pytest.mark.parametrize("suffix", [".GZ", ".xz", ".bz2", ""])
def test_lines_are_read_as_from_any_file(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS.get(suffix.lower(), bytes)(b"one\ntwo\n\nlast"))
    with open_compressed(path, limit=100, where="x") as file:
        assert list(file) == [b"one\n", b"two\n", b"\n", b"last"]
    assert file.closed


def test_no_more_than_the_limit_is_inflated_to_notice_a_bomb(monkeypatch):
    asked = []

    class Spy:
        def __init__(self, stream):
            self._stream = stream

        def decompress(self, data, size):
            asked.append(len(out := self._stream.decompress(data, size)))
            return out

        def __getattr__(self, name):
            return getattr(self._stream, name)

    for module in {bounded.zlib, bounded.fast_zlib}:
        start = module.decompressobj
        monkeypatch.setattr(module, "decompressobj", lambda *args, start=start: Spy(start(*args)))
    bomb = gzip.compress(b"\0" * 10_000_000)
    for packed, function in ((bomb, gzip_decompress), (zlib.compress(b"\0" * 10_000_000), zlib_decompress)):
        asked.clear()
        with pytest.raises(DataError, match="more than 1,000 bytes"):
            function(packed, limit=1000, where="x")
        assert sum(asked) <= 1000 + (1 << 16)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".extxyz"])
def test_a_missing_file_is_named(suffix, tmp_path):
    with pytest.raises(DataError, match="cannot be opened") as caught:
        open_compressed(tmp_path / f"missing{suffix}", limit=1, where="missing file")
    assert caught.value.where == "missing file"


def test_json_comes_back():
    text = '{"é": [1, -2.5e-3, null, true, "\\u00e9\\n"], "big": 18446744073709551615, "a": {"b": [[]]}}'
    expected = {"é": [1, -2.5e-3, None, True, "é\n"], "big": 2**64 - 1, "a": {"b": [[]]}}
    assert parse_json(text.encode(), where="x") == expected
    assert parse_json(text.encode(), where="x", nan=True) == expected


def test_numbers_that_are_not_finite_are_read_where_that_is_asked_for():
    text = b'{"a": NaN, "b": [Infinity, -Infinity, 1], "c": 123456789012345678901234567890}'
    made = parse_json(text, where="x", nan=True)
    assert math.isnan(made["a"])
    assert made["b"] == [math.inf, -math.inf, 1]
    assert made["c"] == 123456789012345678901234567890.0
    assert type(made["b"][2]) is int
    with pytest.raises(DataError, match="NaN or Infinity"):
        parse_json(text, where="x")


def test_a_text_may_say_nan():
    assert parse_json(b'{"formula": "NaN", "note": "Infinity"}', where="x") == {
        "formula": "NaN",
        "note": "Infinity",
    }


@pytest.mark.parametrize(
    ("opening", "closing", "most"), [(b"[", b"]", 100), (b'{"a":', b"}", 100), (b'[{"a":[1],"b":', b"}]", 49)]
)
def test_levels_are_counted(opening, closing, most):
    parse_json(opening * most + b"1" + closing * most, where="x")
    with pytest.raises(DataError, match="100 levels"):
        parse_json(opening * (most + 1) + b"1" + closing * (most + 1), where="x")


def test_a_flat_document_of_many_lists_is_no_deep_one():
    rows = [[0.5] * 3] * 10_000
    assert parse_json(str(rows).encode(), where="x") == rows


def test_json_has_a_limit():
    assert parse_json(b"[1, 2]", where="x", limit=6) == [1, 2]
    with pytest.raises(DataError, match="more than 5"):
        parse_json(b"[1, 2]", where="row 7", limit=5)
