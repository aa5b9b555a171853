"""Which columns of a parquet file are the structure and the labels: found by name and type, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from atomml.datasets.readers.parquet.columns import is_text
from atomml.errors import DataError

__all__ = ["IGNORE", "Roles", "find_roles", "type_at"]

IGNORE = "ignore"
NAMES: dict[str, tuple[str, ...]] = {
    "structure": ("structure", "atoms", "structure_dict", "pymatgen_structure"),
    "positions": ("positions", "cartesian_site_positions", "cart_coords", "pos"),
    "numbers": ("atomic_numbers", "numbers", "species_at_sites", "symbols", "species", "atomic_symbols"),
    "cell": ("cell", "lattice_vectors", "lattice", "lattice_matrix"),
    "pbc": ("pbc", "dimension_types"),
    "energy": ("energy", "total_energy", "uncorrected_total_energy"),
    "forces": ("forces", "atomic_forces", "force"),
    "stress": ("stress", "stresses", "cauchy_stress", "stress_tensor", "virial", "virials"),
    "sites": ("sites",),
}
WORDS = ("species", "lattice")  # if these are text, it is about something else
LABELS = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Roles:
    """Column of each part; a dot leads into a struct: ``atoms.positions``. None for a part that is not there.

    Attributes:
        structure: a pymatgen structure (struct or JSON text), or ASE's dictionary as JSON text.
        positions, numbers, cell, pbc: columns of their own, if there is no ``structure``.
        energy, forces, stress: labels.
        sites: the sites, if a pymatgen structure is spread over the columns ``lattice`` and ``sites``.
        id: name of the frame.
    """

    structure: str | None = None
    positions: str | None = None
    numbers: str | None = None
    cell: str | None = None
    pbc: str | None = None
    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    sites: str | None = None
    id: str | None = None

    def columns(self) -> dict[str, str]:
        """The parts that are there."""
        return {role: name for role, name in vars(self).items() if name is not None}


def find_roles(schema: Any, stated: Mapping[str, str | None], where: str) -> Roles:
    """The column of every part.

    Args:
        schema: of the file.
        stated: columns named by the user, by role; ``ignore`` for a label that is not to be read.
        where: file, for messages.

    Raises:
        DataError: a stated column that is not there, two columns for one part, no structure.
    """
    for role, name in stated.items():
        if name is not None and not (name == IGNORE and role in LABELS) and type_at(schema, name) is None:
            raise DataError(
                f"There is no column {name!r} for {role}.", where=where, fix=f"columns: {_listing(schema)}"
            )
    chosen: dict[str, str | None] = {"id": stated.get("id")}
    for label in LABELS:
        name = stated.get(label) or _only(label, _candidates(schema, label), where)
        chosen[label] = None if name == IGNORE else name
    return Roles(**_geometry(schema, stated, where), **chosen)


def type_at(schema: Any, name: str) -> Any:
    """Type of a column or, with dots, of a field inside of a struct; None if there is none."""
    import pyarrow as pa

    if name in schema.names:
        return schema.field(name).type
    head, _, rest = name.rpartition(".")
    parent = type_at(schema, head) if head else None
    if parent is None or not pa.types.is_struct(parent) or parent.get_field_index(rest) < 0:
        return None
    return parent.field(rest).type


def _geometry(schema: Any, stated: Mapping[str, str | None], where: str) -> dict[str, str | None]:
    parts = ("positions", "numbers", "cell", "pbc")
    given = {role: stated.get(role) for role in parts}
    whole = stated.get("structure")
    if whole is not None and any(given.values()):
        raise DataError("Both a structure column and columns for its parts are stated.", where=where)
    if whole is None and not any(given.values()):
        whole = _structure(schema, where)
    if whole is not None and not _is_ase_struct(type_at(schema, whole)):
        sites = _only("sites", _candidates(schema, "sites"), where) if whole == "lattice" else None
        return {"structure": whole, "sites": sites}
    prefix = "" if whole is None else f"{whole}."
    found: dict[str, str | None] = {}
    for role in parts:
        found[role] = given[role] or _only(role, _candidates(schema, role, prefix), where)
    lacking = [role for role in ("positions", "numbers") if found[role] is None]
    if lacking:
        raise DataError(
            f"No column is recognised as the {' or the '.join(lacking)} of the atoms.",
            where=where,
            fix=f"state {' and '.join(f'{role}=COLUMN' for role in lacking)}; columns: {_listing(schema)}",
        )
    return found


def _structure(schema: Any, where: str) -> str | None:
    """The column that holds whole structures, unless positions have columns of their own."""
    import pyarrow as pa

    whole = _candidates(schema, "structure")
    sites = _candidates(schema, "sites")
    if sites and "lattice" in schema.names and pa.types.is_struct(schema.field("lattice").type):
        whole.append("lattice")
    apart = _candidates(schema, "positions")
    if len(whole) + bool(apart) > 1:
        names = [*whole, *apart]
        raise DataError(
            f"Several columns could hold the structure: {', '.join(names)}.",
            where=where,
            fix=f"state one: structure={names[0]}, or positions=... with numbers=...",
        )
    return whole[0] if whole else None


def _candidates(schema: Any, role: str, prefix: str = "") -> list[str]:
    lower = {name.lower(): name for name in _fields(schema, prefix)}
    fits = FITS[role]
    found = []
    for name in NAMES[role]:
        kind = type_at(schema, prefix + lower[name]) if name in lower else None
        if kind is not None and fits(kind) and not (name in WORDS and is_text(kind)):
            found.append(lower[name])
    if role == "pbc" and len(found) > 1:
        found = found[:1]  # dimension_types says the same in OPTIMADE's words
    return [prefix + name for name in found]


def _fields(schema: Any, prefix: str) -> list[str]:
    if not prefix:
        return list(schema.names)
    kind = type_at(schema, prefix[:-1])
    return [kind.field(k).name for k in range(kind.num_fields)]


def _only(role: str, names: list[str], where: str) -> str | None:
    if len(names) > 1:
        extra = " (or `ignore`)" if role in LABELS else ""
        raise DataError(
            f"Several columns could be the {role}: {', '.join(names)}.",
            where=where,
            fix=f"state {role}=COLUMN{extra}",
        )
    return names[0] if names else None


def _is_ase_struct(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and kind.get_field_index("positions") >= 0


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _innermost(kind: Any) -> tuple[Any, int]:
    depth = 0
    while hasattr(kind, "value_type") and "list" in str(kind)[:20]:
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def _is_numbers(kind: Any) -> bool:
    inner, depth = _innermost(kind)
    return (depth > 0 and _is_number(inner)) or is_text(kind)


def _is_elements(kind: Any) -> bool:
    import pyarrow as pa

    inner, depth = _innermost(kind)
    if depth == 0:
        return is_text(kind)
    return depth == 1 and (
        pa.types.is_integer(inner) or is_text(inner) or bool(pa.types.is_dictionary(inner))
    )


def _is_flags(kind: Any) -> bool:
    import pyarrow as pa

    inner, depth = _innermost(kind)
    return (
        is_text(kind) or bool(pa.types.is_boolean(inner)) or (depth == 1 and bool(pa.types.is_integer(inner)))
    )


def _is_whole(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) or is_text(kind)


def _is_sites(kind: Any) -> bool:
    import pyarrow as pa

    inner, depth = _innermost(kind)
    return depth == 1 and bool(pa.types.is_struct(inner))


FITS: dict[str, Callable[[Any], bool]] = {
    "structure": _is_whole,
    "positions": _is_numbers,
    "numbers": _is_elements,
    "cell": _is_numbers,
    "pbc": _is_flags,
    "energy": _is_number,
    "forces": _is_numbers,
    "stress": _is_numbers,
    "sites": _is_sites,
}


def _listing(schema: Any) -> str:
    return ", ".join(f"{name} ({str(schema.field(name).type)[:40]})" for name in schema.names[:60])
