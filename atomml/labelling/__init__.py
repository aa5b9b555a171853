"""Labels of structures from reference calculators: by name, in processes here or elsewhere, kept for good.

The names below are imported when first used: the processes that compute need few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomml.labelling.cache import LabelCache as LabelCache
    from atomml.labelling.cache import label_key as label_key
    from atomml.labelling.config import LabellerConfig as LabellerConfig
    from atomml.labelling.label import label_structures as label_structures
    from atomml.labelling.outcome import LabelOutcome as LabelOutcome

__all__ = ["LabelCache", "LabelOutcome", "LabellerConfig", "label_key", "label_structures"]

_HOMES = {
    "LabelCache": "cache",
    "LabelOutcome": "outcome",
    "LabellerConfig": "config",
    "label_key": "cache",
    "label_structures": "label",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
