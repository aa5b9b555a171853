"""Labels of structures from reference calculators: by name, in processes here or elsewhere, kept for good."""

from __future__ import annotations

from atomml.labelling.cache import LabelCache, label_key
from atomml.labelling.config import LabellerConfig
from atomml.labelling.label import label_structures
from atomml.labelling.outcome import LabelOutcome

__all__ = ["LabelCache", "LabelOutcome", "LabellerConfig", "label_key", "label_structures"]
