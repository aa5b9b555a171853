"""Public data sets that atomml reads: where they are, under which licence, and how they are downloaded.

The entries are ``atomml/assets/datasets/NAME.yaml``, part of the package, so that ``atomml data download`` works
where the repository is not at hand. ``data/NAME/dataset.yaml`` beside the card is a copy for readers of the
repository; a test compares the two byte by byte. Nothing here opens a connection: see `download`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import yaml
from pydantic import Field, model_validator

from atomml.config import Config, parse_config
from atomml.errors import DataError

__all__ = [
    "CatalogEntry",
    "Source",
    "catalog_entry",
    "catalog_names",
    "commands",
    "published_bytes",
    "select_sources",
]

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Source(Config):
    """A file of a data set at its official place."""

    part: str = Field(pattern=r"^[\w.]+$")
    """Short name of this file for ``--part``."""
    file: str = Field(pattern=r"^[\w.*-]+$")
    """Name of the file, or a pattern of names."""
    url: str | None = Field(default=None, pattern=r"^https://")
    """Address of the file."""
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository of data on Hugging Face that holds the file."""
    how: Literal["open", "gated", "manual"]
    """"open": anyone can fetch it; "gated": after accepting conditions; "manual": what there is has to be looked
    at first."""
    size: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?[KMGT]$")
    """As published, rounded (powers of 1024)."""
    unpacked: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?[KMGT]$")
    """Size after unpacking, as published."""
    bytes: int | None = Field(default=None, gt=0)
    """Exact size."""
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """As published."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """As published."""
    unpack: Literal["tar"] | None = None
    """How the file is unpacked."""
    convert: str | None = None
    """The command that makes a native store of it."""
    note: str | None = None
    """What to know before."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Source:
        if (self.url is None) == (self.hub is None):
            raise ValueError("a source has either url or hub")
        if self.how == "open" and (self.url is None or "*" in self.file):
            raise ValueError("an open source is one file with a url")
        return self


class CatalogEntry(Config):
    """What is known of a data set; "unknown" where it is not."""

    name: str
    """As in ``atomml data download NAME``."""
    version: int | str
    """Of the set."""
    description: str
    """One line."""
    home: str = Field(pattern=r"^https://")
    """The official page."""
    frames: int | str
    """How many, as published."""
    elements: tuple[str, ...] | str
    """Which, or how many."""
    labels: dict[str, int | str]
    """How many frames have each."""
    level_of_theory: str
    """What the labels were computed with."""
    units: str | dict[str, str]
    """Of the file or of the store, as said."""
    stress_sign: str
    """Of the file."""
    tags: tuple[str, ...]
    """Per-frame values."""
    group: str
    """Tag whose values have to stay together in a split."""
    held_out: str
    """Official division."""
    licence: str
    """Of the data, as far as it was found."""
    non_commercial: bool
    """Whether commercial use is excluded, or may be."""
    gated: bool
    """Whether conditions have to be accepted first."""
    citation: str
    """Papers to cite."""
    reader: str
    """As in ``atomml data convert --reader``."""
    options: dict[str, Any]
    """Of the reader."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Files."""


def catalog_names() -> list[str]:
    """Names of all entries."""
    found = (entry.name for entry in _folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def catalog_entry(name: str) -> CatalogEntry:
    """One entry.

    Raises:
        DataError: an unknown name.
        ConfigError: the file in the package is not as it should be.
    """
    names = catalog_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
        raise DataError(
            f"There is no data set {name!r} in the catalogue.",
            fix=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}",
        )
    file = _folder() / f"{name}.yaml"
    return parse_config(CatalogEntry, yaml.safe_load(file.read_text(encoding="utf-8")), where=str(file))


def _folder() -> Any:
    return files("atomml") / "assets" / "datasets"


def select_sources(entry: CatalogEntry, parts: Sequence[str]) -> list[Source]:
    """The sources named by ``parts``, all of them if none is named.

    Raises:
        DataError: an unknown part.
    """
    known = {source.part: source for source in entry.sources}
    for part in parts:
        if part not in known:
            near = difflib.get_close_matches(part.lower(), known, n=1)
            raise DataError(
                f"The data set {entry.name} has no part {part!r}.",
                fix=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}",
            )
    return [known[part] for part in parts] if parts else list(entry.sources)


def published_bytes(size: str | None) -> int | None:
    """Bytes of a published size such as "1.7G"; about, because it is rounded."""
    return None if size is None else int(float(size[:-1]) * UNITS[size[-1]])


def commands(source: Source, out: str) -> list[str]:
    """Shell commands that fetch, verify, unpack and convert one source.

    Args:
        source: of an entry.
        out: the folder for the file.
    """
    folder = PurePosixPath(out)
    path = shlex.quote(str(folder / source.file))
    if source.hub is not None:
        wanted = f"--include {shlex.quote(source.file)}" if "*" in source.file else shlex.quote(source.file)
        lines = [f"hf download {source.hub} {wanted} --repo-type dataset --local-dir {shlex.quote(out)}"]
    else:
        secure = "--proto '=https' --proto-redir '=https'"
        lines = [
            f"curl --fail --location --continue-at - {secure} --create-dirs -o {path} {_safe(source.url)}"
        ]
    for kind, digest in (("md5", source.md5), ("sha256", source.sha256)):
        if digest is not None:
            lines.append(f"echo {shlex.quote(f'{digest}  {folder / source.file}')} | {kind}sum --check")
    if source.unpack is not None:
        lines.append(f"tar -xf {path} -C {shlex.quote(out)}")
    if source.convert is not None:
        inside = "" if out in ("", ".") else f"cd {shlex.quote(out)} && "
        lines.append(inside + source.convert)
    return lines


def _safe(url: str | None) -> str:
    return shlex.quote(quote(url or "", safe=":/%?=&"))
