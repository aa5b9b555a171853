"""Reader of parquet files: AQVolt26, LeMat, ColabFit and any other with one structure per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from atomml.config import Config
from atomml.datasets.aqvolt26 import dataset_facts, with_max_force
from atomml.datasets.readers.labelled import check_stress_sign
from atomml.datasets.readers.parquet.batches import BatchAccount, batch_store
from atomml.datasets.readers.parquet.labels import StressRules, check_stress_rules
from atomml.datasets.readers.parquet.schema import Roles, find_roles
from atomml.datasets.readers.parquet.tags import JSON_TEXT, tag_fields
from atomml.datasets.readers.reader import PIECE_FRAMES, UNITS, Piece, Reader
from atomml.datasets.store import FrameStore, concatenate
from atomml.errors import DataError

__all__ = ["READER", "ParquetOptions"]

SUFFIX = ".parquet"
MAGIC = b"PAR1"
COLABFIT_ROWS, COLABFIT_OTHERS = "co", ("cs", "cs_co_map", "ds", "ds.parquet")
LARGEST_GROUP = 1 << 36  # bytes that a row group may state for itself
FOOTER = 1 << 28  # bytes of metadata that are parsed
ROLES = ("structure", "positions", "numbers", "cell", "pbc", "energy", "forces", "stress", "id")


class ParquetOptions(Config):
    """Options of parquet files.

    Columns are found by name and type; every one can be stated. A dot leads into a struct: ``atoms.positions``.
    """

    structure: str | None = None
    """Column of whole structures: pymatgen's ``Structure.as_dict()`` as a struct or as JSON text, or a struct or
    JSON text with ASE's ``numbers``, ``positions``, ``cell`` and ``pbc``."""
    positions: str | None = None
    """Column of cartesian positions, as lists of three numbers per atom or one flat list."""
    numbers: str | None = None
    """Column of atomic numbers or of chemical symbols."""
    cell: str | None = None
    """Column of lattice vectors, 3×3 or nine numbers."""
    pbc: str | None = None
    """Column of the periodic directions: three flags (or OPTIMADE's ``dimension_types``), or one flag."""
    periodic: bool | None = None
    """Whether frames with a cell are periodic, where no column says it."""
    energy: str | None = None
    """Column of total energies; ``ignore`` to leave them out."""
    forces: str | None = None
    """Column of forces; ``ignore`` to leave them out."""
    stress: str | None = None
    """Column of stresses; ``ignore`` to leave them out."""
    id: str | None = None
    """Column of names of the frames; without it they are named by file and row."""
    energy_unit: Literal["eV", "Hartree", "Ry", "kcal/mol", "kJ/mol"] = "eV"
    """Unit of the energies; forces are in this unit per length unit."""
    length_unit: Literal["Ang", "Bohr", "nm"] = "Ang"
    """Unit of positions and cell."""
    stress_unit: Literal["eV/A^3", "GPa", "kbar", "eV"] | None = None
    """Unit of the stress, which has to be stated if there is one; ``eV`` for a virial, which is divided by the
    volume."""
    stress_sign: Literal["ase", "pressure"] | None = None
    """Sign of the stress, which has to be stated if there is one. ``ase``: σ = (1/V) ∂E/∂ε, negative in a
    compressed crystal; ``pressure``: the opposite, as VASP prints it."""
    stress_order: Literal["voigt", "vasp"] | None = None
    """Order of six numbers of stress, which has to be stated if there are such: ``voigt`` xx yy zz yz xz xy,
    ``vasp`` xx yy zz xy yz zx."""
    check_stress_sign: bool = True
    """Refuse a stress that plainly follows the volume with the wrong sign."""
    tags: tuple[str, ...] | None = None
    """Scalar columns to keep as tags (dotted inside of structs); all of them if not given."""
    nan_is_absent: bool = False
    """Treat a label that is NaN as one that the row lacks; otherwise it is an error. A null is always absent."""
    on_error: Literal["raise", "skip"] = "raise"
    """What a row that cannot be used does: stop, or be skipped and counted."""
    dataset: Literal["other", "aqvolt26"] = "other"
    """A data set whose licence and level of theory are known, for ``info``. AQVolt26 also gets the tag ``fmax``
    from its forces where the column is missing."""
    level_of_theory: str = ""
    """As it should stand in ``info``."""
    licence: str = ""
    """As it should stand in ``info``."""

    @property
    def stress_rules(self) -> StressRules:
        """What is stated about the stress."""
        return StressRules(self.stress_unit, self.stress_sign, self.stress_order)


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any(next(folder.glob(f"*{SUFFIX}"), None) for folder in (path, path / COLABFIT_ROWS))
    if not path.name.endswith(SUFFIX):
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _files(path: Path) -> list[Path]:
    """The files with rows in a folder; of a ColabFit data set those in ``co``."""
    if not path.is_dir():
        return [path]
    rows = path / COLABFIT_ROWS
    files = sorted((rows if rows.is_dir() else path).rglob(f"*{SUFFIX}"))
    if not files:
        raise DataError(f"The folder has no files *{SUFFIX}.", where=str(path), fix="check the path")
    return files


def _pieces(paths: Sequence[Path], options: ParquetOptions) -> list[Piece]:
    """Row groups, several where they are small; a file whose columns are not clear is refused already here."""
    pieces: list[Piece] = []
    for file in (file for path in paths for file in _files(path)):
        with _opened(file) as parquet:
            _roles(parquet, options, str(file))
            counts = [_group_rows(parquet, k, file) for k in range(parquet.num_row_groups)]
        first = start = rows = 0
        for k, n in enumerate(counts):
            if rows and rows + n > PIECE_FRAMES:
                pieces.append(Piece(file, start, k, first=first))
                first, start, rows = first + rows, k, 0
            rows += n
        pieces.append(Piece(file, start, len(counts), first=first))
    return pieces


def _group_rows(parquet: Any, k: int, file: Path) -> int:
    group = parquet.metadata.row_group(k)
    if not (0 <= group.num_rows < 1 << 40 and 0 <= group.total_byte_size < LARGEST_GROUP):
        raise DataError(
            f"Row group {k} states {group.num_rows} rows in {group.total_byte_size} bytes.",
            where=str(file),
            fix="the file is damaged, or write it with smaller row groups",
        )
    return int(group.num_rows)


def _roles(parquet: Any, options: ParquetOptions, where: str) -> Roles:
    roles = find_roles(parquet.schema_arrow, {role: getattr(options, role) for role in ROLES}, where)
    check_stress_rules(roles, options.stress_rules, where)
    return roles


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A parquet file; whatever pyarrow finds wrong with it becomes a `DataError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            file, thrift_string_size_limit=FOOTER, thrift_container_size_limit=FOOTER // 16
        ) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, UnicodeError) as error:
        raise DataError(
            f"The parquet file cannot be read ({type(error).__name__}: {str(error)[:300]}).",
            where=str(file),
            fix="it is damaged or incomplete: get it again",
        ) from error


def _read(piece: Piece, options: ParquetOptions) -> FrameStore:
    account = BatchAccount()
    stores: list[FrameStore] = []
    with _opened(piece.path) as parquet:
        roles = _roles(parquet, options, str(piece.path))
        groups = range(piece.start, parquet.num_row_groups if piece.stop is None else piece.stop)
        names = _columns_to_read(parquet.schema_arrow, roles, options, account)
        row = piece.first
        batches = parquet.iter_batches(PIECE_FRAMES, row_groups=groups, columns=names, use_threads=False)
        for batch in batches if len(groups) else ():
            stores.append(batch_store(batch, row, roles, options, account, piece.path))
            row += batch.num_rows
        if not stores:
            empty = parquet.schema_arrow.empty_table()
            stores.append(batch_store(empty, row, roles, options, account, piece.path))
    store = replace(concatenate(stores), info={})
    if options.check_stress_sign and roles.stress is not None:
        check_stress_sign(store, str(options.stress_sign), str(piece))
    if options.dataset == "aqvolt26":
        store = with_max_force(store)
    store.info.update(_info(piece, roles, options, account))
    return store


def _columns_to_read(schema: Any, roles: Roles, options: ParquetOptions, account: BatchAccount) -> list[str]:
    """Top-level columns of the parts and of possible tags; the names of the others are noted."""
    used = {name if name in schema.names else name.split(".")[0] for name in roles.columns().values()}
    used |= {"lattice"} if roles.sites else set()
    keep: list[str] = []
    for name in schema.names:
        inner = list(tag_fields(schema.field(name).type, name))
        wanted = [key for key, is_tag in inner if is_tag and (options.tags is None or key in options.tags)]
        text = name == JSON_TEXT
        if name in used or wanted or text:
            keep.append(name)
        if name not in used:
            account.unread_columns.update(
                key for key, _ in inner if key not in wanted and not (text and key == name)
            )
    return keep


def _info(piece: Piece, roles: Roles, options: ParquetOptions, account: BatchAccount) -> dict[str, Any]:
    facts = dataset_facts(options.dataset)
    others = []
    if piece.path.parent.name == COLABFIT_ROWS:
        folder = piece.path.parent.parent
        others = [name for name in COLABFIT_OTHERS if (folder / name).exists()]
    info = {
        "source": piece.path.name,
        "units": dict(UNITS),
        "columns": roles.columns(),
        "labels": account.labels(roles),
        "stated": options.model_dump(mode="json", exclude_defaults=True),
        "stress_sign": options.stress_sign if roles.stress else None,
        "licence": options.licence or facts.get("licence", ""),
        "level_of_theory": options.level_of_theory or facts.get("level_of_theory", ""),
        "not_read": account.not_read(),
        "ignored_files": others,
        "skipped": account.skipped,
    }
    return {key: value for key, value in info.items() if value not in ("", {}, [], None)}


READER = Reader(
    name="parquet",
    about="parquet files *.parquet with one structure per row (AQVolt26, LeMat, ColabFit), folders of them",
    options=ParquetOptions,
    recognises=_recognises,
    pieces=_pieces,
    read=_read,
)
