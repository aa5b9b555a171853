"""Files of generated crystals: rows and structures that survive a kill, CIFs, a picture, and how to read them."""

from __future__ import annotations

from atomml.crystals.outputs.cif import write_cif, write_cifs
from atomml.crystals.outputs.folder import iterate_generated, read_generated, read_records
from atomml.crystals.outputs.journal import Journal
from atomml.crystals.outputs.sheet import contact_sheet, write_sheet

__all__ = [
    "Journal",
    "contact_sheet",
    "iterate_generated",
    "read_generated",
    "read_records",
    "write_cif",
    "write_cifs",
    "write_sheet",
]
