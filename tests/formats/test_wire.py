"""msgpack within bounds."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from formats import wire
from formats.errors import ImageCorruptError, ImageWriteError
from formats.limits import MAX_BLOB_SIZE, MAX_ITEMS, MAX_TEXT_SIZE


@pytest.mark.parametrize(
    "value",
    [None, True, -(1 << 63), (1 << 64) - 1, 1.5, "é", "/tmp/\udcff", b"\xff", [1, [2]], {"a": {}}],
)
def test_round_trip(value: Any) -> None:
    assert wire.unpack(wire.pack(value)) == value


def test_text_that_is_not_utf8_keeps_its_bytes() -> None:
    assert wire.pack("\udcff") == b"\xa1\xff"


def test_text_that_is_neither_is_a_sentence() -> None:
    with pytest.raises(ImageWriteError, match="no text"):
        wire.pack({"hostname": "\ud800"})


@pytest.mark.parametrize("value", [{1, 2}, object(), 1 << 64, (1, 2)])
def test_refuses_to_write(value: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        wire.pack(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x02",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xd4\x01\x02",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x81\x01\x02",
        b"\x81\x90\x01",
        b"\x91" * 100_000,
        b"\xdd" + (MAX_ITEMS + 1).to_bytes(4) + bytes(MAX_ITEMS + 1),
        b"\xdb" + (MAX_TEXT_SIZE + 1).to_bytes(4) + b"a" * (MAX_TEXT_SIZE + 1),
        b"\xc6" + (MAX_BLOB_SIZE + 1).to_bytes(4) + bytes(MAX_BLOB_SIZE + 1),
    ],
    ids=lambda data: data[:6].hex(),
)
def test_refuses_to_read(data: bytes) -> None:
    with pytest.raises(ImageCorruptError):
        wire.unpack(data)


def test_nested_headers_do_not_multiply() -> None:
    data = (b"\xdd" + MAX_ITEMS.to_bytes(4)) * 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ImageCorruptError):
            wire.unpack(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Untouched pointers of the arrays that were opened, which the kernel never had to provide.
    assert peak < 1 << 30


def test_several_values_are_read_to_the_last_byte() -> None:
    data = wire.pack(1) + wire.pack(None) + wire.pack([2])
    assert list(wire.unpack_all(data)) == [1, None, [2]]
    with pytest.raises(ImageCorruptError):
        list(wire.unpack_all(data + b"\x92"))
