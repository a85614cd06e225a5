"""A second reader, written from docs/format.md alone. It imports nothing of wherry.

It is a test of the page as much as of the writer: what it needs and the page does not say is a
fault of the page.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any

import msgpack
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

RECORDS, CHUNK, INDEX, END = 1, 2, 3, 4
BOUNDS = {RECORDS: 33_554_432, CHUNK: 1_048_576, INDEX: 33_554_432, END: 0}


class RefusedError(Exception):
    """The bytes are not an image as the page describes it."""


def require(condition: bool, words: str) -> None:
    if not condition:
        raise RefusedError(words)


@dataclass
class Contents:
    """What an image holds."""

    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    chunks: list[tuple[int, int, list[tuple[int, int]], bytes]] = field(default_factory=list)
    root: bytes = b""


@dataclass
class Frame:
    kind: int
    position: int
    raw: bytes
    meta: bytes
    plain: bytes
    stored_size: int


def read(data: bytes) -> Contents:
    """Everything in an image, or RefusedError."""
    read_header(data)
    contents = Contents()
    covered = blake3(data[:64])
    index, expected_index = b"", b""
    seen: list[Frame] = []
    position, sequence = 64, 0
    while True:
        frame, position = read_frame(data, position, sequence)
        sequence += 1
        if frame.kind < 128:
            require(not seen or frame.kind >= seen[-1].kind, "order of frames")
            seen.append(frame)
        if frame.kind == END:
            break
        covered.update(frame.raw)
        if frame.kind == RECORDS:
            contents.records += read_records(frame.plain)
        elif frame.kind == CHUNK:
            contents.chunks.append(read_chunk(frame))
            expected_index += struct.pack("<Q", frame.position) + frame.raw
        elif frame.kind == INDEX:
            index += frame.plain
    require(position == len(data), "bytes after the end")
    require(index == expected_index, "index")
    contents.root = read_end(seen, contents, covered, len(data))
    return contents


def read_sealed(data: bytes, secret: bytes, method: str = "key-file") -> bytes:
    """The image in an encrypted state file that a password or a key file opens."""
    require(data[:8] == bytes.fromhex("57 48 45 52 52 59 0d 0a"), "magic")
    require(len(data) >= 68 and blake3(data[:56]).digest()[:8] == data[56:64], "header check")
    require(struct.unpack_from("<H4xQQ", data, 10)[1:] == (0, 1), "only the feature encryption")
    (size,) = struct.unpack_from("<I", data, 64)
    require(size <= 65_536 and 68 + size + 32 <= len(data), "key table")
    table = msgpack.unpackb(data[68 : 68 + size])
    (key,) = [key for key in table["keys"] if key["method"] == method]
    scrypt = Scrypt(salt=key["salt"], length=32, n=key["n"], r=key["r"], p=key["p"])
    about = table["id"] + method.encode()
    master = AESGCM(scrypt.derive(secret)).decrypt(key["nonce"], key["wrapped"], about)

    def derived(context: str) -> bytes:
        return blake3(master, derive_key_context=context).digest()

    base = 68 + size + 32
    check = blake3(data[: base - 32], key=derived("wherry 2026 state file: key check")).digest()
    require(check == data[base - 32 : base], "key check")
    cipher = AESGCM(derived("wherry 2026 state file: sealing of blocks"))
    blocks = [data[at : at + 65_552] for at in range(base, len(data), 65_552)]
    return b"".join(
        cipher.decrypt(struct.pack("<QI", number, number == len(blocks) - 1), block, None)
        for number, block in enumerate(blocks)
    )


def read_header(data: bytes) -> None:
    require(data[:8] == bytes.fromhex("57 48 45 52 52 59 0d 0a"), "magic")
    require(len(data) >= 64 and blake3(data[:56]).digest()[:8] == data[56:64], "header check")
    major, _minor, zero, _compatible, incompatible = struct.unpack_from("<HHIQQ", data, 8)
    require(major == 1, "major version")
    require(incompatible == 0, "incompatible features")
    require(zero == 0 and data[32:56] == bytes(24), "reserved bytes")


def read_frame(data: bytes, position: int, sequence: int) -> tuple[Frame, int]:
    require(position + 64 <= len(data), "cut short")
    head = data[position : position + 64]
    kind, flags, zero, number, meta_size, stored, plain, zero_too, digest, check = struct.unpack(
        "<BBHIIIII32s8s", head
    )
    require(meta_size <= 65_536, "meta size")
    body_at = position + 64 + meta_size
    require(body_at <= len(data), "cut short")
    meta = data[position + 64 : body_at]
    require(blake3(head[:56] + meta).digest()[:8] == check, "head check")
    require(zero == zero_too == 0 and flags in (0, 1), "reserved bytes and flags")
    require(number == sequence, "sequence")
    require(kind in BOUNDS or kind >= 128, "frame type")
    require(plain <= BOUNDS.get(kind, 33_554_432), "plain size")
    require(stored <= plain if flags else stored == plain, "stored size")
    require(kind not in (RECORDS, INDEX) or not meta, "meta where none belongs")
    require(body_at + stored <= len(data), "cut short")
    body = data[body_at : body_at + stored]
    require(blake3(body).digest() == digest, "digest")
    if flags:
        parameters = zstandard.get_frame_parameters(body)
        require(parameters.content_size == plain, "content size")
        require(not parameters.dict_id and not parameters.has_checksum, "zstd options")
        body = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    raw = data[position:body_at]
    return Frame(kind, position, raw, meta, body, stored), body_at + stored


def read_records(plain: bytes) -> list[tuple[str, dict[str, Any]]]:
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", max_ext_len=0)
    unpacker.feed(plain)
    records = []
    for kind, fields in unpacker:
        require(re.fullmatch(r"[a-z][a-z0-9-]{0,63}", kind) is not None, "kind")
        require(all(isinstance(key, str) for key in fields), "keys")
        records.append((kind, fields))
    return records


def read_chunk(frame: Frame) -> tuple[int, int, list[tuple[int, int]], bytes]:
    object_id, offset, flat, chunk_id = msgpack.unpackb(frame.meta)
    runs = [(flat[at], flat[at + 1]) for at in range(0, len(flat), 2)]
    require(1 <= len(runs) <= 4096, "count of runs")
    end = 0
    for start, length in runs:
        require(start >= end and length >= 1, "order of runs")
        end = start + length
    require(end <= 1_048_576, "reach of runs")
    require(sum(length for _, length in runs) == len(frame.plain), "sum of runs")
    require(blake3(frame.plain).digest() == chunk_id, "chunk id")
    return object_id, offset, [(offset + start, length) for start, length in runs], frame.plain


def read_end(seen: list[Frame], contents: Contents, covered: blake3, size: int) -> bytes:
    meta = seen[-1].meta
    require(len(meta) == 88, "meta of the end")
    indexes = [frame for frame in seen if frame.kind in (INDEX, END)]
    chunks = [frame for frame in seen if frame.kind == CHUNK]
    counts = (
        indexes[0].position,
        len(indexes) - 1,
        sum(frame.kind == RECORDS for frame in seen),
        len(contents.records),
        len(chunks),
        sum(len(frame.plain) for frame in chunks),
        sum(frame.stored_size for frame in chunks),
        size,
    )
    require(struct.unpack_from("<QIIQQQQQ", meta) == counts, "counts of the end")
    covered.update(meta[:56])
    require(covered.digest() == meta[56:], "root digest")
    return meta[56:]
