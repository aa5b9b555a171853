import gzip
import io
import itertools
import json
import random
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomml.datasets.readers.documents import files as json_files
from atomml.datasets.readers.documents import stream as json_stream
from atomml.datasets.readers.documents.files import json_pieces
from atomml.datasets.readers.documents.stream import documents
from atomml.errors import DataError

DOCUMENTS = [{"a": 'x"]}\\', "b": [1, {"c": []}]}, {'q"': "\\\\", "é{": "[["}, {}]
GROUPS = {"mp-1": {"f-0": DOCUMENTS[0], "f-1": DOCUMENTS[1]}, "mp-2": {}, 'mp"3': {"f\\2": DOCUMENTS[2]}}


def found_in(text, level=1, container="[", **options):
    read = io.BytesIO(text).read
    return list(documents(read, level=level, container=container, where="file", data=True, **options))


@pytest.fixture(params=[1, 2, 3, 7, 64, 1 << 20])
def chunk(request, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.usefixtures("chunk")
def test_documents_of_an_array_are_found_whatever_is_inside_their_strings(indent):
    text = json.dumps(DOCUMENTS, indent=indent).encode()
    found = found_in(text)
    assert [json.loads(d.data) for d in found] == DOCUMENTS
    assert all(text[d.start : d.stop] == d.data and d.item == d.start and d.keys == () for d in found)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.usefixtures("chunk")
def test_documents_of_nested_objects_come_with_the_keys_that_lead_to_them(indent):
    text = json.dumps(GROUPS, indent=indent).encode()
    found = found_in(text, 2, "{")
    expected = [((key, inner), doc) for key, group in GROUPS.items() for inner, doc in group.items()]
    assert [(d.keys, json.loads(d.data)) for d in found] == expected
    assert [json.loads(text[d.item :].split(b":")[0]) for d in found] == ["mp-1", "mp-1", 'mp"3']


TEXT = st.text(alphabet='ab"\\{}[],:é\n ', max_size=6)
VALUE = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(TEXT, VALUE, max_size=3)


@given(st.lists(DOCUMENT, max_size=4), st.sampled_from([None, 2]), st.booleans(), st.integers(1, 9))
def test_any_array_of_documents_is_split_as_json_reads_it(docs, indent, ascii_only, size):
    text = json.dumps(docs, indent=indent, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", size)
        found = found_in(text)
    assert [json.loads(d.data) for d in found] == docs
    for d in found:  # and from every item on, up to every later one
        rest = found_in(text[d.start :], first=d.start)
        assert rest == found[found.index(d) :]
        for later in found[found.index(d) + 1 :]:
            part = found_in(text[d.start :], first=d.start, length=later.start - d.start)
            assert part == found[found.index(d) : found.index(later)]


@given(st.dictionaries(TEXT, st.dictionaries(TEXT, DOCUMENT, max_size=3), max_size=3), st.integers(1, 9))
def test_any_object_of_groups_is_split_as_json_reads_it(groups, size):
    text = json.dumps(groups).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", size)
        found = found_in(text, 2, "{")
    assert [(d.keys, json.loads(d.data)) for d in found] == [
        ((key, inner), doc) for key, group in groups.items() for inner, doc in group.items()
    ]
    items = sorted({d.item for d in found})
    for start, stop in itertools.pairwise([*items, None]):
        length = None if stop is None else stop - start
        part = found_in(text[start:], 2, "{", first=start, length=length)
        assert part == [d for d in found if d.item >= start and (stop is None or d.item < stop)]


@given(st.binary(max_size=40) | st.text(alphabet='[]{}",: \\x1', max_size=40).map(str.encode))
def test_any_bytes_are_documents_or_refused(text):
    for level, container in ((1, "["), (2, "{")):
        try:
            found = found_in(text, level, container)
        except DataError:
            continue
        assert all(text[d.start : d.stop] == d.data for d in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b"[", "byte 1, after 0 documents"),
        (b"[{}", "byte 3, after 1 documents"),
        (b'[{}, {"a": "]}', "before its brackets are closed"),
        (b"[{}]]", "byte 4"),
        (b"[{}] x", "the end of the file, not 'x'"),
        (b"[{}][{}]", "the end of the file"),
        (b"{}\n{}", "an array or object, not '{}"),
        (b"[{} {}]", "a comma or a closing bracket, not '{'"),
        (b"[{},]", "a document, not ']'"),
        (b"[,{}]", "a document, not ','"),
        (b"[NaN, {}]", "a document, not 'NaN"),
        (b"[1, {}]", "byte 1"),
        (b"[[{}]]", "is an array and not a document"),
        (b"]", "never opened"),
        (b"[{}}", "byte 3"),
        (b"\x1f\x8b\x08", "an array or object"),
        (b"\xef\xbb\xbf[{}]", "an array or object"),
        (b'[{"a": [[[[[', "before its brackets are closed"),
    ],
)
@pytest.mark.usefixtures("chunk")
def test_damaged_json_is_refused_with_the_byte(text, message):
    with pytest.raises(DataError, match="byte") as error:
        found_in(text)
    assert message in str(error.value)


def test_megabytes_of_blanks_and_endless_documents_are_refused(monkeypatch):
    with pytest.raises(DataError, match="that is not a document"):
        found_in(b"[" + b" " * (1 << 22))
    monkeypatch.setattr(json_stream, "LARGEST_DOCUMENT", 1 << 21)
    with pytest.raises(DataError, match="larger than 2 MiB"):
        found_in(b'[{"a": "' + b"x" * (1 << 23))


def test_pieces_of_a_file_are_whole_items_of_about_the_right_number(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "PIECE_FRAMES", 4)
    groups = {f"mp-{k}": {f"f-{j}": {"k": [k, j]} for j in range(k % 4)} for k in range(12)}
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(groups, indent=1))
    cut = json_pieces([path, path], 2, "{")
    assert cut[:3] == cut[3:]
    assert [p.first for p in cut[:3]] == [0, 6, 12]
    assert cut[0].start == 0
    assert cut[2].stop is None
    keys = [d.keys for p in cut[:3] for _, d in json_files._located(p, 2, "{")]
    assert keys == [(key, inner) for key, group in groups.items() for inner in group]
    numbers = [where.split()[2] for p in cut[:3] for where, _ in json_files._located(p, 2, "{")]
    assert numbers == [str(k) for k in range(len(keys))]


def test_a_compressed_file_is_one_piece_and_a_file_without_documents_is_refused(tmp_path):
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(DOCUMENTS).encode()))
    (piece,) = json_pieces([packed], 1, "[")
    assert [json.loads(d.data) for _, d in json_files._located(piece, 1, "[")] == DOCUMENTS
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.json\.gz"):
        list(json_files._located(piece, 1, "["))
    empty = tmp_path / "b.json"
    empty.write_text("[]")
    with pytest.raises(DataError, match="no documents"):
        json_pieces([empty], 1, "[")


@pytest.fixture(scope="module")
def many():
    """32 MiB of documents as MatPES has them, and their number."""
    site = {"species": [{"element": "Li", "occu": 1}], "abc": [0.1234567, 0.5, 0.75], "label": "Li"}
    one = json.dumps({"structure": {"sites": [site] * 40}, "forces": [[0.01, -0.2, 0.3]] * 40}).encode()
    count = (32 << 20) // len(one)
    return b"[" + b", ".join([one] * count) + b"]", count


def test_scanning_is_faster_than_parsing(many):
    text, count = many
    started = time.process_time()
    total = sum(1 for _ in documents(io.BytesIO(text).read, level=1, container="[", where="file"))
    scanned = time.process_time()
    json.loads(text)
    assert total == count
    assert scanned - started < time.process_time() - scanned


def test_scanning_takes_constant_memory(many):
    text, count = many
    file = io.BytesIO(text)
    tracemalloc.start()
    total = sum(1 for _ in documents(file.read, level=1, container="[", where="file", data=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == count
    assert peak < len(text) / 2


def test_escapes_across_chunks_count_backslashes(monkeypatch):
    generator = random.Random(0)
    for _ in range(50):
        texts = ["\\" * generator.randint(0, 5) + '"' * generator.randint(0, 2) + "}" for _ in range(4)]
        docs = [{text: text} for text in texts]
        monkeypatch.setattr(json_stream, "CHUNK", generator.randint(1, 6))
        assert [json.loads(d.data) for d in found_in(json.dumps(docs).encode())] == docs
