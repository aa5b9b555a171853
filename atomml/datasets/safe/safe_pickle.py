"""Foreign pickles as plain values, without executing, importing or calling anything that they name.

Three steps (docs/adr/0009-foreign-pickles.md): a scan of the instructions refuses names and sizes before anything
is made; an unpickler that knows inert records only builds what is left; the records are read as tensors, arrays
and mappings with every type and size checked. torch and torch_geometric are not imported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pickle import Unpickler
from typing import Any, NoReturn

from atomml.datasets.safe.pickle_limits import PickleLimits
from atomml.datasets.safe.pickle_records import ALLOWED, Record
from atomml.datasets.safe.pickle_scan import is_plain, scan
from atomml.datasets.safe.pickle_values import Values
from atomml.errors import DataError

__all__ = ["PickleLimits", "load_pickle", "scan_pickle"]

_FRAMED = 4  # from this protocol on, pickles are read in large pieces


class _Inert(Unpickler):
    """Of all names only those of a table, which stand for records; of persistent objects none."""

    def __init__(self, source: Any, table: Mapping[str, type[Record]]) -> None:
        super().__init__(source)
        self._table = table

    def find_class(self, module: str, name: str) -> type[Record]:
        if (kind := self._table.get(f"{module} {name}")) is None:
            raise DataError(f"the pickle names {module!a}.{name!a}, which a dataset has no use for")
        return kind

    def persistent_load(self, pid: object) -> NoReturn:
        raise DataError("the pickle refers to an object outside of it (persistent id)")


def scan_pickle(data: bytes, *, where: str) -> list[str]:
    """The names in a pickle as ``"module name"``, in order of first use, found without executing anything.

    Raises:
        DataError: the pickle is damaged, or holds an instruction that `load_pickle` refuses for any choice.
    """
    return list(scan(data, where=where))


def load_pickle(
    data: bytes, *, where: str, allow: str = "builtins", limits: PickleLimits | None = None
) -> Any:
    """The plain value of one pickle of protocol 2 to 5.

    Args:
        data: the pickle, whole and nothing else.
        where: file and record, for the error.
        allow: ``"builtins"`` for dict, list, tuple, set, frozenset, OrderedDict (as dict), str, bytes, bytearray,
            int, float, bool and None; ``"numpy"`` for numpy's numbers and numeric arrays too; ``"pyg"`` also for
            tensors of torch, as numpy arrays (bfloat16 as float32), and `Data` objects of torch_geometric (of
            versions 1, 2.0, and 2.1 and later), as dicts of their attributes that are not None.
        limits: bounds; by default those of `PickleLimits`.

    Returns:
        The value: no cycles, arrays in little-endian order with their own memory.

    Raises:
        DataError: a name that is not allowed, a damaged pickle, a limit, sizes that do not agree. Nothing of
            the pickle has been executed.
    """
    if allow not in ALLOWED:
        raise ValueError(f"allow must be one of {', '.join(ALLOWED)}")
    limits, table = limits or PickleLimits(), ALLOWED[allow]
    if _needs_scan(data, limits):
        scan(data, where=where, allowed=table, limits=limits)
    try:
        return Values(limits, len(data)).value(_Inert(_source(data), table).load())
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    except Exception as error:  # all that damaged bytes cause, whatever Python's version
        scan(data, where=where, allowed=table, limits=limits)  # says more, if it was not needed before
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"the pickle is damaged: {reason!a}", where=where, fix="get the file again") from None


def _needs_scan(data: bytes, limits: PickleLimits) -> bool:
    """Whether a pickle may make anything but plain values, or more of them than the limits allow for sure."""
    if len(data) > min(limits.n_bytes, 8 * limits.n_opcodes):
        return True
    most_containers = data.count(b"}") + data.count(b"]")
    return most_containers > limits.n_opcodes or not is_plain(data)


def _source(data: bytes) -> Any:
    source = io.BytesIO(data)
    return source if data[1] >= _FRAMED else io.BufferedReader(source, buffer_size=len(data))  # type: ignore[type-var]
