"""What a pickle would do, found by following its instructions without carrying them out.

The scan keeps a stack and a memo of kinds instead of objects: a text, a number, a list, a name, the result of a
call. So it knows every name, also those put together from texts in the memo, and refuses what no record of a
dataset needs: names that are computed, calls of anything but a name, states of anything but the result of a call,
keys that are not plain, and all instructions that reach into the running program (extension codes, persistent ids,
buffers from outside). Sizes are compared to the bytes that are there before anyone makes room for them.
"""

from __future__ import annotations

import re
from collections.abc import Container
from functools import cache

from atomml.datasets.safe.pickle_limits import PickleLimits
from atomml.datasets.safe.pickle_opcodes import ATOM, HANDLERS, MEMOIZE, STOP, WIDTHS, Machine, Refused
from atomml.errors import DataError

__all__ = ["is_plain", "scan"]

_FIX = "do not read this file with other programs before you know where it comes from"


@cache
def _plain_run() -> re.Pattern[bytes]:
    """Instructions that make nothing but lists, dicts, short texts, numbers, True, False and None.

    Each alternative begins with another byte, so a match is the only way to divide the bytes into instructions.
    """
    short = "|".join(rf"\x{n:02x}[\s\S]{{{n}}}" for n in range(32))
    long = "|".join(rf"\x{n:02x}\x00\x00\x00[\s\S]{{{n}}}" for n in range(32))
    run = (
        rf"(?:[\x94(u}}\]easN\x88\x89]|\x8c(?:{short})|[Khq][\s\S]|G[\s\S]{{8}}|J[\s\S]{{4}}|M[\s\S]{{2}}"
        rf"|j[\s\S]{{4}}|r[\s\S]{{2}}[\x00-\x0f]\x00|X(?:{long}))*+"
    )
    return re.compile(run.encode())


def is_plain(data: bytes) -> bool:
    """Whether a pickle can make only lists, dicts, texts, numbers, True, False and None, and has no bad sizes.

    Such a pickle needs no `scan`: nothing in it can name, call or hash anything but texts and numbers. The
    memo numbers it writes are below 2^20. False does not mean that it is unsafe.
    """
    if len(data) < 3 or data[0] != 0x80 or data[1] > 5:
        return False
    run, pos, end = _plain_run(), 2, len(data)
    sizes = {0x95: 8, 0x8C: 1, 0x58: 4, 0x8D: 8}
    while (match := run.match(data, pos)) and (pos := match.end()) < end:
        size = sizes.get(data[pos])
        if size is None:
            return data[pos] == STOP and pos + 1 == end
        is_text, start = data[pos] != 0x95, pos + 1 + size
        length = int.from_bytes(data[pos + 1 : start], "little")
        if start + length > end:
            return False
        pos = start + length if is_text else start
    return False


def scan(
    data: bytes, *, where: str, allowed: Container[str] | None = None, limits: PickleLimits | None = None
) -> tuple[str, ...]:
    """Follow a pickle from its first byte to its last.

    Args:
        data: the pickle.
        where: file and record, for the error.
        allowed: names as ``"module name"``; None allows all.
        limits: bounds on the numbers of instructions and calls and on the nesting.

    Returns:
        The names, in order of first use, each once.

    Raises:
        DataError: damaged, beyond a limit, an instruction that is refused, or names that are not allowed, all
            of which are in the message.
    """
    machine, limits = Machine(data), limits or PickleLimits()
    try:
        _run(machine, limits)
        refused = machine.refused
    except Refused as error:
        refused = str(error)
    except (IndexError, ValueError):
        refused = "it is damaged: it ends too early or takes more from the stack than is there"
    names = tuple(dict.fromkeys(machine.names))
    if allowed is not None and (wrong := [name for name in names if name not in allowed]):
        shown = ", ".join(ascii(name.replace(" ", ".", 1)) for name in wrong[:20])
        raise DataError(f"the pickle names {shown}, which a dataset has no use for", where=where, fix=_FIX)
    if refused:
        named = f" (after it named {', '.join(map(ascii, names[-3:]))})" if names and allowed is None else ""
        raise DataError(f"the pickle is refused: {machine.refused or refused}{named}", where=where, fix=_FIX)
    return names


def _run(machine: Machine, limits: PickleLimits) -> None:
    data, stack, memo, marks = machine.data, machine.stack, machine.memo, machine.marks
    if len(data) > limits.n_bytes:
        raise Refused(f"{len(data):,} bytes, more than {limits.n_bytes:,}")
    pos = 0
    for _ in range(limits.n_opcodes):
        code = data[pos]
        if width := WIDTHS[code]:
            stack.append(ATOM)
            pos += width
        elif code == MEMOIZE:
            memo[len(memo)] = stack[-1]
            pos += 1
        elif code == STOP:
            return _finish(machine, pos + 1)
        else:
            pos = HANDLERS[code](machine, pos + 1)
            if len(marks) > limits.depth:
                raise Refused(f"more than {limits.depth} levels of nesting at byte {pos:,}")
            if machine.calls > limits.n_calls:
                raise Refused(f"more than {limits.n_calls:,} objects that are built from names")
    raise Refused(f"more than {limits.n_opcodes:,} instructions")


def _finish(machine: Machine, pos: int) -> None:
    if pos != len(machine.data):
        raise Refused(f"{len(machine.data) - pos:,} bytes follow its end")
    if len(machine.stack) != 1 or machine.marks:
        raise Refused("it is damaged: not exactly one value is left at its end")
