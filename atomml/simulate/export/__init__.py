"""Models in the formats of other programs."""

from atomml.simulate.export.metatomic import export_metatomic

__all__ = ["export_metatomic"]
