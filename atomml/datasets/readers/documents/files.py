"""JSON files of many documents as pieces: ranges of bytes of about 5000 documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from atomml.config import Config
from atomml.datasets.frame import Frame
from atomml.datasets.readers.documents.stream import Document, documents
from atomml.datasets.readers.labelled import check_stress_sign, convert_records, pack_in_batches
from atomml.datasets.readers.reader import PIECE_FRAMES, Piece
from atomml.datasets.safe.bounded import open_compressed, parse_json
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["JsonOptions", "begins_with", "json_pieces", "parsed", "read_documents"]

LARGEST_FILE = 1 << 42  # bytes after decompression; memory does not depend on it
PEEK = 1 << 20


class JsonOptions(Config):
    """Options of every reader of JSON documents."""

    stress_sign: Literal["pressure", "ase"] = "pressure"
    """"pressure" as VASP prints it (positive when compressed), or "ase". Refused if the frames of a piece
    plainly contradict it."""
    check_stress_sign: bool = True
    """Compare the sign with how the stress follows the volume, over compositions with five frames or more and
    100 frames together in a piece."""
    skip_bad: bool = False
    """Leave out documents that cannot be used, and count them, instead of stopping at the first."""


def json_pieces(paths: Sequence[Path], level: int, container: str) -> list[Piece]:
    """Ranges of bytes that begin at an item of the outermost container; a compressed file is one piece.

    Every plain file is scanned once, without parsing it.

    Raises:
        DataError: see `documents`; a file without documents.
    """
    pieces = []
    for path in paths:
        if path.suffix == ".gz":
            pieces.append(Piece(path))
            continue
        cuts, count, total = [(0, 0)], 0, 0
        with _open(path) as file:
            begun = 0
            for document in documents(file.read, level=level, container=container, where=str(path)):
                if document.item != begun and count >= PIECE_FRAMES:
                    cuts.append((document.item, total))
                    count = 0
                begun, count, total = document.item, count + 1, total + 1
        if total == 0:
            raise DataError("There are no documents in this file.", where=str(path), fix="fetch it again")
        ends = [start for start, _ in cuts[1:]] + [None]
        pieces += [
            Piece(path, start, stop, first=before) for (start, before), stop in zip(cuts, ends, strict=True)
        ]
    return pieces


def read_documents(
    piece: Piece,
    level: int,
    container: str,
    convert: Callable[[Document, str], Frame],
    info: dict[str, Any],
    options: JsonOptions,
) -> FrameStore:
    """The frames that ``convert`` makes of the documents of a piece.

    Raises:
        DataError: see `documents` and ``convert``; a stress of the wrong sign.
    """
    frames = convert_records(_located(piece, level, container), convert, skip_bad=options.skip_bad)
    store = pack_in_batches(frames, info, where=str(piece.path))
    if not options.check_stress_sign:
        return store
    return check_stress_sign(store, options.stress_sign, str(piece))


def _located(piece: Piece, level: int, container: str) -> Iterator[tuple[str, Document]]:
    path = str(piece.path)
    length = None if piece.stop is None else piece.stop - piece.start
    with _open(piece.path) as file:
        if piece.start:
            file.seek(piece.start)
        found = documents(
            file.read,
            level=level,
            container=container,
            where=path,
            first=piece.start,
            length=length,
            data=True,
        )
        for number, document in enumerate(found, piece.first):
            name = f" ({' '.join(document.keys)})" if document.keys else ""
            yield f"{path}, document {number}{name} at byte {document.start}", document


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return open_compressed(path, limit=LARGEST_FILE, where=str(path))
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"The file cannot be opened ({error.strerror}).", where=str(path)) from error


def parsed(document: Document, where: str) -> dict[str, Any]:
    """A document as a dictionary.

    Raises:
        DataError: not JSON, NaN or infinite numbers, nested too deeply.
    """
    return parse_json(document.data, where=where)


def begins_with(path: Path, container: str, key: str) -> bool:
    """Whether a file is JSON of this kind: its first character, and ``"key"`` in its first MiB."""
    if not path.is_file() or not path.name.endswith((".json", ".json.gz")):
        return False
    try:
        with _open(path) as file:
            text = file.read(PEEK)
    except DataError:
        return False
    return text.lstrip()[:1] == container.encode() and f'"{key}"'.encode() in text
