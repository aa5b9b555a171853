"""What each instruction of a pickle does to a stack and a memo of kinds (see `pickle_scan`)."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import NoReturn

__all__ = ["HANDLERS", "MEMOIZE", "STOP", "WIDTHS", "Machine", "Refused", "opcode_name"]

# Kinds. Not negative: a text, by the position of its opcode. From FIRST_NAME downwards: a name, by its number.
ATOM, TUPLE, LIST, DICT, SET, OBJECT, FIRST_NAME = -1, -2, -3, -4, -5, -6, -100

STOP, MEMOIZE = b".\x94"
HIGHEST_PROTOCOL = 5
MOST_LONG_NUMBERS, LONGEST_NUMBER = 1000, 1024  # their hashes can be made to collide
LONGEST_NAME = 256
# What a call of a name gives, where that is not an object of its own.
_RESULTS = {"collections OrderedDict": DICT}


_TEXT_SIZES = {0x8C: 1, 0x58: 4, 0x8D: 8, 0x55: 1, 0x54: 4}  # bytes of the length, by opcode


class Refused(Exception):
    """The pickle is damaged or asks for something that it may not have."""


def opcode_name(code: int) -> str:
    """The name of an opcode in Python's documentation."""
    known = {info.code: info.name for info in pickletools.opcodes}
    return known.get(chr(code), f"0x{code:02x}")


class Machine:
    """The state of a scan.

    Attributes:
        data: the pickle.
        stack, marks, memo: kinds; positions of marks in the stack; kinds by memo number.
        names: ``"module name"`` by number.
        calls, long_numbers: counts.
        refused: why the pickle is refused although the scan went on to find further names.
    """

    __slots__ = ("calls", "data", "long_numbers", "marks", "memo", "names", "refused", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.names: list[str] = []
        self.calls = self.long_numbers = 0
        self.refused = ""

    def number(self, pos: int, size: int) -> int:
        """The ``size`` bytes at ``pos`` as a number, if they are there."""
        if pos + size > len(self.data):
            raise Refused("it ends too early")
        return int.from_bytes(self.data[pos : pos + size], "little")

    def skip(self, pos: int, size: int, what: str) -> int:
        """The position after ``size`` bytes, if they are there."""
        left = len(self.data) - pos
        if size > left:
            raise Refused(f"{what} of {size:,} bytes at byte {pos:,}, where {left:,} are left")
        return pos + size

    def line(self, pos: int) -> tuple[str, int]:
        """A line of at most LONGEST_NAME bytes and the position after it."""
        end = self.data.find(b"\n", pos, pos + LONGEST_NAME + 1)
        if end < 0:
            raise Refused(f"a line at byte {pos:,} that does not end within {LONGEST_NAME} bytes")
        return _text(self.data[pos:end]), end + 1

    def text(self, kind: int) -> str:
        """The text of a kind."""
        if kind < 0:
            raise Refused("a name that is not a text but computed (STACK_GLOBAL)")
        size = _TEXT_SIZES[self.data[kind]]
        start = kind + 1 + size
        length = self.number(kind + 1, size)
        if length > LONGEST_NAME:
            raise Refused(f"a name of {length:,} bytes")
        return _text(self.data[start : start + length])

    def items(self) -> list[int]:
        """Take all kinds above the last mark."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def push_name(self, module: str, name: str) -> None:
        """A class or function of a module."""
        self.names.append(f"{module} {name}")
        self.stack.append(FIRST_NAME - len(self.names) + 1)

    def name(self, kind: int, does: str) -> str:
        """The name that is called."""
        if kind > FIRST_NAME:
            raise Refused(f"{does} of something that is not named")
        self.calls += 1
        return self.names[FIRST_NAME - kind]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("a text that is not UTF-8") from None


Handler = Callable[[Machine, int], int]  # takes the position after the opcode, gives that of the next


def _texts(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        m.stack.append(pos - 1)
        return m.skip(pos + size, m.number(pos, size), "a text")

    return handler


def _bytes(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        m.stack.append(ATOM)
        return m.skip(pos + size, m.number(pos, size), "bytes")

    return handler


def _bytearray(m: Machine, pos: int) -> int:
    m.stack.append(OBJECT)
    return m.skip(pos + 8, m.number(pos, 8), "bytes")


def _long(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        length = m.number(pos, size)
        if length > LONGEST_NUMBER:
            raise Refused(f"a whole number of {length:,} bytes")
        m.long_numbers += length > 9
        if m.long_numbers > MOST_LONG_NUMBERS:
            raise Refused(f"more than {MOST_LONG_NUMBERS} whole numbers beyond 64 bits")
        m.stack.append(ATOM)
        return m.skip(pos + size, length, "a whole number")

    return handler


def _empty(kind: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        m.stack.append(kind)
        return pos

    return handler


def _tuple_of(n: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        m.stack[-n]  # an IndexError is an underflow
        m.stack[-n:] = [TUPLE]
        return pos

    return handler


def _mark(m: Machine, pos: int) -> int:
    m.marks.append(len(m.stack))
    return pos


def _tuple(m: Machine, pos: int) -> int:
    m.items()
    m.stack.append(TUPLE)
    return pos


def _put(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        number = m.number(pos, size)
        if number > len(m.data):
            raise Refused(f"memo number {number:,} in a pickle of {len(m.data):,} bytes")
        m.memo[number] = m.stack[-1]
        return pos + size

    return handler


def _get(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        number = m.number(pos, size)
        if number not in m.memo:
            raise Refused(f"memo number {number:,} is read before it is written")
        m.stack.append(m.memo[number])
        return pos + size

    return handler


def _appends(m: Machine, pos: int) -> int:
    m.items()
    return _expect(m, LIST, "items are appended to something that is not a list", pos)


def _append(m: Machine, pos: int) -> int:
    m.stack.pop()
    return _expect(m, LIST, "an item is appended to something that is not a list", pos)


def _expect(m: Machine, kind: int, otherwise: str, pos: int) -> int:
    if m.stack[-1] != kind:
        raise Refused(otherwise)
    return pos


def _setitems(m: Machine, pos: int) -> int:
    items = m.items()
    if len(items) % 2:
        raise Refused("a key without a value")
    _check_keys(items[::2])
    return _expect(m, DICT, "items are set in something that is not a dict", pos)


def _setitem(m: Machine, pos: int) -> int:
    m.stack.pop()
    _check_keys([m.stack.pop()])
    return _expect(m, DICT, "an item is set in something that is not a dict", pos)


def _additems(m: Machine, pos: int) -> int:
    _check_keys(m.items())
    return _expect(m, SET, "items are added to something that is not a set", pos)


def _frozenset(m: Machine, pos: int) -> int:
    _check_keys(m.items())
    m.stack.append(OBJECT)
    return pos


def _check_keys(kinds: list[int]) -> None:
    # Hashing or comparing a tuple follows all that is in it, as often as it is repeated.
    if kinds and min(kinds) < ATOM:
        raise Refused("a key of a dict or an item of a set that is not a text, a number, bytes or None")


def _global(m: Machine, pos: int) -> int:
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    m.push_name(module, name)
    return pos


def _stack_global(m: Machine, pos: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    m.push_name(m.text(module), m.text(name))
    return pos


def _reduce(m: Machine, pos: int) -> int:
    arguments, called = m.stack.pop(), m.stack.pop()
    name = m.name(called, "a call (REDUCE)")
    if arguments != TUPLE:
        raise Refused(f"a call of {name!r} with arguments that are not a tuple")
    m.stack.append(_RESULTS.get(name, OBJECT))
    return pos


def _newobj(m: Machine, pos: int) -> int:
    arguments, called = m.stack.pop(), m.stack.pop()
    name = m.name(called, "an object (NEWOBJ)")
    if arguments != TUPLE:
        raise Refused(f"an object {name!r} with arguments that are not a tuple")
    m.stack.append(OBJECT)
    return pos


def _build(m: Machine, pos: int) -> int:
    m.stack.pop()
    m.calls += 1
    return _expect(m, OBJECT, "a state (BUILD) of something that is not an object", pos)


def _protocol(m: Machine, pos: int) -> int:
    protocol = m.number(pos, 1)
    if protocol > HIGHEST_PROTOCOL:
        raise Refused(f"pickle protocol {protocol}, where {HIGHEST_PROTOCOL} is the highest known")
    return pos + 1


def _frame(m: Machine, pos: int) -> int:
    m.skip(pos + 8, m.number(pos, 8), "a frame")
    return pos + 8


def _pop(m: Machine, pos: int) -> int:
    m.stack.pop()
    return pos


def _pop_mark(m: Machine, pos: int) -> int:
    m.items()
    return pos


def _duplicate(m: Machine, pos: int) -> int:
    m.stack.append(m.stack[-1])
    return pos


def _inst(m: Machine, pos: int) -> int:
    _global(m, pos)
    raise Refused("an object made by INST, which no dataset needs")


def _extension(size: int) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        raise Refused(
            f"extension code {m.number(pos, size)} (EXT{size}), a name that is hidden in a registry"
        )

    return handler


def _old(result: int | None, *, lines: int = 1, marked: bool = False) -> Handler:
    """An instruction of protocols 0 and 1, which hold numbers and texts as lines. Passed over, to see the rest."""

    def handler(m: Machine, pos: int) -> int:
        m.refused = m.refused or f"the instruction {opcode_name(m.data[pos - 1])} of pickle protocol 0"
        if marked:
            m.items()
        if result is not None:
            m.stack.append(result)
        return m.data.index(b"\n", pos) + 1 if lines else pos

    return handler


def _refuse(m: Machine, pos: int) -> NoReturn:
    raise Refused(f"the instruction {opcode_name(m.data[pos - 1])}, which no dataset needs")


# Bytes of instructions that push one number, True, False or None.
WIDTHS = [0] * 256
for _code, _width in {b"N": 1, b"\x88": 1, b"\x89": 1, b"K": 2, b"M": 3, b"J": 5, b"G": 9}.items():
    WIDTHS[_code[0]] = _width

_TABLE: dict[bytes, Handler] = {
    b"\x8c": _texts(1), b"X": _texts(4), b"\x8d": _texts(8), b"U": _texts(1), b"T": _texts(4),
    b"C": _bytes(1), b"B": _bytes(4), b"\x8e": _bytes(8), b"\x96": _bytearray,
    b"\x8a": _long(1), b"\x8b": _long(4),
    b"(": _mark, b"0": _pop, b"1": _pop_mark, b"2": _duplicate,
    b"q": _put(1), b"r": _put(4), b"h": _get(1), b"j": _get(4),
    b")": _empty(TUPLE), b"]": _empty(LIST), b"}": _empty(DICT), b"\x8f": _empty(SET),
    b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3), b"t": _tuple,
    b"a": _append, b"e": _appends, b"s": _setitem, b"u": _setitems, b"\x90": _additems, b"\x91": _frozenset,
    b"c": _global, b"\x93": _stack_global, b"R": _reduce, b"\x81": _newobj, b"b": _build,
    b"\x80": _protocol, b"\x95": _frame,
    b"I": _old(ATOM), b"L": _old(ATOM), b"F": _old(ATOM), b"S": _old(ATOM), b"V": _old(ATOM), b"p": _old(None),
    b"g": _old(OBJECT), b"l": _old(LIST, lines=0, marked=True), b"d": _old(DICT, lines=0, marked=True),
    b"i": _inst, b"\x82": _extension(1), b"\x83": _extension(2), b"\x84": _extension(4),
}  # fmt: skip
HANDLERS: list[Handler] = [_TABLE.get(bytes([code]), _refuse) for code in range(256)]
