"""Documents of a JSON file larger than memory: where each begins and ends, found without parsing it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from atomml.errors import DataError
from atomml.shapes import ndarray

__all__ = ["CHUNK", "Document", "documents"]

CHUNK = 1 << 20  # bytes scanned at once: small enough for the cache
LARGEST_DOCUMENT = 256 << 20
LONGEST_GAP = 1 << 20
TOKEN = re.compile(rb'\s+|[{}\[\],:]|"(?:[^"\\]|\\.)*"', re.DOTALL)
KEY_GAP = re.compile(rb'\s*,\s*"([^"\\]*)"\s*:\s*')
NEXT_GAP = re.compile(rb"\s*,\s*")
QUOTE, BACKSLASH, OPEN, CLOSE = 0x22, 0x5C, 0x7B, 0x7D  # [ and ] become { and } with the bit 0x20


class Document(NamedTuple):
    """One document of a file.

    Attributes:
        start, stop: bytes of the file.
        keys: the keys that lead to it; none in an array.
        item: where the item of the outermost array or object begins that holds it (its key, if it has one).
        data: its bytes; empty if they were not asked for.
    """

    start: int
    stop: int
    keys: tuple[str, ...]
    item: int
    data: bytes = b""


def documents(
    read: Callable[[int], bytes],
    *,
    level: int,
    container: str,
    where: str,
    first: int = 0,
    length: int | None = None,
    data: bool = False,
) -> Iterator[Document]:
    """The documents (objects) of an array or object of any length, in constant memory.

    Args:
        read: the next bytes of the file, at most so many; none at its end.
        level: nested containers around a document: 1 in ``[doc, ...]``, 2 in ``{a: {b: doc}}``.
        container: "[" or "{", which all of them have to be.
        where: the file, for messages.
        first: byte of the file at which ``read`` begins: 0, or where an item of the outermost container begins.
        length: read only so many bytes, up to where another item begins; None for all that follow.
        data: also yield the bytes of each document.

    Raises:
        DataError: not such a container, truncated, unbalanced, or with something else inside or behind it.
            The content of a document is not looked at.
    """
    outline = _Outline(level, container, where)
    scanner = _Scanner(level, where)
    if first > 0:
        outline.text(container.encode(), first - 1)
        scanner.boundaries(container.encode(), first - 1)
    begun: int | None = None  # byte at which the open document begins
    pieces: list[bytes] = []
    offset = first
    for chunk in _chunks(read, length):
        done = 0
        for position, opens in scanner.boundaries(chunk, offset):
            if opens:
                outline.text(chunk[done:position], offset + done)
                outline.document(offset + position, chunk[position])
                begun, done = offset + position, position
            elif begun is not None:
                if data:
                    pieces.append(chunk[done : position + 1])
                content = b"".join(pieces)
                pieces.clear()
                yield Document(begun, offset + position + 1, outline.keys, outline.item, content)
                begun, done = None, position + 1
        if begun is None:
            outline.text(chunk[done:], offset + done)
        elif offset + len(chunk) - begun > LARGEST_DOCUMENT:
            raise DataError(
                f"A document is larger than {LARGEST_DOCUMENT >> 20} MiB, or a bracket in it is not closed.",
                where=f"{where}, byte {begun}",
                fix="the file is damaged here or not of this format",
            )
        elif data:
            pieces.append(chunk[done:])
        offset += len(chunk)
    if begun is not None:
        outline.count -= 1
    outline.end(offset, partial=length is not None)


def _chunks(read: Callable[[int], bytes], length: int | None) -> Iterator[bytes]:
    left = length
    while left is None or left > 0:
        chunk = read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk


class _Scanner:
    """Where documents open and close: brackets outside strings, counted chunk by chunk."""

    def __init__(self, level: int, where: str) -> None:
        self.level, self.where = level, where
        self.depth = 0
        self.in_string = False
        self.escaped = False  # the next chunk begins behind a backslash that escapes

    def boundaries(self, chunk: bytes, offset: int) -> list[tuple[int, bool]]:
        """(position in the chunk, whether a document opens or closes there), ascending."""
        bytes_ = np.frombuffer(chunk, dtype=np.uint8)
        folded = bytes_ | 0x20
        marks = np.flatnonzero((folded == OPEN) | (folded == CLOSE) | (bytes_ == QUOTE))
        codes = folded[marks]
        quotes = codes == QUOTE  # which has the bit 0x20 already
        if self.escaped or b"\\" in chunk:
            quotes &= ~self._escaped_at(bytes_)[marks]
        inside = np.logical_xor.accumulate(quotes) ^ self.in_string
        if len(inside):
            self.in_string = bool(inside[-1])
        outside = (codes != QUOTE) & ~inside
        marks, steps = marks[outside], np.where(codes[outside] == OPEN, 1, -1)
        depth = self.depth + np.cumsum(steps)
        if not len(depth):
            return []
        self.depth = int(depth[-1])
        opens = (steps == 1) & (depth == self.level + 1)
        found = opens | ((steps == -1) & (depth == self.level))
        if depth.min() < 0:
            position = int(marks[int(np.argmax(depth < 0))])
            raise DataError(
                "A bracket is closed that was never opened.",
                where=f"{self.where}, byte {offset + position}",
                fix="the file is damaged or not JSON",
            )
        return list(zip(marks[found].tolist(), opens[found].tolist(), strict=True))

    def _escaped_at(self, chunk: ndarray) -> ndarray:
        """Which bytes are behind an odd number of backslashes."""
        backslash = chunk == BACKSLASH
        escaped = np.zeros(len(chunk) + 1, dtype=bool)
        positions = np.flatnonzero(backslash)
        if len(positions):
            starts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
            run_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(positions))))
            place = positions - positions[starts][run_of]  # of the backslash in its run
            carried = self.escaped & (positions[starts][run_of] == 0)  # the first one is escaped itself
            escaped[positions[(place + carried) % 2 == 0] + 1] = True
        escaped[0] = self.escaped
        self.escaped = bool(escaped[-1])
        return escaped[:-1]


class _Outline:
    """The text around the documents, checked as JSON; it knows the keys that lead to the next document."""

    def __init__(self, level: int, container: str, where: str) -> None:
        self.level, self.where = level, where
        self.array = container == "["
        self.opener, self.closer = (b"[", b"]") if self.array else (b"{", b"}")
        self.depth, self.state = 0, "value"  # or "key or end", "key", "colon", "value or end", "next"
        self.path: list[str] = []
        self.keys: tuple[str, ...] = ()
        self.item = 0
        self.count = 0
        self.pending, self.pending_at = b"", 0

    def text(self, part: bytes, offset: int) -> None:
        """Text that follows the last text or document."""
        if not part:
            return
        if self.pending:
            self.pending += part
        else:
            self.pending, self.pending_at = part, offset
        if self.depth == 0 and self.state == "end" and not self.pending.strip():
            self.pending = b""
        if len(self.pending) > LONGEST_GAP:
            raise DataError(
                f"There is more than {LONGEST_GAP >> 20} MiB of text that is not a document.",
                where=f"{self.where}, byte {self.pending_at}, after {self.count} documents",
                fix="the file is damaged or not of this format",
            )

    def document(self, offset: int, opener: int) -> None:
        """A document begins."""
        if opener != OPEN:
            raise DataError(
                f"Item {self.count} (counting from 0) is an array and not a document.",
                where=f"{self.where}, byte {offset}",
                fix="the file is not of this format",
            )
        if not self._usual():
            self._tokens()
        if self.depth != self.level or self.state not in ("value", "value or end"):
            self._refuse(len(self.pending), b"{")
        if self.array and self.level == 1:
            self.item = offset
        self.keys = tuple(self.path)
        self.pending, self.state = b"", "next"
        self.count += 1

    def end(self, offset: int, *, partial: bool) -> None:
        """The file is over, or a part of it that ends where another item begins."""
        if self.pending:
            self._tokens()
        over = self.depth == 1 and self.state == ("value" if self.array else "key")
        if not (over if partial else self.state == "end"):
            what = "The file is empty." if offset == 0 else "The JSON ends before its brackets are closed."
            raise DataError(
                what,
                where=f"{self.where}, byte {offset}, after {self.count} documents",
                fix="it is truncated: fetch it again",
            )

    def _usual(self) -> bool:
        """The usual text between two documents of one container, without tokens."""
        if self.state != "next" or self.depth != self.level:
            return False
        if self.array:
            usual = NEXT_GAP.fullmatch(self.pending) is not None
        else:
            match = KEY_GAP.fullmatch(self.pending)
            usual = match is not None
            if match is not None:
                self.path[-1] = self._key(match[1], match.start(1))
                if self.level == 1:
                    self.item = self.pending_at + match.start(1) - 1
        if usual:
            self.state = "value"
        return usual

    def _tokens(self) -> None:
        text, position = self.pending, 0
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None or not (match[0].isspace() or self._step(match[0], self.pending_at + position)):
                self._refuse(position, text[position : position + 30])
            else:
                position = match.end()
        self.pending = b""

    def _step(self, token: bytes, offset: int) -> bool:
        """One token; whether it may stand here."""
        opens = "value or end" if self.array else "key or end"
        if token == self.opener and self.state in ("value", "value or end") and self.depth < self.level:
            if self.array and self.depth == 1:
                self.item = offset
            self.depth, self.state = self.depth + 1, opens
            self.path += [] if self.array else [""]
        elif token == self.closer and self.state in (opens, "next"):
            self.depth -= 1
            self.path = self.path[: self.depth]
            self.state = "next" if self.depth else "end"
        elif token == b"," and self.state == "next":
            self.state = "value" if self.array else "key"
        elif token == b":" and self.state == "colon":
            self.state = "value"
        elif token[:1] == b'"' and self.state in ("key", "key or end"):
            if self.depth == 1:
                self.item = offset
            self.path[-1] = self._key(token[1:-1], offset - self.pending_at)
            self.state = "colon"
        else:
            return False
        return True

    def _key(self, raw: bytes, position: int) -> str:
        try:
            return json.loads(b'"' + raw + b'"') if b"\\" in raw else raw.decode("utf-8")
        except ValueError as error:
            raise DataError(
                f"A key is not text ({error}).",
                where=f"{self.where}, byte {self.pending_at + position}",
                fix="the file is damaged or not of this format",
            ) from error

    def _refuse(self, position: int, found: bytes) -> None:
        expected = {
            "end": "the end of the file",
            "next": "a comma or a closing bracket",
            "colon": "a colon",
            "key": "a key",
            "key or end": "a key or a closing bracket",
        }.get(self.state, "an array or object" if self.depth < self.level else "a document")
        raise DataError(
            f"After {self.count} documents there should be {expected}, not "
            f"{found[:30].decode('utf-8', 'replace')!r}.",
            where=f"{self.where}, byte {self.pending_at + position}",
            fix="the file is damaged or not of this format",
        )
