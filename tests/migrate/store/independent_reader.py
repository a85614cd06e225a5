"""A reader of stores that are not encrypted, written from docs/format.md alone.

It imports nothing of wherry; what it needs and the page does not say is a fault of the page.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from blake3 import blake3

PACK, INDEX, SNAPSHOT = 3, 4, 5


class RefusedError(Exception):
    """The bytes are not a store as the page describes it."""


def require(condition: bool, words: str) -> None:
    if not condition:
        raise RefusedError(words)


@dataclass
class Found:
    """One snapshot."""

    description: dict[str, Any]
    records: list[tuple[str, dict[str, Any]]]
    chunks: list[tuple[list[Any], bytes]]
    root: bytes


@dataclass
class Place:
    path: Path
    at: int
    stored: int
    plain: int
    compressed: bool


def read_store(path: Path) -> dict[str, Found]:
    """Every snapshot by its id, with all contents."""
    config = (path / "config").read_bytes()
    require(config[:8] == b"WHERRYC\n" and len(config) == 128, "config")
    require(config[120:] == blake3(config[:120]).digest()[:8], "check of config")
    major, _, words = struct.unpack_from("<HH4x8x5s", config, 8)
    require(major == 1 and config[24:64] == bytes(40) and len(words) == 5, "version, features")
    places: dict[bytes, Place] = {}
    for one in (path / "index").iterdir():
        first, _ = read_object(one, INDEX)
        read_index(path, first, places)
    return {one.name: read_snapshot(one, places) for one in (path / "snapshots").iterdir()}


def read_object(path: Path, kind: int) -> tuple[bytes, bytes]:
    raw = path.read_bytes()
    require(raw[:8] == b"WHERRYS\n" and raw[56:64] == blake3(raw[:56]).digest()[:8], "header")
    major, _, found, flags, zero, first, zero2, second, zero3 = struct.unpack_from(
        "<HHBBHIIQQ", raw, 8
    )
    require((major, found, flags) == (1, kind, 0) and not (zero or zero2 or zero3), "fields")
    require(raw[40:56].hex() == path.name and len(raw) == 64 + first + second, "id or size")
    parts = raw[64 : 64 + first], raw[64 + first :]
    return read_part(parts[0]), parts[1]


def read_part(part: bytes) -> bytes:
    require(part[:32] == blake3(part[32:]).digest(), "digest of a part")
    return part[32:]


def read_index(path: Path, raw: bytes, places: dict[bytes, Place]) -> None:
    at = 0
    while at < len(raw):
        pack_id, count, table, bodies = struct.unpack_from("<16sIIQ", raw, at)
        at += 32
        name = pack_id.hex()
        pack = path / "packs" / name[:2] / name
        require(pack.stat().st_size == 64 + table + bodies, "size of a pack")
        read_object(pack, PACK)
        for _ in range(count):
            chunk_id, offset, stored, plain, flags = struct.unpack_from("<32sIIII", raw, at)
            at += 48
            require(flags in (0, 1) and 0 < plain <= 1 << 20, "entry")
            places[chunk_id] = Place(pack, 64 + table + offset, stored, plain, flags == 1)


def read_snapshot(path: Path, places: dict[bytes, Place]) -> Found:
    first, second = read_object(path, SNAPSHOT)
    description = msgpack.unpackb(first)
    image = read_part(second)
    require(len(image) == description["image_size"], "size of the image")
    require(image[:8] == b"WHERRY\r\n" and image[24:32] == b"\2" + bytes(7), "image header")
    covered = blake3(image[:64])
    records, metas = b"", b""
    at, last = 64, 1
    while True:
        kind, flags, stored, plain = read_head(image, at)
        meta_size = int.from_bytes(image[at + 8 : at + 12], "little")
        end = at + 64 + meta_size
        body = image[end : end + stored]
        require(blake3(body).digest() == image[at + 24 : at + 56], "digest of a frame")
        require(kind in (1, 3, 4) and kind >= last, "type of a frame")
        if kind == 4:
            break
        covered.update(image[at:end])
        text = zstandard.decompress(body, max_output_size=plain) if flags else body
        records, metas = (records + text, metas) if kind == 1 else (records, metas + text)
        at, last = end + stored, kind
    meta = image[at + 64 : at + 152]
    covered.update(meta[:56])
    require(covered.digest() == meta[56:] == description["root"], "root digest")
    unpacked = list(unpack_all(metas))
    require(int.from_bytes(meta[24:32], "little") == len(unpacked), "count of chunks")
    chunks = [(one, read_chunk(one, places)) for one in unpacked]
    return Found(description, [(kind, one) for kind, one in unpack_all(records)], chunks, meta[56:])


def read_head(image: bytes, at: int) -> tuple[int, int, int, int]:
    kind, flags, _, _, _, stored, plain = struct.unpack_from("<BBHIIII", image, at)
    return kind, flags, stored, plain


def unpack_all(raw: bytes) -> Any:
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape")
    unpacker.feed(raw)
    return unpacker


def read_chunk(meta: list[Any], places: dict[bytes, Place]) -> bytes:
    _, _, runs, chunk_id = meta
    place = places[chunk_id]
    require(sum(runs[1::2]) == place.plain, "runs")
    with place.path.open("rb") as file:
        file.seek(place.at)
        stored = file.read(place.stored)
    plain = stored
    if place.compressed:
        plain = zstandard.decompress(stored, max_output_size=place.plain)
    require(blake3(plain).digest() == chunk_id, "a chunk is not what its name says")
    return plain
