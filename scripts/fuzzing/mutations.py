"""What can be wrong with an image: bytes that accidents change, and values that somebody forges.

Two families. *Accidents* change bytes and leave every check as it was: whoever still reads such an
image must get the contents it had. *Forgeries* make all checks, digests and counts right again, so
that what lies behind them is reached; what such an image says is its own truth.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from formats import wire
from formats.compression import Compressor, decompress
from formats.frames import FLAG_ZSTD, HEAD_SIZE, FrameType, Head, digest_of, pack_head
from formats.header import HEADER_SIZE, Header, pack_header
from formats.limits import CHUNK_SIZE, MAX_BLOCK_SIZE
from formats.manifest import END_META_SIZE, RootDigest
from formats.statefile import ImageReader

MARK = "wherry-escape"
"""A name that no file outside of a container may ever have."""

PATHS = (
    f"/{MARK}",
    f"../{MARK}",
    "../" * 12 + MARK,
    f"a/../../../../{MARK}",
    f"/../../{MARK}",
    f"/proc/self/root/../../{MARK}",
    f"/proc/1/root/tmp/{MARK}",
    f"//{MARK}//..//.",
    f"\0{MARK}",
    MARK + "/x" * 3000,
    MARK * 40,
    "",
    ".",
    "..",
    "/",
    "/dev/null",
    "\udcff\udcfe",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 4095, 4096, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 32, 1 << 40, (1 << 47) - 4096, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
           -(1 << 31), -(1 << 63))  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One image or file.

    Attributes:
        what: The change, for people.
        data: Its bytes.
        forged: Whether its checks were made right again.
    """

    what: str
    data: bytes
    forged: bool


class Original:
    """An image in pieces, from which forgeries are put together.

    Args:
        data: A whole image that is right.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.frames = list(for_each_frame(data))
        reader = ImageReader(io.BytesIO(data))
        self.records: list[Any] = [[kind, fields] for kind, fields in reader.for_each_raw_record()]
        self.chunks = [frame for frame in self.frames if frame[0] == FrameType.CHUNK]


Piece = tuple[int, bytes, bytes]
"""A frame as type, meta and plain body."""


def accident(dice: random.Random, data: bytes) -> Mutant:
    """Change bytes as disks, networks and people do."""
    raw = bytearray(data)
    at = dice.randrange(len(raw))
    size = min(dice.choice((1, 2, 8, 64, 512, 4096, 1 << 16)), len(raw) - at)
    match dice.randrange(9):
        case 0 | 1 | 2:
            count = dice.choice((1, 1, 1, 2, 8, 100))
            for _ in range(count):
                raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            what = f"{count} flipped bits"
        case 3:
            del raw[at:]
            what = f"cut at {at}"
        case 4:
            raw[at : at + size] = dice.randbytes(size)
            what = f"{size} bytes of noise at {at}"
        case 5:
            del raw[at : at + size]
            what = f"{size} bytes missing at {at}"
        case 6:
            raw[at:at] = raw[at : at + size]
            what = f"{size} bytes twice at {at}"
        case 7:
            to = dice.randrange(len(raw))
            raw[at : at + size], raw[to : to + size] = raw[to : to + size], raw[at : at + size]
            what = f"{size} bytes of {at} and {to} swapped"
        case _:
            raw[at : at + size] = bytes(size)
            what = f"{size} zeros at {at}"
    return Mutant(what, bytes(raw), forged=False)


def forgery(dice: random.Random, image: Original) -> Mutant:
    """Change what an image says, and make everything around it right."""
    made = dice.choice(_FORGERIES)
    what, data = made(dice, image)
    return Mutant(what, data, forged=True)


# Forgeries


def _record_values(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Other values in one to three records."""
    changed = {dice.randrange(len(image.records)) for _ in range(dice.choice((1, 1, 2, 3)))}
    records: list[Any] = [
        [kind, other_value(dice, fields)] if number in changed else [kind, fields]
        for number, (kind, fields) in enumerate(image.records)
    ]
    kinds = ", ".join(image.records[number][0] for number in sorted(changed))
    return f"values of {kinds}", _with_records(image, records)


def _record_order(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Records that are missing, twice, elsewhere, or under another kind."""
    records = list(image.records)
    at = dice.randrange(len(records))
    kind, fields = records[at]
    match dice.randrange(4):
        case 0:
            del records[at]
            what = f"{kind} missing"
        case 1:
            records.insert(dice.randrange(len(records)), records[at])
            what = f"{kind} twice"
        case 2:
            to = dice.randrange(len(records))
            records[at], records[to] = records[to], records[at]
            what = f"{kind} and {records[at][0]} swapped"
        case _:
            other = dice.choice(records)[0]
            records[at] = [other, fields]
            what = f"{kind} called {other}"
    return what, _with_records(image, records)


def _paths(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Names that lead elsewhere."""
    having = [n for n, (_, fields) in enumerate(image.records) if _has_path(fields)]
    at = dice.choice(having)
    kind, fields = image.records[at]
    path = dice.choice(PATHS)
    records = list(image.records)
    records[at] = [kind, _with_paths(dice, fields, path)]
    return f"{path[:40]!r} in {kind}", _with_records(image, records)


def _msgpack(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Bytes that are no records, are too deep, or promise too much."""
    deep = dice.choice((20, 33, 500, 1100, 100_000))
    what, body = dice.choice(
        (
            (f"msgpack nested {deep} deep", b"\x91" * deep + b"\xc0"),
            (f"maps nested {deep} deep", b"\x81\xa1a" * deep + b"\xc0"),
            (
                f"a record with {deep} levels",
                b"\x92\xa5image\x81\xa4spec" + b"\x91" * deep + b"\xc0",
            ),
            ("an array of 2**32 - 1", b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100),
            ("a map of 2**32 - 1", b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 100),
            ("a text of 4 GiB", b"\x92\xdb\xff\xff\xff\xff" + b"x" * 100),
            ("bytes of 4 GiB", b"\x92\xa5image\xc6\xff\xff\xff\xff"),
            ("nested arrays of 131072", (b"\xdd\x00\x02\x00\x00") * 1000),
            ("an extension", b"\x92\xa5image\xc7\x05\x01hello"),
            ("a map with a list as key", b"\x92\xa5image\x81\x91\x01\x02"),
            ("noise", dice.randbytes(2000)),
        )
    )
    frames = list(image.frames)
    frames[0] = (FrameType.RECORDS, b"", body)
    return what, assemble(frames)


def _bomb(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """A few bytes that become many."""
    size = dice.choice((1 << 20, 8 << 20, MAX_BLOCK_SIZE))
    inside: bytes = dice.choice(
        (
            bytes(size),
            (b"\x92\xadshared-memory\x82\xa9object_id\x01\xa4size\x01" * (size // 37))[:size],
            _values_bomb(dice, size - 100),
            _values_bomb(dice, size - 100),
        )
    )
    body = Compressor(3).compress(inside)
    assert body is not None
    match dice.randrange(4):
        case 0:  # promises what it holds
            promised = len(inside)
        case 1:
            promised = min(len(inside), len(body) + 1)
        case 2:
            promised = dice.choice((CHUNK_SIZE, 0xFFFF_FFFF))
        case _:
            body = body[:1000] + dice.randbytes(50)
            promised = len(inside)
    kind = dice.choice((FrameType.RECORDS, FrameType.CHUNK, FrameType.INDEX, 128))
    meta = image.chunks[0][1] if kind == FrameType.CHUNK else b""
    times = dice.choice((1, 1, 8, 40))
    out = bytearray(image.data[:HEADER_SIZE])
    sequence = 0
    for frame_kind, frame_meta, plain in image.frames[:1] if kind != FrameType.RECORDS else ():
        out += frame(frame_kind, frame_meta, plain, sequence)
        sequence += 1
    for _ in range(times):
        head = Head(int(kind), FLAG_ZSTD, sequence, len(meta), len(body), promised, digest_of(body))
        out += pack_head(head, meta) + body
        sequence += 1
    return f"{times} of {len(body)} bytes for {len(inside)} in frames of type {kind}", bytes(out)


def _values_bomb(dice: random.Random, size: int) -> bytes:
    """Records of small values: a byte of msgpack may become a hundred bytes of objects."""
    value = dice.choice((b"\x00", b"\x81\xa1a\x01", b"\x91\xa1b", b"\x90", b"\xa1c", b"\x80"))
    array = b"\xdd\x00\x01\x00\x00" + value * (1 << 16)
    one = b"\x92\xa5image\x81\xa4more" + array
    if dice.random() < 0.5:  # all of them in one value
        count = max(1, min(size // len(array), 60_000))
        return b"\x92\xa5image\x81\xa4more\xdc" + count.to_bytes(2, "big") + array * count
    return one * max(1, size // len(one))


def _heads(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Lengths and types that are not true, in a head whose check is right."""
    at = dice.randrange(len(image.frames))
    out = bytearray(image.data[:HEADER_SIZE])
    field = dice.choice(("type", "flags", "sequence", "meta_size", "stored_size", "plain_size"))
    value = dice.choice((0, 1, 2, 3, 4, 5, 64, 127, 128, 255, 65535, 65536, 1 << 20, (1 << 20) + 1,
                         1 << 25, (1 << 25) + 1, (1 << 31) - 1, (1 << 32) - 1))  # fmt: skip
    if field in ("type", "flags"):
        value &= 255
    for sequence, (kind, meta, plain) in enumerate(image.frames):
        head = Head(int(kind), 0, sequence, len(meta), len(plain), len(plain), digest_of(plain))
        if sequence == at:
            values = head._asdict() | {field: value}
            head = Head(**values)
        out += pack_head(head, meta) + plain
    return f"{field} of frame {at} is {value}", bytes(out)


def _metas(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Chunks that belong elsewhere, overlap, or are not what their names say."""
    frames = list(image.frames)
    at = dice.choice([n for n, one in enumerate(frames) if one[0] == FrameType.CHUNK])
    kind, meta, plain = frames[at]
    value = wire.unpack(meta)
    match dice.randrange(6):
        case 0:
            value[0] = dice.choice(NUMBERS)
        case 1:
            value[1] = dice.choice(NUMBERS)
        case 2:
            value[2] = [dice.choice(NUMBERS) for _ in range(dice.choice((0, 1, 2, 4, 9000)))]
        case 3:
            value[3] = dice.randbytes(dice.choice((0, 31, 32, 33)))
        case 4:
            value = dice.choice(([], None, {}, value[:3], [*value, 1]))
        case _:
            other = dice.choice(image.chunks)
            plain = other[2]
    frames[at] = (kind, wire.pack(value), plain)
    return f"meta of chunk frame {at}: {str(value)[:60]}", assemble(frames)


def _swapped_chunks(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Contents that change places, under names that say so or not."""
    frames = list(image.frames)
    numbers = [n for n, one in enumerate(frames) if one[0] == FrameType.CHUNK]
    one, two = dice.sample(numbers, 2)
    (kind, meta1, plain1), (_, meta2, plain2) = frames[one], frames[two]
    frames[one], frames[two] = (kind, meta1, plain2), (kind, meta2, plain1)
    return f"bodies of frames {one} and {two} swapped", assemble(frames)


def _frames_moved(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Frames that are missing, twice, or in another order, renumbered."""
    frames = list(image.frames)
    at = dice.randrange(len(frames))
    match dice.randrange(3):
        case 0:
            del frames[at]
        case 1:
            frames.insert(at, dice.choice(frames))
        case _:
            dice.shuffle(frames)
    return "frames moved", assemble(frames, index=dice.random() < 0.5)


def _ends(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Counts of the end frame."""
    fields = [dice.choice(NUMBERS) & 0xFFFF_FFFF for _ in range(8)]
    data = bytearray(image.data)
    meta = struct.pack("<QIIQQQQQ", *fields) + dice.randbytes(32)
    assert len(meta) == END_META_SIZE
    data[-(HEAD_SIZE + END_META_SIZE) :] = frame(FrameType.END, meta, b"", len(image.frames))
    return "counts of the end frame", bytes(data)


def _headers(dice: random.Random, image: Original) -> tuple[str, bytes]:
    """Versions and features."""
    header = Header(
        major=dice.choice((0, 1, 1, 2, 65535)),
        minor=dice.choice((0, 1, 65535)),
        compatible=dice.choice((0, 1, 1 << 63)),
        incompatible=dice.choice((0, 1, 2, 4, 1 << 63)),
    )
    return str(header), assemble(image.frames, header=pack_header(header))


Forge = Callable[[random.Random, Original], tuple[str, bytes]]
_FORGERIES: tuple[Forge, ...] = (
    _record_values, _record_values, _record_values, _record_values, _record_order, _paths, _paths,
    _msgpack, _bomb, _heads, _metas, _swapped_chunks, _frames_moved, _ends, _headers,
)  # fmt: skip
RESTORABLE: tuple[Forge, ...] = (
    _record_values, _record_values, _record_order, _paths, _paths, _metas, _bomb, _msgpack,
)  # fmt: skip
"""Forgeries that get so far that a restore begins to build something."""


# Putting images together


def frame(kind: int, meta: bytes, plain: bytes, sequence: int) -> bytes:
    """A frame with a right check and digest, not compressed."""
    head = Head(int(kind), 0, sequence, len(meta), len(plain), len(plain), digest_of(plain))
    return pack_head(head, meta) + plain


def assemble(frames: list[Piece], *, header: bytes | None = None, index: bool = True) -> bytes:
    """An image of these frames, with an index and an end that fit.

    Args:
        frames: Without index and end, which are passed over.
        header: Its first 64 bytes.
        index: Make one.
    """
    out = bytearray(pack_header(Header()) if header is None else header)
    root = RootDigest(bytes(out))
    counts = [0, 0, 0, 0]  # record frames, records, chunks, bytes of these
    entries = bytearray()
    sequence = 0

    def put(kind: int, meta: bytes, plain: bytes) -> None:
        nonlocal sequence
        raw = frame(kind, meta, plain, sequence)
        root.add(raw[: HEAD_SIZE + len(meta)])
        out.extend(raw)
        sequence += 1

    for kind, meta, plain in frames:
        if kind in (FrameType.INDEX, FrameType.END):
            continue
        if kind == FrameType.RECORDS:
            counts[0] += 1
            counts[1] += plain.count(b"\x92")  # about right; a reader will tell
        else:
            counts[2] += 1
            counts[3] += len(plain)
            raw = frame(kind, meta, plain, sequence)
            entries += struct.pack("<Q", len(out)) + raw[: HEAD_SIZE + len(meta)]
        put(kind, meta, plain)
    position, blocks = len(out), 0
    if index and entries:
        put(FrameType.INDEX, b"", bytes(entries))
        blocks = 1
    counts[1] = _count_records(frames, counts[1])
    size = len(out) + HEAD_SIZE + END_META_SIZE
    fixed = struct.pack(
        "<QIIQQQQQ", position, blocks, counts[0], counts[1], counts[2], counts[3], counts[3], size
    )
    put(FrameType.END, fixed + root.finish(fixed), b"")
    return bytes(out)


def _count_records(frames: list[Piece], otherwise: int) -> int:
    try:
        return sum(
            sum(1 for _ in wire.unpack_all(plain))
            for kind, _, plain in frames
            if kind == FrameType.RECORDS
        )
    except Exception:
        return otherwise  # it is no msgpack


def _with_records(image: Original, records: list[Any]) -> bytes:
    body = b"".join([wire.pack(one) for one in records])
    blocks: list[Piece] = [(FrameType.RECORDS, b"", body)]
    return assemble([*blocks, *image.chunks])


def for_each_frame(data: bytes) -> Iterator[Piece]:
    at = HEADER_SIZE
    while at < len(data):
        kind, flags = data[at], data[at + 1]
        meta_size, stored_size, plain_size = struct.unpack_from("<III", data, at + 8)
        body_at = at + HEAD_SIZE + meta_size
        body = data[body_at : body_at + stored_size]
        plain = decompress(body, plain_size) if flags & FLAG_ZSTD else body
        yield kind, data[at + HEAD_SIZE : body_at], plain
        at = body_at + stored_size


# Values


def other_value(dice: random.Random, value: Any) -> Any:
    """Something else where *value* is; of a list or map usually one element of it."""
    if isinstance(value, dict) and value and dice.random() < 0.95:
        key = dice.choice(list(value))
        changed = dict(value)
        if dice.random() < 0.1:
            del changed[key]
        else:
            changed[key] = other_value(dice, value[key])
        return changed
    if isinstance(value, list) and value and dice.random() < 0.9:
        at = dice.randrange(len(value))
        match dice.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case 2:
                return value * dice.choice((2, 30, 1000)) if len(value) < 100 else value[::-1]
            case _:
                return [*value[:at], other_value(dice, value[at]), *value[at + 1 :]]
    if dice.random() < 0.08:  # of another type
        return dice.choice((None, True, 7, 1.5, "text", b"bytes", [], {}, [[[]]], {"a": {}}))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = value + dice.choice((-4096, -1, 1, 4096, 1 << 32))
        return dice.choice((*NUMBERS, *([near] * 8))) if -(1 << 63) <= near < 1 << 64 else 0
    if isinstance(value, str):
        return dice.choice((*PATHS, "x" * 10_000, value + "x", value[:-1], value[::-1]))
    if isinstance(value, bytes):
        size = dice.choice((0, 1, len(value) + 1, max(0, len(value) - 1), 3 * len(value), 70_000))
        return dice.randbytes(size) if dice.random() < 0.5 else (value + bytes(size))[:size]
    return dice.choice((None, 0, "", [], {}))


def _has_path(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_path, value.values()))
    if isinstance(value, list):
        return any(map(_has_path, value))
    return isinstance(value, str | bytes) and "/" in str(value)


def _with_paths(dice: random.Random, value: Any, path: str) -> Any:
    """One path in there, or all of them, become *path*."""
    everywhere = dice.random() < 0.2
    left = dice.randrange(1, 1 + _count_paths(value))

    def walk(one: Any) -> Any:
        nonlocal left
        if isinstance(one, dict):
            return {key: walk(inner) for key, inner in one.items()}
        if isinstance(one, list):
            return [walk(inner) for inner in one]
        if not _has_path(one):
            return one
        left -= 1
        if not everywhere and left != 0:
            return one
        return path if isinstance(one, str) else path.encode(errors="surrogateescape")

    return walk(value)


def _count_paths(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_count_paths, value.values()))
    if isinstance(value, list):
        return sum(map(_count_paths, value))
    return int(_has_path(value))
