"""Small images and sample records for the tests of the format."""

from __future__ import annotations

import dataclasses
import enum
import io
import itertools
import random
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from formats.limits import CHUNK_SIZE, INT_MAX, INT_MIN
from formats.records.codec import Record
from formats.records.image import Host, Image
from formats.records.memory import SharedMemory
from formats.statefile import ImageSummary, ImageWriter, Sink

PAGE = 4096

Content = tuple[int, int, tuple[tuple[int, int], ...], bytes]
"""A chunk as a test states it: object id, offset, runs, plain bytes."""


def copy_of(data: bytes) -> Callable[[memoryview], None]:
    """A ``fill`` that provides *data*."""

    def fill(view: memoryview) -> None:
        view[:] = data

    return fill


def half_compressible(size: int, seed: int = 1) -> bytes:
    """Bytes of which every other page repeats itself."""
    noise = random.Random(seed)
    pages = [
        noise.randbytes(PAGE) if number % 2 else b"wherry! " * (PAGE // 8)
        for number in range(-(-size // PAGE))
    ]
    return b"".join(pages)[:size]


def small_records() -> list[Record]:
    return [
        Image("web", 1_700_000_000_000_000_000, "0.1.0", {"hostname": "w"}, {"bundle": "/b\udcff"}),
        Host("x86_64", "6.18", "here", PAGE, ("fpu", "sse2"), 2696, b"\x01" * 32, 5, 6),
        *(SharedMemory(number, number * PAGE) for number in range(20)),
    ]


def small_chunks() -> list[Content]:
    """A compressed chunk, one stored as it is, one of several runs."""
    noise = random.Random(7)
    return [
        (1, 0x7F0000000000, ((0x7F0000000000, 2 * PAGE),), b"ab" * PAGE),
        (1, 0x7F0000100000, ((0x7F0000102000, 512),), noise.randbytes(512)),
        (2, CHUNK_SIZE, ((CHUNK_SIZE, 100), (CHUNK_SIZE + PAGE, 28)), noise.randbytes(64) * 2),
    ]


def write_image(
    sink: Sink,
    records: Sequence[Record] | None = None,
    chunks: Sequence[Content] | None = None,
    *,
    workers: int = 2,
) -> ImageSummary:
    """Write an image of the given records and chunks, by default the small ones."""
    with ImageWriter(sink, workers=workers) as writer:
        for rec in small_records() if records is None else records:
            writer.add_record(rec)
        for object_id, offset, runs, plain in small_chunks() if chunks is None else chunks:
            writer.add_chunk(object_id, offset, runs, copy_of(plain))
        return writer.finish()


def image_bytes(
    records: Sequence[Record] | None = None, chunks: Sequence[Content] | None = None
) -> bytes:
    """The bytes of an image, written without threads."""
    sink = io.BytesIO()
    write_image(sink, records, chunks, workers=0)
    return sink.getvalue()


# Sample records, by reflection


def samples_of(cls: type) -> list[Any]:
    """Records of *cls*: one with plain values, one with extreme values, one of defaults only."""
    made = [_make(cls, rich=True, turn=itertools.count(1)), _make(cls, rich=False, turn=None)]
    required = [field for field in dataclasses.fields(cls) if _is_required(field)]
    hints = typing.get_type_hints(cls, include_extras=True)
    made.append(cls(**{field.name: _value(hints[field.name], True, None) for field in required}))
    return made


def _make(cls: type, *, rich: bool, turn: Any) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)
    return cls(**{field.name: _value(hints[field.name], rich, turn) for field in fields})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _value(hint: Any, rich: bool, turn: Any) -> Any:
    """A value for an annotation; *rich* ones are full, others as small or extreme as allowed."""
    number = next(turn) if turn is not None else 0
    simple = {
        int: number if rich else (INT_MAX, INT_MIN)[number % 2],
        bool: rich,
        str: f"text {number} é\udc80" if rich else "",
        bytes: bytes([number % 256]) * 3 if rich else b"",
        float: number / 3,
    }
    if isinstance(hint, type) and hint in simple:
        return simple[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if getattr(hint, "__metadata__", None):
        return {"key": [1, 2.5, None, True, "text", {"deep": []}]} if rich else None
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not types.NoneType)
        return _value(inner, rich, turn) if rich else None
    if origin is tuple and args[-1] is Ellipsis:
        return tuple(_value(args[0], rich, turn) for _ in range(3)) if rich else ()
    if origin is tuple:
        return tuple(_value(arg, rich, turn) for arg in args)
    if origin is dict:
        return {f"key {n}": _value(args[1], rich, turn) for n in range(2)} if rich else {}
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        members = list(hint)
        return members[number % len(members)]
    return _make(hint, rich=rich, turn=turn)
