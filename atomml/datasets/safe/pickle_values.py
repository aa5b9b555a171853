"""From what an inert unpickler made to plain values: dicts, lists, numbers, texts and numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from atomml.datasets.safe.pickle_arrays import array_of_bytes, check_reconstruct, read_dtype
from atomml.datasets.safe.pickle_limits import PickleLimits
from atomml.datasets.safe.pickle_records import Record
from atomml.datasets.safe.torch_storage import n_elements, read_storage, strided
from atomml.errors import DataError

__all__ = ["Values"]

_LEAVES = frozenset((type(None), bool, int, float, str, bytes, bytearray))
_KEYS = frozenset((type(None), bool, int, float, str, bytes))
_DICTS, _LISTS = {dict}, {list}
_BEING_READ = object()


class Values:
    """One conversion: each object once, with the number of values and the bytes of arrays counted.

    Args:
        limits: bounds.
        n_bytes: size of the pickle.
    """

    def __init__(self, limits: PickleLimits, n_bytes: int) -> None:
        self._limits = limits
        self._looks_left = limits.n_values
        self._bytes_left = limits.array_bytes + 16 * n_bytes
        # By id: the object (so that its id is not given to another), its value, and the size of that.
        self._seen: dict[int, tuple[Any, Any, int]] = {}
        self._storages: dict[int, tuple[Any, np.ndarray]] = {}

    def value(self, item: Any, depth: int = 0) -> Any:
        """The plain value of an object.

        Raises:
            DataError: objects that do not belong together, cycles, and whatever goes beyond a limit.
        """
        return self._sized(item, depth)[0]

    def _sized(self, item: Any, depth: int) -> tuple[Any, int]:
        kind = type(item)
        if kind in _LEAVES:
            return item, 1
        if (known := self._seen.get(id(item))) is not None:
            if known[1] is _BEING_READ:
                raise DataError(f"the pickle holds {_title(item)} that contains itself")
            return known[1], known[2]
        if depth >= self._limits.depth:
            raise DataError(f"the pickle is nested in more than {self._limits.depth} levels")
        self._seen[id(item)] = (item, _BEING_READ, 0)
        value, size = self._convert(item, kind, depth + 1)
        if size > self._limits.n_values:
            raise self._too_many()
        self._seen[id(item)] = (item, value, size)
        return value, size

    def _convert(self, item: Any, kind: type, depth: int) -> tuple[Any, int]:
        if kind is dict:
            return item, self.fill(item, item.keys(), item.values(), depth)
        if kind is list:
            return item, self.fill(item, (), item, depth)
        if kind is tuple:
            children = list(item)
            size = self.fill(children, (), children, depth)
            return tuple(children), size
        if kind in (set, frozenset):
            _check_keys(item)
            return item, 1 + len(item)
        if issubclass(kind, Record):
            return self._record(item, depth)
        raise DataError(f"the pickle holds {_title(item)} in place of a value")

    def fill(self, item: Any, keys: Any, children: Any, depth: int) -> int:
        """Replace the children of a dict or list by their values; the number of values."""
        _check_keys(keys)
        kinds = set(map(type, children))
        if kinds <= _LEAVES:
            return 1 + len(item)
        if kinds in (_DICTS, _LISTS):
            size = 1 + len(item) + sum(map(len, children))
            self._look_at(size)
            if _are_flat(children, kinds):
                return size
        size = 1
        for key, child in item.items() if type(item) is dict else enumerate(item):
            value, n = self._sized(child, depth)
            size += n
            if value is not child:
                item[key] = value
        return size

    def _look_at(self, n: int) -> None:
        """Count values that are looked at together: a short pickle can name a long list many times."""
        self._looks_left -= n
        if self._looks_left < 0:
            raise self._too_many()

    def _too_many(self) -> DataError:
        return DataError(
            f"the pickle holds more than {self._limits.n_values:,} values, repeated ones included"
        )

    def _record(self, item: Record, depth: int) -> tuple[Any, int]:
        reader = _READERS.get(item.name)
        if reader is None:
            raise DataError(f"the pickle holds {_title(item)} in place of a value")
        if item.state is not None and item.name not in _WITH_STATE:
            raise DataError(f"{_title(item)} is given a state")
        return reader(self, item, depth)

    def spend(self, n_bytes: int) -> None:
        """Count bytes that are about to be read or made."""
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise DataError("the arrays of the pickle are much larger than the pickle (repeated elements)")

    def data(self, item: Any) -> Any:
        """The bytes of an argument that is bytes, or a text encoded as such by protocols 0 to 2."""
        return self.value(item) if isinstance(item, Record) and item.name in _BYTES else item

    def storage(self, item: Any) -> np.ndarray:
        """The elements of a tensor's storage, which several tensors may share."""
        if not isinstance(item, Record) or item.name != _STORAGE or item.state is not None:
            raise DataError("a tensor without a storage")
        if id(item) not in self._storages:
            data = self.data(_arguments(item, 1)[0])
            if type(data) is not bytes:
                raise DataError("a tensor's storage that is not bytes")
            self.spend(len(data))
            self._storages[id(item)] = item, read_storage(data)
        return self._storages[id(item)][1]


def _title(item: Any) -> str:
    return "a " + (item.name.replace(" ", ".", 1) if isinstance(item, Record) else type(item).__name__)


def _are_flat(children: Any, kinds: set[type]) -> bool:
    """Whether dicts or lists hold nothing that has parts. The loops are those of the interpreter, for speed."""
    if kinds == _LISTS:
        return _LEAVES.issuperset(map(type, chain.from_iterable(children)))
    values = chain.from_iterable(map(dict.values, children))
    return _LEAVES.issuperset(map(type, values)) and _KEYS.issuperset(
        map(type, chain.from_iterable(children))
    )


def _check_keys(keys: Any) -> None:
    if not _KEYS.issuperset(map(type, keys)):
        raise DataError("the pickle holds a key of a dict or an item of a set that is not a text or a number")


def _arguments(item: Record, *counts: int) -> tuple[Any, ...]:
    if len(item.args) not in counts:
        raise DataError(f"{item.name.replace(' ', '.', 1)} with {len(item.args)} arguments")
    return item.args


def _read_set(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    arguments = _arguments(item, 0, 1)
    items = arguments[0] if arguments else ()
    if type(items) not in (list, tuple):
        raise DataError("a set that is not made of a list")
    values.spend(8 * len(items))
    _check_keys(items)
    return (set if item.name.endswith(" set") else frozenset)(items), 1 + len(items)


def _read_text_bytes(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    text, code = _arguments(item, 2)
    if type(text) is not str or code not in ("latin1", "latin-1"):
        raise DataError("bytes that are not made of a latin-1 text")
    values.spend(len(text))
    try:
        return text.encode("latin-1"), 1
    except UnicodeEncodeError:
        raise DataError("bytes made of a text that is not latin-1") from None


def _read_no_bytes(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    _arguments(item, 0)  # how protocol 2 writes empty bytes
    return b"", 1


def _read_bytearray(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    arguments = _arguments(item, 0, 1, 2)
    if len(arguments) == 2:
        return bytearray(_read_text_bytes(values, item, depth)[0]), 1
    data = values.data(arguments[0]) if arguments else b""
    if type(data) is not bytes:
        raise DataError("a bytearray that is not made of bytes")
    values.spend(len(data))
    return bytearray(data), 1


def _read_scalar(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    dtype, data = _arguments(item, 2)
    return array_of_bytes(values.data(data), read_dtype(dtype), (), "C")[()], 1


def _read_array(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    check_reconstruct(item)
    state = item.state
    if type(state) is not tuple or len(state) not in (4, 5):
        raise DataError("an array without its elements")
    shape, dtype, fortran, data = state[-4:]
    data = values.data(data)
    values.spend(len(data) if type(data) is bytes else 0)
    return array_of_bytes(data, read_dtype(dtype), shape, "F" if fortran is True else "C"), 1


def _read_buffer(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    data, dtype, shape, order = _arguments(item, 4)
    data = values.data(data)
    values.spend(len(data) if type(data) in (bytes, bytearray) else 0)
    return array_of_bytes(data, read_dtype(dtype), shape, order), 1


def _read_tensor(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    storage, offset, size, stride, _, hooks, *metadata = _arguments(item, 6, 7)
    if type(hooks) is not dict or hooks or metadata not in ([], [None], [{}]):
        raise DataError("a tensor with hooks or metadata, which are not read")
    elements = values.storage(storage)
    values.spend(n_elements(size) * elements.itemsize)
    return strided(elements, offset, size, stride), 1


def _read_data(values: Values, item: Record, depth: int) -> tuple[Any, int]:
    """The attributes of a `Data` object of torch_geometric that are not None, in all three layouts."""
    if item.args or type(item.state) is not dict:
        raise DataError("a Data object of torch_geometric without attributes")
    attributes = item.state
    if "_store" in attributes:  # 2.0 and later; from 2.1 on, two classes lie beside the attributes
        store = attributes["_store"]
        if others := [key for key in attributes if key not in _PYG2_KEYS]:
            raise DataError(f"a Data object of torch_geometric with unknown parts: {ascii(others)[:200]}")
        if (
            not isinstance(store, Record)
            or store.name != _STORE
            or type(store.state) is not dict
            or store.args
        ):
            raise DataError("a Data object of torch_geometric without its store")
        attributes = store.state.get("_mapping", ())
        if type(attributes) is not dict:
            raise DataError("a Data object of torch_geometric whose store has no attributes")
    if any(type(key) is not str for key in attributes):
        raise DataError("a Data object of torch_geometric whose attributes are not named by texts")
    plain = {key: attribute for key, attribute in attributes.items() if attribute is not None}
    return plain, values.fill(plain, (), plain.values(), depth)


_STORAGE = "torch.storage _load_from_bytes"
_STORE = "torch_geometric.data.storage GlobalStorage"
_PYG2_KEYS = ("_store", "_edge_attr_cls", "_tensor_attr_cls")
_WITH_STATE = ("torch_geometric.data.data Data", "numpy.core.multiarray _reconstruct")
_BYTES = ("_codecs encode", "builtins bytes")
_READERS: dict[str, Callable[[Values, Record, int], tuple[Any, int]]] = {
    "builtins set": _read_set,
    "builtins frozenset": _read_set,
    "builtins bytearray": _read_bytearray,
    "builtins bytes": _read_no_bytes,
    "_codecs encode": _read_text_bytes,
    "numpy.core.multiarray scalar": _read_scalar,
    "numpy.core.multiarray _reconstruct": _read_array,
    "numpy.core.numeric _frombuffer": _read_buffer,
    "torch._utils _rebuild_tensor_v2": _read_tensor,
    "torch_geometric.data.data Data": _read_data,
}
