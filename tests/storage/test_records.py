"""Small stored files are read with checks of types and size; an error of one line names the file and the field."""

import json
import tracemalloc
from dataclasses import asdict, dataclass, field

import pytest

from pipeline.errors import StorageError
from pipeline.storage import DamagedError, parse_record, parse_records, read_record, read_small


@dataclass(frozen=True)
class Part:
    size: int
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Note:
    name: str
    until: float
    parts: tuple[Part, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


GOOD = Note("a", 1.5, (Part(3, (0.0, 1.0)), Part(4)), {"join": 2.0})


def test_a_record_is_read_as_it_was_written_and_unknown_fields_are_ignored(tmp_path):
    (tmp_path / "note.json").write_text(json.dumps({**asdict(GOOD), "later": [1]}))
    assert read_record(str(tmp_path / "note.json"), Note) == GOOD


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"until": "soon"}, "field until"),
        ({"until": float("inf")}, "field until"),
        ({"name": None}, "field name"),
        ({"parts": [{"size": True}]}, "field parts.0.size"),
        ({"parts": [{"size": 10**30}]}, "field parts holds a number beyond 64 bits"),
        ({"parts": [{}]}, "field parts.0.size is missing"),
        ({"seconds": {"join": "long"}}, "field seconds.join"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_file(tmp_path, change, said):
    path = tmp_path / "note.json"
    path.write_text(json.dumps({**asdict(GOOD), **change}))
    with pytest.raises(DamagedError) as caught:
        read_record(str(path), Note)
    assert str(path) in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"{},{}",
        b"{}],[{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{",
        b'{"a":' + b"9" * 5000,
    ],
)
def test_a_text_that_is_no_json_object_gives_a_one_line_error(text):
    with pytest.raises(DamagedError, match=r"^note: ") as caught:
        parse_record(text, Note, "note")
    assert len(str(caught.value)) < 400


def test_a_file_beyond_its_limit_is_refused_and_only_its_beginning_is_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: reading all of it would exhaust memory
    with pytest.raises(DamagedError, match=r"expected at most 1,000 bytes, got 1,099,511,627,776"):
        read_small(str(path), 1000)


def test_the_memory_that_reading_takes_follows_the_file_and_not_the_limit(tmp_path):
    (tmp_path / "small").write_bytes(b"small")
    tracemalloc.start()
    try:
        assert read_small(str(tmp_path / "small"), 2**28) == b"small"
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_folder_in_the_place_of_a_file_gives_its_own_error(tmp_path):
    with pytest.raises(StorageError, match=str(tmp_path)):
        read_record(str(tmp_path), Note)


def test_many_records_are_read_in_order():
    texts = [json.dumps({"name": str(i), "until": i}).encode() for i in range(100)]
    assert [note.name for note in parse_records(texts, Note, "notes")] == [str(i) for i in range(100)]
