"""Pickles made to do harm, byte by byte: name -> (pickle, what the error must name)."""

import pickle
import re
import struct

import numpy as np

from tests.datasets.safe import pickles as p
from tests.datasets.safe.pickles import Code, call, name, new, pickled, storage, tensor, text, value

DATA = name("torch_geometric.data.data", "Data")
STORE = name("torch_geometric.data.storage", "GlobalStorage")


def names(marker):
    """Calls of functions that execute, load or open."""
    touch, python = f"touch {marker}", f"open({marker!r}, 'w')"
    calls = [
        ("os", "system", touch), ("posix", "system", touch), ("nt", "system", touch), ("os", "popen", touch),
        ("os", "putenv", "ATOMML_HOSTILE", "1"), ("subprocess", "Popen", ["touch", marker]),
        ("subprocess", "check_output", ["touch", marker]), ("commands", "getoutput", touch),
        ("builtins", "eval", python), ("builtins", "exec", python), ("__builtin__", "eval", python),
        ("builtins", "open", marker, "w"), ("io", "open", marker, "w"), ("_io", "FileIO", marker, "w"),
        ("builtins", "getattr", name("os", "path"), "exists"), ("builtins", "__import__", "antigravity"),
        ("builtins", "compile", python, "x", "exec"), ("builtins", "map", 1), ("builtins", "type", 1),
        ("numpy", "load", marker), ("numpy.lib.npyio", "load", marker),
        ("numpy", "memmap", marker, "u1", "w+", 0, (9,)),
        ("numpy", "fromfile", marker), ("numpy.ctypeslib", "load_library", "libc", "/"),
        ("numpy.ctypeslib", "ctypes.CDLL", "libc.so.6"), ("numpy.testing._private.utils", "runstring", python, {}),
        ("numpy.f2py.crackfortran", "myeval", python), ("numpy.core._multiarray_umath", "add", 1, 2),
        ("torch", "load", marker), ("torch.jit", "load", marker), ("torch.hub", "load", "a/b", "c"),
        ("torch.serialization", "load", marker), ("torch.storage", "UntypedStorage.from_file", marker, True, 9),
        ("torch.utils.cpp_extension", "load_inline", "x", python), ("torch._inductor.codecache", "PyCodeCache", 1),
        ("torch.fx.graph", "_exec_with_source", python), ("torch_geometric.loader", "DataLoader", 1),
        ("copyreg", "_reconstructor", DATA, DATA, None), ("copy_reg", "_reconstructor", DATA, DATA, None),
        ("copyreg", "__newobj__", DATA), ("copyreg", "add_extension", "os", "system", 99),
        ("operator", "attrgetter", "system"), ("operator", "methodcaller", "system", touch),
        ("functools", "partial", name("os", "system"), touch), ("types", "FunctionType", 1, {}),
        ("types", "CodeType", 0), ("importlib", "import_module", "antigravity"), ("runpy", "run_path", marker),
        ("runpy", "_run_code", python, {}), ("ctypes", "CDLL", "libc.so.6"), ("webbrowser", "open", "http://x"),
        ("pty", "spawn", "touch"), ("sys", "exit", 3), ("sys", "modules.clear"), ("codecs", "decode", "a", "rot13"),
        ("_codecs", "decode", b"a", "ascii"), ("codecs", "open", marker, "w"), ("zipimport", "zipimporter", marker),
        ("pickle", "loads", pickle.dumps(1)), ("_pickle", "Unpickler", 1), ("marshal", "loads", b"i\0\0\0\0"),
        ("shelve", "open", marker), ("timeit", "timeit", python), ("pathlib", "Path.touch", marker),
        ("code", "interact"), ("bdb", "Bdb.run", python), ("cProfile", "run", python), ("trace", "Trace.run", python),
        ("shutil", "rmtree", marker), ("logging", "FileHandler", marker), ("sqlite3", "connect", marker),
        ("asyncio", "create_subprocess_shell", touch), ("multiprocessing.util", "spawnv_passfds", b"x", [], []),
        ("collections", "namedtuple", "A", "b"), ("builtins", "bytes.fromhex", "00"), ("builtins", "object"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch.storage", "_load_from_bytes.__class__"),
        ("collections", "OrderedDict.__reduce__"), ("torch_geometric.data.data", "Data.from_dict", {}),
        ("torch_geometric.data.data", "os.system", touch), ("torch_geometric.data.storage", "sys.exit", 1),
        ("atomml.datasets.safe.pickle_records", "named", "x"), ("__main__", "main"), ("", ""), ("os\nsystem", "x"),
    ]  # fmt: skip
    cases = {}
    for module, attribute, *arguments in calls:
        title = f"{module}.{attribute}"
        cases[title] = pickled(call(name(module, attribute), *arguments)), re.escape(ascii(title)[1:-1])
    for module, attribute in (("os", "system"), ("builtins", "eval"), ("posix", "system")):
        code = call(name(module, attribute, old=True), touch)
        cases[f"{module}.{attribute} by GLOBAL"] = pickled(code, protocol=2), f"{module}.{attribute}"
    return cases


def hidden(marker):
    """Names that are put together where a reader of the bytes would not look."""
    touch = text(f"touch {marker}")
    end = touch + b"\x85R."  # the call
    ordered = name("collections", "OrderedDict")
    encoded = call(name("_codecs", "encode"), "os", "latin1")
    os, system = text("os"), text("system")
    frame = p.pyg1_code({"y": 1.0, "pos": np.zeros((2, 3), "f4")})
    return {
        "protocol 0": (b"cos\nsystem\n(S'touch " + marker.encode() + b"'\ntR.", "os.system"),
        "protocol 0 memo": (b"S'a'\np0\n0cposix\nsystem\np1\n(V" + marker.encode() + b"\ntR.", "posix.system"),
        "INST": (b"(S'touch " + marker.encode() + b"'\nios\nsystem\n.", "os.system"),
        "OBJ": (b"\x80\x02(cos\nsystem\n" + touch + b"o.", "os.system"),
        "memo BINPUT": (b"\x80\x04" + os + b"q\x050" + system + b"q\x060h\x05h\x06\x93" + end, "os.system"),
        "memo MEMOIZE": (b"\x80\x04" + system + b"\x94" + os + b"\x94h\x01h\x00\x93" + end, "os.system"),
        "memo LONG": (b"\x80\x04" + os + b"r\x20\0\0\0" + system + b"j\x20\0\0\x000\x93" + end, "os.system"),
        "memo replaced": (b"\x80\x04" + text("torch._utils") + b"q\0" + os + b"q\x000h\0" + system + b"\x93" + end,
                          "os.system"),
        "DUP": (b"\x80\x04" + text("pty") + b"2\x93" + end, "pty.pty"),
        "POP": (b"\x80\x04" + text("os") + text("x") + b"0" + system + b"\x93" + end, "os.system"),
        "POP_MARK": (b"\x80\x04" + text("os") + b"(" + text("x") + b"1" + system + b"\x93" + end, "os.system"),
        "SHORT_BINSTRING": (b"\x80\x04U\x02osU\x06system\x93" + end, "os.system"),
        "BINUNICODE8": (b"\x80\x04\x8d\x02\0\0\0\0\0\0\0os" + system + b"\x93" + end, "os.system"),
        "in an attribute": (p.pyg2({"y": call(name("os", "system"), touch)}), "os.system"),
        "in a hook": (pickled(Code(tensor(np.zeros(2)).replace(ordered, name("os", "system")))), "os.system"),
        "as a key": (pickled(Code(b"}" + call(name("os", "system"), touch) + b"Ns")), "os.system"),
        "dropped": (pickled(Code(call(name("os", "system"), touch) + b"0" + frame)), "os.system"),
        "never called": (pickled([frame, name("os", "system")]), "os.system"),
        "several": (pickled([name("os", "system"), name("sys", "exit"), name("pty", "spawn")]),
                    r"os\.system.*sys\.exit.*pty\.spawn"),
        "after an old instruction": (b"\x80\x02I1\n0" + call(name("os", "system"), touch) + b".", "os.system"),
        "computed from a call": (pickled(Code(encoded + system + b"\x93" + end[:-1])), "STACK_GLOBAL"),
        "from bytes": (b"\x80\x04C\x02os" + system + b"\x93" + end, "STACK_GLOBAL"),
        "from a list": (b"\x80\x04]" + system + b"\x93" + end, "STACK_GLOBAL"),
        "a name too long": (pickled(name("os" + "." * 9999, "x")), "name of 10,001 bytes"),
        "a line without end": (b"\x80\x02c" + b"o" * 10_000, "256 bytes"),
        "a name that is not UTF-8": (b"\x80\x04X\x02\0\0\0\xff\xfe" + system + b"\x93" + end, "UTF-8"),
    }  # fmt: skip


def instructions(marker):
    """Instructions that reach into the program, or that no dataset needs. Extension 0x77 is os.system there."""
    arguments = value((f"touch {marker}",)) + b"R."
    return {
        "EXT1": (b"\x80\x04\x82\x77" + arguments, "extension code 119"),
        "EXT2": (b"\x80\x04\x83\x77\x00" + arguments, "extension code 119"),
        "EXT4": (b"\x80\x04\x84\x77\x00\x00\x00" + arguments, "extension code 119"),
        "PERSID": (b"\x80\x02Px\n.", "PERSID"),
        "BINPERSID": (b"\x80\x02" + text("x") + b"Q.", "BINPERSID"),
        "NEWOBJ_EX": (b"\x80\x04" + DATA + b")}\x92.", "NEWOBJ_EX"),
        "OBJ of an allowed name": (b"\x80\x04(" + DATA + b"o.", "OBJ"),
        "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "READONLY_BUFFER": (b"\x80\x05C\x00\x98.", "READONLY_BUFFER"),
        "protocol 6": (b"\x80\x06N.", "protocol 6"),
        "protocol 255": (b"\x80\xffN.", "protocol 255"),
        "unknown instruction": (b"\x80\x04\xff.", "0xff"),
        "protocol 0 number": (b"I1\n.", "INT"),
        "two pickles": (pickled(1) + pickled(2), "bytes follow"),
        "two values": (b"\x80\x04N).", "not exactly one value"),
        "no value": (b"\x80\x04.", "not exactly one value|damaged"),
        "an open mark": (b"\x80\x04().", "not exactly one value"),
        "stack underflow": (b"\x80\x04\x86.", "damaged"),
        "below the mark": (b"\x80\x04N(\x85.", "damaged|one value"),
        "empty": (b"", "damaged"),
        "one byte": (b"\x80", "damaged|too early"),
        "text": (b"hello, this is not a pickle", "refused|damaged"),
        "memo never written": (b"\x80\x04h\x07.", "memo number 7"),
    }


def sizes(marker):
    """Sizes that are not there, memory, depth and repetition."""
    ten = b"".join(b"0](" + (b"h" + bytes([k])) * 10 + b"e\x94" for k in range(30))
    laughs = Code(b"](NNNNNNNNNNe\x94" + ten)
    tuples = Code(b")\x94" + b"".join(b"0" + (b"h" + bytes([k])) * 2 + b"\x86\x94" for k in range(80)))
    collide = {k * ((1 << 61) - 1) << 20: None for k in range(1, 5000)}
    memoised_list = Code(b"](" + b"N" * 100_000 + b"eq\x000")
    sets = Code(memoised_list + b"](" + (name("builtins", "set") + b"h\x00\x85R") * 3000 + b"e")
    long_text = Code(text("x" * 1_000_000) + b"q\x000")
    encoded = name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R"
    return {
        "LONG4 of 2 GB": (b"\x80\x04\x8b\xff\xff\xff\x7f.", "2,147,483,647"),
        "LONG4 negative": (b"\x80\x04\x8b\xff\xff\xff\xff.", "4,294,967,295"),
        "LONG4 of 1 MB": (b"\x80\x04\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".", "1,048,576"),
        "memo 2^32": (b"\x80\x04Nr\xff\xff\xff\xff.", "4,294,967,295"),
        "memo 2^24": (b"\x80\x04Nr\x00\x00\x00\x01.", "16,777,216"),
        "FRAME beyond the end": (b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", "frame of 255"),
        "FRAME 2^63": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "frame of 18,446,744,073,709,551,615"),
        "BINBYTES of 4 GB": (b"\x80\x03B\xff\xff\xff\xff.", "4,294,967,295"),
        "BINBYTES8 of 2^63": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "9,223,372,036,854,775,807"),
        "BYTEARRAY8 of 1 TB": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "1,099,511,627,776"),
        "BINUNICODE8 of 1 TB": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".", "1,099,511,627,776"),
        "SHORT_BINUNICODE cut": (b"\x80\x04\x8c\x09abc.", "9 bytes"),
        "text not UTF-8": (b"\x80\x04\x8c\x02\xff\xff.", "damaged|utf-8"),
        "more instructions than allowed": (b"\x80\x04](" + b"N" * 8_500_000 + b"e.", "1,000,000 instructions"),
        "more dicts than allowed": (b"\x80\x04](" + b"}" * 1_100_000 + b"e.", "1,000,000 instructions"),
        "more tuples than allowed": (b"\x80\x04](" + b")" * 1_100_000 + b"e.", "1,000,000 instructions"),
        "400,000 lists in each other": (b"\x80\x04" + b"]" * 400_000 + b"a" * 399_999 + b".", "levels"),
        "400,000 tuples in each other": (b"\x80\x04N" + b"\x85" * 400_000 + b".", "levels"),
        "400,000 marks": (b"\x80\x04" + b"(" * 400_000 + b".", "levels"),
        "deep tuple as a key": (b"\x80\x04}N" + b"\x85" * 400_000 + b"Ns.", "key"),
        "deep tuple in a set": (b"\x80\x04\x8f(N" + b"\x85" * 400_000 + b"\x90.", "item of a set"),
        "deep tuple in a frozenset": (b"\x80\x04(N" + b"\x85" * 400_000 + b"\x91.", "item of a set"),
        "deep tuple in an old set": (pickled(call(name("builtins", "set"), Code(b"](N" + b"\x85" * 400_000 + b"e"))),
                                     "item of a set"),
        "billion laughs of lists": (pickled(laughs), "more than 10,000,000 values"),
        "billion laughs of tuples": (pickled(tuples), "10,000,000 values"),
        "billion laughs as a key": (pickled(Code(b"}" + tuples + b"Ns")), "key"),
        "keys with one hash": (pickled(collide), "beyond 64 bits"),
        "a list in itself": (b"\x80\x04]\x94h\x00a.", "contains itself"),
        "a dict in itself": (b"\x80\x04}\x94K\x01h\x00s.", "contains itself"),
        "a Data object in itself": (pickled(Code(new(DATA, {"a": Code(b"h\x00")}, memo=0))), "contains itself"),
        "a long list made a set many times": (pickled(sets), "larger than the pickle"),
        "a long text encoded many times": (pickled(Code(long_text + b"](" + encoded * 500 + b"e")),
                                           "larger than the pickle"),
    }  # fmt: skip


def types(marker):
    """States, items and calls of what should not have them."""
    code = [f"touch {marker}"]
    load, ordered = name("torch.storage", "_load_from_bytes"), name("collections", "OrderedDict")
    return {
        "state of a list": (b"\x80\x04]}b.", "BUILD"),
        "state of a dict": (b"\x80\x04}}b.", "BUILD"),
        "state of a text": (b"\x80\x04" + text("x") + b"}b.", "BUILD"),
        "state of a class": (b"\x80\x04" + DATA + value({"__setstate__": 1}) + b"b.", "BUILD"),
        "state of a function": (b"\x80\x04" + load + value((None, {"__call__": 1})) + b"b.", "BUILD"),
        "state of an OrderedDict": (pickled(Code(call(ordered) + value({"items": 1}) + b"b")), "BUILD"),
        "state twice": (pickled(Code(new(DATA, {"y": 1}) + value({"y": 2}) + b"b")), "state twice"),
        "state None": (pickled(new(DATA, None)), "state"),
        "state with slots": (pickled(new(DATA, (None, {"__class__": 1}))), "Data object"),
        "state of a tensor": (pickled(Code(tensor(np.zeros(2)) + value({"__class__": 1}) + b"b")), "a state"),
        "state that is a list": (pickled(new(DATA, [1])), "Data object"),
        "attributes by number": (pickled(new(DATA, {1: 2})), "not named by texts"),
        "a store that is a text": (pickled(new(DATA, {"_store": "x"})), "without its store"),
        "a store without attributes": (pickled(new(DATA, {"_store": new(STORE, {})})), "no attributes"),
        "a store that is Data": (pickled(new(DATA, {"_store": new(DATA, {"_mapping": {}})})), "without its store"),
        "unknown parts": (pickled(new(DATA, {"_store": new(STORE, {"_mapping": {}}), "__class__": 1})), "__class__"),
        "Data with arguments": (pickled(call(DATA, 1, 2)), "Data object"),
        "Data without state": (pickled(call(DATA)), "Data object"),
        "a class as a value": (pickled({"a": DATA}), "place of a value"),
        "a class as the whole": (pickled(DATA), "place of a value"),
        "a store as a value": (pickled(new(STORE, {"_mapping": {}})), "GlobalStorage"),
        "a storage as a value": (pickled(call(load, storage(np.zeros(2)))), "place of a value"),
        "items of Data": (pickled(Code(call(DATA) + b"(" + value(1) + value(2) + b"u")), "not a dict"),
        "items of a list": (pickled(Code(b"](" + value(1) + value(2) + b"u")), "not a dict"),
        "appended to a tensor": (pickled(Code(tensor(np.zeros(2)) + b"Na")), "not a list"),
        "appended to a dict": (pickled(Code(b"}(NNe")), "not a list"),
        "added to a list": (pickled(Code(b"](N\x90")), "not a set"),
        "a key without a value": (pickled(Code(b"}(Nu")), "key without a value"),
        "a list as a key": (pickled(Code(b"}]Ns")), "key"),
        "a tensor as a key": (pickled(Code(b"}" + tensor(np.zeros(2)) + b"Ns")), "key"),
        "a call of a text": (pickled(Code(text("os.system") + value(tuple(code)) + b"R")), "REDUCE"),
        "a call of a result": (pickled(Code(call(DATA) + b")R")), "REDUCE"),
        "a call of a list": (pickled(Code(b"])R")), "REDUCE"),
        "a call with a list": (pickled(Code(DATA + value(code) + b"R")), "not a tuple"),
        "a call with a dict": (pickled(Code(DATA + b"}R")), "not a tuple"),
        "an object of a text": (pickled(Code(text("os") + b")\x81")), "NEWOBJ"),
        "an object with a list": (pickled(Code(DATA + b"]\x81")), "not a tuple"),
        "a set of lists": (pickled(call(name("builtins", "set"), [[1]])), "item of a set"),
        "a set of a text": (pickled(call(name("builtins", "set"), "abc")), "made of a list"),
        "bytes in rot13": (pickled(call(name("_codecs", "encode"), "abc", "rot13")), "latin-1"),
        "bytes in zlib": (pickled(call(name("_codecs", "encode"), "abc", "zlib_codec")), "latin-1"),
        "bytes of a wide text": (pickled(call(name("_codecs", "encode"), "\u0416", "latin1")), "latin-1"),
        "bytearray of a number": (pickled(call(name("builtins", "bytearray"), 1 << 40)), "made of bytes"),
        "bytes of a number": (pickled(call(name("builtins", "bytes"), 1 << 40)), "builtins.bytes with 1"),
    }  # fmt: skip
