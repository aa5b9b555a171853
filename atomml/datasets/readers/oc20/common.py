"""What all files of OC20 and OC22 share: names of frames, of parts and of shards, and data about systems."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomml.config import Config
from atomml.datasets.readers.reader import UNITS
from atomml.errors import DataError

__all__ = [
    "LEVEL_OF_THEORY",
    "LICENCE",
    "OLD_PARTS",
    "PARTS",
    "FrameName",
    "SystemOptions",
    "counted_labels",
    "files_of",
    "info_of",
    "parse_frame_name",
    "part_of",
    "with_suffix",
]

LEVEL_OF_THEORY = "RPBE, plane waves up to 350 eV (VASP)"
LICENCE = "CC-BY-4.0"
OLD_PARTS = {
    f"{stage}_{old}": f"{stage}_{new}"
    for stage in ("val", "test")
    for old, new in (
        ("is", "id"),
        ("oos_ads", "ood_ads"),
        ("oos_bulk", "ood_cat"),
        ("oos_ads_bulk", "ood_both"),
    )
}
PARTS = frozenset({"train", "val_ood", "test_ood", "rattled", "md", *OLD_PARTS.values()})
_PART = re.compile(r"(?:s2ef_|is2res_|is2re_)?(.+?)(?:_(?:10k|100k|200k|2m|20m|all))?(?:_trajectories)?")
_NAME = re.compile(r"random(\d{1,18}),frame(\d{1,18})(?:,\s*([^,\s]+))?\s*")
_DIGITS = re.compile(r"\d+")


class SystemOptions(Config):
    """Tables about the systems (adsorbate, slab) that belong to OC20."""

    mapping: str | None = None
    """Path of ``oc20_data_mapping.pkl``: adds the tags bulk_id, bulk_mpid, bulk_symbols, ads_id, ads_symbols,
    miller_index, shift, top, class, anomaly and split (in today's names) to the frames of known systems."""

    reference_pickle: str | None = None
    """Path of ``oc20_ref.pkl``: the energy of slab and gas of every system, total minus adsorption energy."""


class FrameName(NamedTuple):
    """``random<sid>,frame<fid>[,reference]``.

    Attributes:
        sid: number of the system.
        fid: number of the frame in its relaxation or run.
        reference: energy of clean slab and gas, eV; None where the line has none.
    """

    sid: int
    fid: int
    reference: float | None = None

    def __str__(self) -> str:
        return f"random{self.sid},frame{self.fid}"


def parse_frame_name(line: str, where: str) -> FrameName:
    """One line of ``N.txt`` or ``data_log.N.txt``.

    Raises:
        DataError: another grammar, or a reference that is not a finite number.
    """
    match = _NAME.fullmatch(line)
    if match is None:
        raise DataError(
            f"This line is not random<sid>,frame<fid>[,reference energy]: {line[:60]!r}.",
            where=where,
            fix="use the .txt file that came with this shard",
        )
    sid, fid, reference = match.groups()
    return FrameName(
        int(sid), int(fid), None if reference is None else finite(reference, "reference energy", where)
    )


def finite(text: str | bytes, name: str, where: str) -> float:
    """A finite number from text.

    Raises:
        DataError: anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value - value != 0.0 or b"_" in (text.encode() if isinstance(text, str) else text):
        raise DataError(f"The {name} is not a finite number: {text[:40]!r}.", where=where)
    return value


def part_of(path: Path) -> str | None:
    """The official part that the folder of ``path`` is named after, as ``val_id``; None if it is not.

    ``s2ef_val_ood_cat``, ``s2ef_train_200K`` and ``is2res_train_trajectories`` give val_ood_cat, train, train.
    """
    match = _PART.fullmatch(path.parent.name.lower())
    name = match.group(1) if match else ""
    name = OLD_PARTS.get(name, name)
    return name if name in PARTS else None


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sorts ``2.txt`` before ``10.txt``."""
    text = str(path)
    numbers = tuple(int(n) if len(n) < 19 else 0 for n in _DIGITS.findall(text))
    return (_DIGITS.sub("0", text), numbers, text)


def files_of(paths: Sequence[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files themselves, and in their place those of each folder that end in ``suffixes``, sorted by name.

    A folder without any may have one inner folder with them, as the official archives have.

    Raises:
        DataError: a path that does not exist, a folder without such files or with several inner ones.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError("The data file does not exist.", where=str(path), fix="check the path")
        found += _in_folder(path, suffixes) if path.is_dir() else [path]
    return found


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = with_suffix(folder.iterdir(), suffixes)
    if files:
        return files
    inner = sorted(f for f in folder.iterdir() if f.is_dir() and with_suffix(f.iterdir(), suffixes))
    if len(inner) == 1:
        return with_suffix(inner[0].iterdir(), suffixes)
    names = ", ".join(f.name for f in inner[:10])
    raise DataError(
        f"The folder has no files *{', *'.join(suffixes)}"
        + (f", but {len(inner)} folders inside have." if inner else "."),
        where=str(folder),
        fix=f"name the folders that you want: {names}" if inner else "name the folder that has them",
    )


def with_suffix(files: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Those that end in one of ``suffixes``, numbers in numeric order."""
    return sorted((f for f in files if f.name.endswith(suffixes) and not f.is_dir()), key=natural_key)


def counted_labels(found: dict[str, Counter[str]], total: int) -> dict[str, dict[str, Any]]:
    """``info["labels"]`` from how often each key gave a label."""
    return {
        label: {"key": ", ".join(keys) or None, "found": sum(keys.values()), "of": total}
        for label, keys in found.items()
    }


def info_of(source: Path, **more: Any) -> dict[str, Any]:
    """``info`` of a store: the file's name, the units, and all of ``more`` that is not empty."""
    return {"source": source.name, "units": dict(UNITS)} | {
        key: value for key, value in more.items() if value not in (None, {}, [], ())
    }
