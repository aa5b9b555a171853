"""Raw OC20: ``N.extxyz.xz`` with ``N.txt.xz``, and relaxations ``random<sid>.extxyz.xz`` with ``system.txt``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from atomml.datasets.frame import Frame, Skipped, Tag, check_frame
from atomml.datasets.packing import pack_frames
from atomml.datasets.readers.oc20.common import (
    LEVEL_OF_THEORY,
    LICENCE,
    FrameName,
    SystemOptions,
    counted_labels,
    files_of,
    finite,
    info_of,
    parse_frame_name,
    part_of,
)
from atomml.datasets.readers.oc20.extxyz import TextFrame, parse_block, text_blocks
from atomml.datasets.readers.oc20.systems import Systems, systems_of
from atomml.datasets.readers.reader import Piece, Reader
from atomml.datasets.safe.bounded import open_compressed
from atomml.datasets.store import FrameStore
from atomml.errors import DataError

__all__ = ["READER", "RawOptions"]

SUFFIXES = (".extxyz", ".extxyz.xz")
NAME_SUFFIXES = (".txt", ".txt.xz")
SYSTEM_FILES = ("system.txt", "system.txt.xz")
MOST_TEXT = 16 << 30  # bytes of an unpacked shard; the official ones have some 200 MB
MOST_NAMES = 256 << 20
_RUN = re.compile(r"random(\d{1,18})\.extxyz(?:\.xz)?")
_SYSTEM = re.compile(r"random(\d{1,18}),\s*([^,\s]+)")
UNREADABLE = "the frame or its name cannot be read"
BROKEN_END = "the file is damaged or truncated in this frame"
NO_FRAME = "the file ends before the frame of this line of the .txt"


class RawOptions(SystemOptions):
    """How raw shards are read."""

    energy: Literal["adsorption", "total"] = "adsorption"
    """``adsorption`` subtracts the reference energy (third column of the ``.txt``, ``system.txt``, or
    ``reference_pickle`` where that is stated); ``total`` keeps the energy of the calculation."""

    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a damaged frame or a truncated shard: an error, or skip what cannot be read and count it."""


class Names(NamedTuple):
    """Names of the frames of a file, and where they are said.

    Attributes:
        lines: one per frame; None for a relaxation, whose frames are numbered.
        sid, reference: of a relaxation.
        source: the file that says so.
    """

    lines: list[str] | None
    sid: int
    reference: float | None
    source: str

    def of(self, k: int) -> FrameName:
        """Name of frame k.

        Raises:
            DataError: beyond the last line, or a line of another grammar.
        """
        if self.lines is None:
            return FrameName(self.sid, k, self.reference)
        if k >= len(self.lines):
            raise DataError(
                f"The file has more frames than the {len(self.lines)} lines that name them.",
                where=f"frame {k} (counting from 0), {self.source}",
                fix="one of the two is damaged: get both again, or skip the frames (on_error: skip)",
            )
        return parse_frame_name(self.lines[k], f"{self.source}, line {k + 1}")


def _recognises(path: Path) -> bool:
    if not path.is_dir():
        return path.name.endswith(SUFFIXES) and _companion(path) is not None
    if any((path / name).is_file() for name in SYSTEM_FILES):
        return any(f.name.endswith(SUFFIXES) for f in islice(path.iterdir(), 100))
    shards = (f for f in path.iterdir() if f.name.endswith(SUFFIXES))
    return any(_companion(f) is not None for f in islice(shards, 1))


def _pieces(paths: Sequence[Path], options: RawOptions) -> list[Piece]:
    return [Piece(path) for path in files_of(paths, SUFFIXES)]


def _read(piece: Piece, options: RawOptions) -> FrameStore:
    path, skip = piece.path, options.on_error == "skip"
    systems, part = systems_of(options), part_of(piece.path)
    unused: Counter[str] = Counter()
    found = {"energy": Counter[str](), "forces": Counter[str]()}
    frames: list[Frame | Skipped] = []
    for item in _texts(path, _names(path), skip):
        if isinstance(item, Skipped):
            frames.append(item)
            continue
        name, text, where = item
        frame = _frame(name, text, options, systems, part, where)
        if skip and (problem := _problem(frame, where)):
            frames.append(Skipped(f"{where}: {problem}", UNREADABLE))
            continue
        frames.append(frame)
        unused.update(text.unused)
        found["energy"].update(["info:energy"] if text.energy is not None else [])
        found["forces"].update(["arrays:forces"] if text.forces is not None else [])
    info = info_of(
        path,
        level_of_theory=LEVEL_OF_THEORY,
        licence=LICENCE,
        labels=counted_labels(found, sum(isinstance(frame, Frame) for frame in frames)),
        stated=options.model_dump(exclude_none=True),
        not_read=dict(sorted(unused.items())),
        warnings=systems.warnings(path.name),
    )
    return pack_frames(frames, info, where=str(path))


def _texts(path: Path, names: Names, skip: bool) -> Iterator[tuple[FrameName, TextFrame, str] | Skipped]:
    """Name, content and place of every frame in the file; with ``skip``, what cannot be read as `Skipped`."""
    k = -1
    try:
        with open_compressed(path, limit=MOST_TEXT, where=str(path)) as stream:
            for k, block in enumerate(text_blocks(stream.read, str(path))):
                where = f"{path}, frame {k} (counting from 0)"
                try:
                    name = names.of(k)
                    text = parse_block(block, where)
                except DataError as error:
                    if not skip:
                        raise
                    yield Skipped(f"{error.where}: {error.what}", UNREADABLE)
                    continue
                yield name, text, where
    except DataError as error:
        if not skip:
            raise
        k += 1
        yield Skipped(f"{path}, frame {k} (counting from 0): {error.what}", BROKEN_END)
    for line in range(k + 1, len(names.lines or [])):
        where = f"{names.source}, line {line + 1}"
        if not skip:
            raise DataError(
                f"{path.name} has {k + 1} frames, {Path(names.source).name} has {len(names.lines or [])} lines.",
                where=where,
                fix="one of the two is truncated: get both again, or skip the rest (on_error: skip)",
            )
        yield Skipped(where, NO_FRAME)


def _problem(frame: Frame, where: str) -> str | None:
    try:
        check_frame(frame, where)
    except DataError as error:
        return error.what
    return None


def _frame(
    name: FrameName, text: TextFrame, options: RawOptions, systems: Systems, part: str | None, where: str
) -> Frame:
    reference = systems.reference(name.sid, where) if systems.has_references else name.reference
    energy = float("nan") if text.energy is None else text.energy
    if options.energy == "adsorption":
        if reference is None:
            raise DataError(
                f"There is no reference energy of random{name.sid}, so no adsorption energy.",
                where=where,
                fix="state energy: total to keep the energy of the calculation, or reference_pickle: the path "
                "of oc20_ref.pkl",
            )
        energy -= reference
    tags: dict[str, Tag] = {"sid": name.sid, "fid": name.fid}
    tags |= {} if reference is None else {"reference_energy": reference}
    tags |= {} if part is None else {"part": part}
    return Frame(
        text.numbers,
        text.positions,
        text.cell,
        text.pbc,
        energy,
        text.forces,
        id=str(name),
        tags=tags | systems.tags(name.sid),
        atom_tags=text.atom_tags,
        fixed=text.fixed,
    )


def _companion(path: Path) -> Path | None:
    """The ``.txt`` of a shard."""
    stem = path.name.removesuffix(".xz").removesuffix(".extxyz")
    return next((f for s in NAME_SUFFIXES if (f := path.with_name(stem + s)).is_file()), None)


def _names(path: Path) -> Names:
    companion = _companion(path)
    if companion is not None:
        lines = _text(companion).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        return Names(lines, 0, None, str(companion))
    match = _RUN.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"There is no {path.name.split('.')[0]}.txt or .txt.xz beside the shard.",
            where=str(path),
            fix="put it there: it names the frames",
        )
    sid = int(match.group(1))
    table = next((f for name in SYSTEM_FILES if (f := path.with_name(name)).is_file()), None)
    if table is None:
        return Names(None, sid, None, str(path))
    status = table.stat()
    references = _system_references(table, status.st_size, status.st_mtime_ns)
    return Names(None, sid, references.get(sid), str(table))


@lru_cache(maxsize=4)
def _system_references(table: Path, size: int, changed: int) -> dict[int, float]:
    """``system.txt``: reference energy (eV) by system."""
    references: dict[int, float] = {}
    for k, line in enumerate(_text(table).splitlines()):
        match = _SYSTEM.fullmatch(line.strip())
        if match is not None:
            references[int(match.group(1))] = finite(
                match.group(2), "reference energy", f"{table}, line {k + 1}"
            )
        elif line.strip() and k > 0:  # the first line may be a heading
            raise DataError(
                f"This line is not random<sid>,<reference energy>: {line[:60]!r}.",
                where=f"{table}, line {k + 1}",
                fix="use the system.txt that came with the trajectories",
            )
    return references


def _text(path: Path) -> str:
    with open_compressed(path, limit=MOST_NAMES, where=str(path)) as stream:
        data = stream.read()
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError("This is not a text file.", where=str(path), fix="get it again") from error


READER = Reader(
    name="oc20-raw",
    about="OC20 as downloaded: N.extxyz.xz with N.txt.xz, or random<sid>.extxyz.xz with system.txt",
    options=RawOptions,
    recognises=_recognises,
    pieces=_pieces,
    read=_read,
)
