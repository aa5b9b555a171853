"""The names that a foreign pickle may use, and the inert records that stand for them.

Nothing that a pickle names is imported or called. `REDUCE` and `NEWOBJ` on one of these classes note the
arguments, `BUILD` notes the state, once; what they mean is worked out afterwards, with all types checked
(`pickle_plain`, `pickle_arrays`, `torch_storage`). Making a record costs the same however large its arguments are,
so that no pickle can cause more work than it has instructions.
"""

from __future__ import annotations

from typing import Any, cast

from atomml.errors import DataError

__all__ = ["ALLOWED", "ALLOW_CHOICES", "Record", "named"]


class Record:
    """A name of the pickle with the arguments and the state it was given. Not hashable, without attributes."""

    __slots__ = ("args", "state")
    __hash__ = None  # type: ignore[assignment]

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        """Note the arguments."""
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        if self.state is not None or state is None:
            raise DataError(f"an object {self.name} is given its state twice, or None")
        self.state = state


class _Class(type):
    """Of records: their attributes cannot be set."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise DataError(f"the pickle sets an attribute of a class ({name})")


def _record(name: str) -> type[Record]:
    return cast("type[Record]", _Class("Record", (Record,), {"__slots__": (), "name": name}))


class _EmptyDict(Record):
    """`OrderedDict`: what a pickle makes empty and then fills is a dict, and dicts are ordered."""

    __slots__ = ()

    name = "collections OrderedDict"

    def __new__(cls, *args: Any) -> Any:
        if args:
            raise DataError(
                "an OrderedDict of Python 2, made of a list", fix="write the pickle again with Python 3"
            )
        return {}


_BUILTINS = (
    "builtins set",
    "builtins frozenset",
    "builtins bytearray",
    "builtins bytes",
    "collections OrderedDict",
    "_codecs encode",
)
_ALIASES = {
    "__builtin__ set": "builtins set",
    "__builtin__ frozenset": "builtins frozenset",
    "__builtin__ bytearray": "builtins bytearray",
    "__builtin__ bytes": "builtins bytes",
    "numpy._core.multiarray scalar": "numpy.core.multiarray scalar",
    "numpy._core.multiarray _reconstruct": "numpy.core.multiarray _reconstruct",
    "numpy._core.numeric _frombuffer": "numpy.core.numeric _frombuffer",
    "torch_geometric.data.storage BaseStorage": "torch_geometric.data.storage GlobalStorage",
}
_NUMPY = (
    "numpy dtype",
    "numpy ndarray",
    "numpy.core.multiarray scalar",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.numeric _frombuffer",
)
_PYG = (
    "torch_geometric.data.data Data",
    "torch_geometric.data.data DataEdgeAttr",
    "torch_geometric.data.data DataTensorAttr",
    "torch_geometric.data.storage GlobalStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch.storage _load_from_bytes",
)
_RECORDS = {name: _record(name) for name in _BUILTINS + _NUMPY + _PYG}
_RECORDS["collections OrderedDict"] = _EmptyDict
_RECORDS |= {alias: _RECORDS[name] for alias, name in _ALIASES.items()}


def _table(names: tuple[str, ...]) -> dict[str, type[Record]]:
    return {name: kind for name, kind in _RECORDS.items() if kind.name in names}


ALLOWED: dict[str, dict[str, type[Record]]] = {
    "builtins": _table(_BUILTINS),
    "numpy": _table(_BUILTINS + _NUMPY),
    "pyg": _table(_BUILTINS + _NUMPY + _PYG),
}
ALLOW_CHOICES = tuple(ALLOWED)


def named(name: str) -> type[Record]:
    """The class of records that stands for ``"module name"``."""
    return _RECORDS[name]
