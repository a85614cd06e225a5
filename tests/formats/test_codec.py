"""The record codec: exact types, named refusals."""

from __future__ import annotations

import enum
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from formats.errors import ImageCorruptError, ImageWriteError
from formats.limits import MAX_BLOB_SIZE, MAX_DEPTH, MAX_ITEMS, MAX_TEXT_SIZE
from formats.records import codec
from formats.records.codec import Json, pack_record, record, unpack_record


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    number: int
    pairs: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Everything:
    number: int
    flag: bool
    text: str
    blob: bytes
    ratio: float
    colour: Colour
    inner: Inner
    maybe: int | None = None
    many: tuple[Inner, ...] = ()
    table: dict[str, tuple[int, ...]] = field(default_factory=dict)
    anything: Json = None


FULL = Everything(
    number=-5,
    flag=True,
    text="é",
    blob=b"\x00",
    ratio=0.5,
    colour=Colour.BLUE,
    inner=Inner(1, ((2, "b"),)),
    maybe=7,
    many=(Inner(3),),
    table={"k": (1, 2)},
    anything={"a": [1, None, {"b": 2.5}]},
)
WIRE: dict[str, Any] = {
    "number": -5,
    "flag": True,
    "text": "é",
    "blob": b"\x00",
    "ratio": 0.5,
    "colour": "blue",
    "inner": {"number": 1, "pairs": [[2, "b"]]},
    "maybe": 7,
    "many": [{"number": 3, "pairs": []}],
    "table": {"k": [1, 2]},
    "anything": {"a": [1, None, {"b": 2.5}]},
}


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry of this test's own, so that the real one does not learn its classes."""
    codec.registered()
    for name in ("_classes", "_kinds", "_plans"):
        monkeypatch.setattr(codec, name, dict(getattr(codec, name)))
    record("everything")(Everything)
    yield


def test_both_directions() -> None:
    assert pack_record(FULL) == WIRE
    assert unpack_record("everything", WIRE) == FULL


def test_unknown_keys_are_ignored_and_defaults_fill_in() -> None:
    required = {key: WIRE[key] for key in list(WIRE)[:7]}
    read = unpack_record("everything", required | {"from_the_future": object()})
    assert read == Everything(*(getattr(FULL, key) for key in required))


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("number", "5", "key 'number': expected an integer, found str"),
        ("number", True, "found bool True"),
        ("number", 1.0, "found float 1.0"),
        ("number", None, "found NoneType None"),
        ("number", 1 << 64, "does not fit 64 bits"),
        ("number", -(1 << 63) - 1, "does not fit 64 bits"),
        ("flag", 1, "expected a boolean"),
        ("text", b"x", "expected text, found bytes"),
        ("text", "x" * (MAX_TEXT_SIZE + 1), "at most"),
        ("blob", "x", "expected bytes"),
        ("blob", bytes(MAX_BLOB_SIZE + 1), "at most"),
        ("ratio", 1, "expected a float"),
        ("colour", "green", "expected one of red, blue"),
        ("colour", ["red"], "expected one of red, blue"),
        ("inner", [1], "expected a map"),
        ("inner", {}, "key 'inner.number': the key is missing"),
        ("inner", {"number": 1, "pairs": [[1]]}, r"'inner.pairs\[0\]': expected 2 elements"),
        ("inner", {"number": 1, "pairs": [[1, 2]]}, "expected text"),
        ("maybe", "x", "expected an integer"),
        ("many", {}, "expected a list"),
        ("many", [{"number": 1}, {"number": ""}], r"key 'many\[1\].number'"),
        ("many", [0] * (MAX_ITEMS + 1), "elements, at most"),
        ("table", {1: []}, "expected text"),
        ("table", {"k": ["x"]}, r"key 'table\[k\]\[0\]'"),
        ("anything", {"k": b"bytes"}, "expected a JSON value"),
        ("anything", {1: 2}, "expected text"),
        ("anything", _nested(MAX_DEPTH + 1), "levels deep"),
    ],
)
def test_refuses_by_name(key: str, value: Any, words: str) -> None:
    with pytest.raises(ImageCorruptError, match=f"record 'everything'.*{words}"):
        unpack_record("everything", WIRE | {key: value})


@pytest.mark.parametrize("key", list(WIRE)[:7])
def test_a_missing_key_is_named(key: str) -> None:
    wire = {name: value for name, value in WIRE.items() if name != key}
    with pytest.raises(ImageCorruptError, match=f"'everything' key '{key}': the key is missing"):
        unpack_record("everything", wire)


def test_unknown_kind() -> None:
    with pytest.raises(ImageCorruptError, match="'nothing' is unknown"):
        unpack_record("nothing", {})
    assert codec.class_of("nothing") is None


@pytest.mark.parametrize(
    "change", [{"number": "5"}, {"many": [Inner(1)]}, {"inner": FULL}, {"colour": "red"}]
)
def test_a_wrong_type_on_the_way_out_is_a_bug_with_a_name(change: dict[str, Any]) -> None:
    (key,) = change
    broken = Everything(**{name: getattr(FULL, name) for name in WIRE} | change)
    with pytest.raises(TypeError, match=f"key '{key}'"):
        pack_record(broken)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", 1 << 64),
        ("text", "x" * (MAX_TEXT_SIZE + 1)),
        ("blob", bytes(MAX_BLOB_SIZE + 1)),
        ("many", (Inner(1),) * (MAX_ITEMS + 1)),
        ("anything", _nested(MAX_DEPTH + 1)),
    ],
)
def test_what_is_too_large_for_an_image_is_no_bug_of_ours(key: str, value: Any) -> None:
    large = Everything(**{name: getattr(FULL, name) for name in WIRE} | {key: value})
    with pytest.raises(ImageWriteError, match=f"record 'everything' key '{key}") as caught:
        pack_record(large)
    assert caught.value.reason == "record-too-large"


def test_integer_enums_are_integers() -> None:
    @dataclass(frozen=True, slots=True)
    class Signalled:
        number: int

    record("signalled")(Signalled)
    packed = pack_record(Signalled(signal.SIGTERM))
    assert packed == {"number": 15}
    assert type(packed["number"]) is int


def test_a_records_own_judgement_counts() -> None:
    @dataclass(frozen=True, slots=True)
    class Range:
        start: int
        end: int

        def __post_init__(self) -> None:
            if self.end < self.start:
                raise ValueError(f"ends at {self.end}, before its start {self.start}")

    record("range")(Range)
    with pytest.raises(ImageCorruptError, match="record 'range': ends at 1, before its start 2"):
        unpack_record("range", {"start": 2, "end": 1})


@pytest.mark.parametrize("hint", [list[int], set[str], object, dict[int, int], int | str, Any])
def test_other_annotations_are_refused(hint: Any) -> None:
    @dataclass(frozen=True, slots=True)
    class Odd:
        value: int

    Odd.__annotations__["value"] = hint
    record("odd")(Odd)
    with pytest.raises(TypeError, match=r"Odd.value"):
        pack_record(Odd(1))


def test_registration_rules() -> None:
    @dataclass(frozen=True)
    class NotSlotted:
        value: int

    @dataclass(slots=True)
    class NotFrozen:
        value: int

    for cls in (NotSlotted, NotFrozen, int):
        with pytest.raises(TypeError):
            record("rules")(cls)
    with pytest.raises(ValueError, match="taken by Everything"):
        record("everything")(Inner)
    with pytest.raises(ValueError, match="must match"):
        record("Not A Name")(Inner)
    with pytest.raises(TypeError, match="not a registered record"):
        pack_record(Inner(1))
