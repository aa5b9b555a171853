"""What the journal was begun with, and what may be changed when it goes on."""

from __future__ import annotations

from typing import Any

from atomml.active.config import ActiveConfig, parse_resolved
from atomml.active.history import total
from atomml.active.journal import Journal
from atomml.errors import ConfigError
from atomml.training.checkpoint import differences

__all__ = ["agree", "recorded_settings"]

FREE = ("explore", "gate", "select", "label", "stop", "workers", "figures")
"""Groups that decide only what is still to come; what is finished stays as it is."""


def agree(journal: Journal, config: ActiveConfig) -> dict[str, tuple[Any, Any]]:
    """Write down the settings, or how they have changed since; returns what has changed, by key.

    Raises:
        ConfigError: a change of what finished rounds were made with, or of the calculator of existing labels.
    """
    now = config.model_dump(mode="json")
    before = recorded_settings(journal)
    if before is None:
        journal.append(0, "settings", {"settings": now | {"run_dir": ""}})
        return {}
    changed = differences(before, now | {"run_dir": ""})
    if not changed:
        return {}
    refused = [key for key in changed if key.split(".")[0] not in FREE]
    if total(journal.records, "labelled"):
        refused += [key for key in changed if key.startswith("label.calculator")]
    if refused:
        lines = "\n".join(
            f"    - {key}: {changed[key][0]!r} then, {changed[key][1]!r} now" for key in refused
        )
        raise ConfigError(
            f"What is finished was made with other settings:\n{lines}",
            where=str(journal.folder),
            fix="undo these changes, or start in another run_dir; explore, gate, select, stop, workers, figures and "
            "label (but not its calculator once there are labels) may be changed for what is still to come",
        )
    changes = {key: list(pair) for key, pair in changed.items()}
    round_ = journal.records[-1]["round"]
    journal.append(round_, "settings", {"settings": now | {"run_dir": ""}, "changed": changes})
    return changed


def recorded_settings(journal: Journal) -> dict[str, Any] | None:
    """The last settings in the journal; None for a new one."""
    found = [r["facts"]["settings"] for r in journal.records if r["step"] == "settings"]
    if not found:
        return None
    # of an earlier version without some key: with the default of that key
    settings = parse_resolved(found[-1] | {"run_dir": "unused"}).model_dump(mode="json")
    return settings | {"run_dir": ""}
