"""Errors that say what happened, where, and what to do about it."""

from __future__ import annotations

__all__ = [
    "AtommlError",
    "CheckError",
    "ConfigError",
    "DataError",
    "ModelFileError",
    "SimulationError",
    "TrainingError",
    "UnsupportedError",
]


class AtommlError(Exception):
    """Base of every error that a user can cause and cure.

    Args:
        what: the problem in one sentence.
        where: the file, frame, key or step it was found in.
        fix: what the user can do.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if fix is not None:
            lines.append(f"  to do: {fix}")
        super().__init__("\n".join(lines))


class ConfigError(AtommlError):
    """A configuration file or option that cannot be used."""


class DataError(AtommlError):
    """A data file, a frame or a label that cannot be used."""


class ModelFileError(AtommlError):
    """A model file or checkpoint that is truncated, foreign or of an unknown version."""


class UnsupportedError(AtommlError):
    """A request outside what this model or build can do (an unknown element, a charge, a missing extra)."""


class SimulationError(AtommlError):
    """A simulation that must not go on (NaN, exploded, no cell)."""


class TrainingError(AtommlError):
    """A training that must not go on (diverged, no labels for a loss term, out of memory)."""


class CheckError(AtommlError):
    """A check that failed: exit code 1 on the command line."""
