"""The five pickles before the elements of an old torch storage, read by hand: nothing in them is carried out."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from atomml.errors import DataError

__all__ = ["MAGIC", "VERSION", "read_header"]

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MOST_STEPS = 200  # instructions of one of the pickles: the longest has about 30
# The first three as every torch on a little-endian machine writes them.
_USUAL = bytes.fromhex(
    "80028a0a6cfc9c46f9206aa850192e80024de9032e80027d7100285810000000"
    "70726f746f636f6c5f76657273696f6e71014de903580d0000006c6974746c65"
    "5f656e6469616e710288580a000000747970655f73697a657371037d71042858"
    "0500000073686f727471054b025803000000696e7471064b0458040000006c6f"
    "6e6771074b0475752e"
)


# The last two as torch writes them: groups are the type, the key's size, key, device's size, device, the number of
# elements, and the second key's size and key.
_USUAL_END = re.compile(
    rb"\x80\x02\(X\x07\0\0\0storageq\0ctorch\n([A-Za-z0-9]{1,32})\nq\x01X([\s\S])\0\0\0([0-9]{1,32})"
    rb"q\x02X([\s\S])\0\0\0(cpu|cuda:[0-9])q\x03(K[\s\S]|M[\s\S]{2}|J[\s\S]{3}[\0-\x7f])"
    rb"Ntq\x04Q\.\x80\x02\]q\0X([\s\S])\0\0\0([0-9]{1,32})q\x01a\."
)


class _Name(NamedTuple):
    module: str
    name: str


class _Persistent(NamedTuple):
    value: Any


_MARK = object()
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}
_NUMBERS = {0x4B: (1, False), 0x4D: (2, False), 0x4A: (4, True)}


def read_header(data: bytes) -> tuple[str, int, int]:
    """Type (as ``FloatStorage``), number of elements, and where the count before the elements begins.

    Raises:
        DataError: anything but a whole storage of a little-endian machine.
    """
    pos = len(_USUAL)
    if not data.startswith(_USUAL):
        pos = _read_preamble(data)
    elif usual := _USUAL_END.match(data, pos):
        kind, size, key, device_size, device, n, second_size, second = usual.groups()
        if size[0] == len(key) and device_size[0] == len(device) and (second_size, second) == (size, key):
            return kind.decode(), int.from_bytes(n[1:], "little"), usual.end()
    described, pos = _read(data, pos)
    keys, pos = _read(data, pos)
    match described:
        case _Persistent(("storage", _Name("torch", kind), str(key), str(), int(n), view)):
            if view is not None:
                raise DataError("a tensor's storage is a view of another storage, which is not read")
        case _:
            raise DataError("a tensor's storage is not described as a storage of torch")
    if type(n) is not int or n < 0:
        raise DataError(f"a tensor's storage of {n} elements")
    if keys != [key]:
        raise DataError("a tensor's storage is listed under another key than it has")
    return kind, n, pos


def _read_preamble(data: bytes) -> int:
    magic, pos = _read(data, 0)
    version, pos = _read(data, pos)
    system, pos = _read(data, pos)
    if type(magic) is not int or magic != MAGIC:
        raise DataError("a tensor's storage does not begin with torch's magic number")
    if type(version) is not int or version != VERSION:
        raise DataError(f"a tensor's storage of version {ascii(version)[:40]} instead of {VERSION}")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise DataError("a tensor's storage of a big-endian machine, or without its byte order")
    return pos


def _read(data: bytes, pos: int) -> tuple[Any, int]:
    """One pickle of plain values, names and one persistent id: the value, and where the next pickle begins."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for _ in range(MOST_STEPS):
            code, pos = data[pos], pos + 1
            if code == 0x2E:
                (value,) = stack
                return value, pos
            pos = _step(code, data, pos, stack, memo)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass  # one error for all damage
    raise DataError("the header of a tensor's storage is damaged or not torch's")


def _step(code: int, data: bytes, pos: int, stack: list[Any], memo: dict[int, Any]) -> int:
    if code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code in _NUMBERS:
        size, signed = _NUMBERS[code]
        stack.append(int.from_bytes(_take(data, pos, size), "little", signed=signed))
        pos += size
    elif code == 0x58:  # BINUNICODE
        size = int.from_bytes(_take(data, pos, 4), "little")
        stack.append(_take(data, pos + 4, size).decode())
        pos += 4 + size
    elif code in (0x71, 0x68):  # BINPUT, BINGET
        if code == 0x71:
            memo[data[pos]] = stack[-1]
        else:
            stack.append(memo[data[pos]])
        pos += 1
    elif code == 0x8A:  # LONG1
        size = data[pos]
        stack.append(int.from_bytes(_take(data, pos + 1, size), "little", signed=True))
        pos += 1 + size
    elif code == 0x63:  # GLOBAL
        end = data.index(b"\n", pos, pos + 64)
        stop = data.index(b"\n", end + 1, end + 64)
        stack.append(_Name(data[pos:end].decode(), data[end + 1 : stop].decode()))
        pos = stop + 1
    elif code == 0x80:  # PROTO
        if data[pos] != 2:
            raise ValueError
        pos += 1
    else:
        _combine(code, stack)
    return pos


def _take(data: bytes, pos: int, size: int) -> bytes:
    if pos + size > len(data):
        raise ValueError
    return data[pos : pos + size]


def _combine(code: int, stack: list[Any]) -> None:
    if code == 0x28:  # MARK
        stack.append(_MARK)
    elif code == 0x7D:  # EMPTY_DICT
        stack.append({})
    elif code == 0x5D:  # EMPTY_LIST
        stack.append([])
    elif code == 0x51:  # BINPERSID
        stack.append(_Persistent(stack.pop()))
    elif code == 0x61:  # APPEND
        item = stack.pop()
        stack[-1].append(item)
    elif code == 0x73:  # SETITEM
        value, key = stack.pop(), stack.pop()
        stack[-1].update([(_text(key), value)])
    elif code in (0x74, 0x75, 0x65):  # TUPLE, SETITEMS, APPENDS
        items = _above_mark(stack)
        if code == 0x74:
            stack.append(tuple(items))
        elif code == 0x75:
            stack[-1].update(zip(map(_text, items[::2]), items[1::2], strict=True))
        else:
            stack[-1].extend(items)
    else:
        raise ValueError


def _text(key: Any) -> str:
    if type(key) is not str:
        raise ValueError
    return key


def _above_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]
