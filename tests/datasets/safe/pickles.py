"""Pickles written byte by byte: `Data` objects of all versions of torch_geometric, without having any of them.

Each function gives the instructions that leave one value on the stack; `pickled` makes a pickle of them. Numbers,
texts and containers of Python can be given as they are; arrays of numpy become tensors of torch.
"""

import struct

import numpy as np

MARK, TUPLE, REDUCE, BUILD, NEWOBJ, STOP = b"(", b"t", b"R", b"b", b"\x81", b"."
STORAGES = {
    "f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte",
    "b1": "Bool", "c8": "ComplexFloat", "c16": "ComplexDouble",
}  # fmt: skip
PREAMBLE = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10\x00\x00\x00protocol_version"
    b"q\x01M\xe9\x03X\x0d\x00\x00\x00little_endianq\x02\x88X\x0a\x00\x00\x00type_sizesq\x03}q\x04(X\x05\x00\x00\x00"
    b"shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu."
)


class Code(bytes):
    """Instructions, as against bytes that are a value."""


def text(value):
    data = value.encode()
    return Code(b"X" + struct.pack("<I", len(data)) + data)


def number(value):
    if isinstance(value, float):
        return Code(b"G" + struct.pack(">d", value))
    if 0 <= value < 256:
        return Code(b"K" + bytes([value]))
    if -(1 << 31) <= value < 1 << 31:
        return Code(b"J" + struct.pack("<i", value))
    size = value.bit_length() // 8 + 1
    return Code(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))


def value(item):
    """Instructions for a value of Python, or an array as a tensor."""
    if isinstance(item, Code):
        return item
    if item is None or isinstance(item, bool):
        return Code({None: b"N", True: b"\x88", False: b"\x89"}[item])
    if isinstance(item, int | float):
        return number(item)
    if isinstance(item, str):
        return text(item)
    if isinstance(item, bytes):
        return Code(b"B" + struct.pack("<I", len(item)) + item)
    if isinstance(item, np.ndarray):
        return tensor(item)
    if isinstance(item, tuple):
        return Code(MARK + b"".join(map(value, item)) + TUPLE)
    if isinstance(item, list):
        return Code(b"](" + b"".join(map(value, item)) + b"e")
    if isinstance(item, dict):
        return Code(b"}(" + b"".join(value(k) + value(v) for k, v in item.items()) + b"u")
    raise TypeError(type(item))


def name(module, attribute, *, old=False):
    """A class or function: GLOBAL (before protocol 4) or STACK_GLOBAL."""
    if old:
        return Code(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n")
    return Code(text(module) + text(attribute) + b"\x93")


def call(function, *arguments):
    return Code(value(function) + value(tuple(arguments)) + REDUCE)


def new(kind, state, *, memo=None):
    """An object with a state; ``memo`` is the number under which the state can refer to the object."""
    put = b"" if memo is None else b"q" + bytes([memo])
    return Code(value(kind) + b")" + NEWOBJ + put + value(state) + BUILD)


def pickled(item, *, protocol=4):
    return bytes([0x80, protocol]) + value(item) + STOP


def storage(array, *, kind=None, key="94468777897632", device="cpu", numel=None, view=None, count=None):
    """What torch.save wrote for a storage before 1.6; the options are for writing bad ones."""
    array = np.ascontiguousarray(array)
    kind = kind or STORAGES[array.dtype.newbyteorder("<").str[1:]] + "Storage"
    numel = array.size if numel is None else numel
    described = (
        b"\x80\x02(X\x07\x00\x00\x00storageq\x00ctorch\n" + kind.encode() + b"\nq\x01" + text(key) + b"q\x02"
        + text(device) + b"q\x03" + _size(numel) + value(view) + b"tq\x04Q."
    )  # fmt: skip
    keys = b"\x80\x02]q\x00" + text(key) + b"q\x01a."
    return (
        PREAMBLE
        + described
        + keys
        + struct.pack("<q", array.size if count is None else count)
        + array.tobytes()
    )


def _size(n):
    if isinstance(n, int) and 256 <= n < 65536:
        return b"M" + struct.pack("<H", n)
    return value(n)


def tensor(array, *, blob=None, offset=0, size=None, stride=None, old=False):
    """A tensor of torch; the options are for views and for writing bad ones."""
    array = np.asarray(array)
    size = array.shape if size is None else size
    if stride is None:
        stride = tuple(int(np.prod(size[k + 1 :], dtype=np.int64)) for k in range(len(size)))
    loaded = call(
        name("torch.storage", "_load_from_bytes", old=old), storage(array) if blob is None else blob
    )
    hooks = call(name("collections", "OrderedDict", old=old))
    rebuild = name("torch._utils", "_rebuild_tensor_v2", old=old)
    return call(rebuild, loaded, offset, tuple(size), tuple(stride), False, hooks)


def pyg1(attributes, *, protocol=4):
    """`Data` of torch_geometric 1.x: attributes in the instance, None where unset."""
    unset = dict.fromkeys(("x", "edge_index", "edge_attr", "y", "pos", "normal", "face"))
    return pickled(pyg1_code({**unset, **attributes}), protocol=protocol)


def pyg1_code(attributes):
    return new(name("torch_geometric.data.data", "Data"), attributes)


def pyg2(attributes, *, protocol=5, classes=True):
    """`Data` of torch_geometric 2.0 (``classes=False``) or later."""
    return pickled(pyg2_code(attributes, classes=classes), protocol=protocol)


def pyg2_code(attributes, *, classes=True):
    module = "torch_geometric.data.data"
    parts = {}
    if classes:
        parts = {
            "_edge_attr_cls": name(module, "DataEdgeAttr"),
            "_tensor_attr_cls": name(module, "DataTensorAttr"),
        }
    store = new(
        name("torch_geometric.data.storage", "GlobalStorage"),
        {"_mapping": attributes, "_parent": Code(b"h\x00")},
    )
    return new(name(module, "Data"), {**parts, "_store": store}, memo=0)
