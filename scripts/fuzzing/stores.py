"""What can be wrong with a store, and reading one of which anything may be wrong."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from formats import wire
from formats.errors import WherryError
from formats.frames import HEAD_SIZE, FrameType, digest_of
from formats.header import EXTERNAL_CHUNKS, Header, pack_header
from formats.manifest import END_META_SIZE, RootDigest
from migrate.errors import StoreError
from migrate.store.backend import Backend
from migrate.store.check import check_store
from migrate.store.config import CONFIG_SIZE, Operation, StoreConfig
from migrate.store.crypto import unlock
from migrate.store.objects import HEADER_SIZE, Kind
from migrate.store.prune import prune
from migrate.store.reading import open_snapshot
from migrate.store.sealing import Seal
from migrate.store.stats import read_stats
from migrate.store.store import Store, open_store
from scripts.fuzzing.mutations import (
    NUMBERS,
    Original,
    accident,
    for_each_frame,
    frame,
    other_value,
)
from scripts.fuzzing.subjects import StoreSubject

_OBJECT = struct.Struct("<8sHHBBHIIQQ16s")


def mutate_store(
    dice: random.Random, subject: StoreSubject, image: Original, to: Path
) -> tuple[str, bool]:
    """Make a copy of a store with something wrong.

    Returns:
        What is wrong, and whether it was made to look right.
    """
    shutil.copytree(subject.path, to, copy_function=os.link)
    files = sorted(path for path in to.rglob("*") if path.is_file())
    victim = dice.choice(files)
    name = str(victim.relative_to(to))
    forge = dice.random() < 0.5
    if not forge:
        if dice.random() < 0.65:
            mutant = accident(dice, victim.read_bytes())
            _replace(victim, mutant.data)
            return f"{name}: {mutant.what}", False
        return f"{name}: {_misplace(dice, victim, files)}", False
    if name == "config":
        return f"config: {_forge_config(dice, victim)}", True
    if subject.secret is None and dice.random() < 0.75:
        return f"{name}: {_forge_payload(dice, victim, image)}", True
    return f"{name}: {_forge_header(dice, victim)}", True


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # the original has the same inode
    path.write_bytes(data)


def _misplace(dice: random.Random, victim: Path, files: list[Path]) -> str:
    """Other files where objects belong."""
    other = dice.choice(files)
    match dice.randrange(8):
        case 0:
            victim.unlink()
            return "is missing"
        case 1:
            data = other.read_bytes()
            if other != victim:
                _replace(other, victim.read_bytes())
                _replace(victim, data)
            return f"swapped with {other.name}"
        case 2:
            name = dice.randbytes(16).hex()
            (victim.parent / name).hardlink_to(victim)
            return "under another name, too"
        case 3:
            victim.unlink()
            victim.mkdir()
            return "is a directory"
        case 4:
            victim.unlink()
            os.mkfifo(victim)
            return "is a fifo"
        case 5:
            victim.unlink()
            target = dice.choice(("/dev/zero", "/etc/passwd", str(victim), "/nowhere"))
            victim.symlink_to(target)
            return f"is a link to {target}"
        case 6:
            data = victim.read_bytes()
            _replace(victim, data)
            os.truncate(victim, 1 << 40)
            return "is a tebibyte long"
        case _:
            _replace(victim, b"")
            return "is empty"


def _forge_config(dice: random.Random, path: Path) -> str:
    raw = bytearray(path.read_bytes())
    at = dice.randrange(8, CONFIG_SIZE - 8)
    raw[at] = dice.choice((0, 1, 2, 3, 128, 255))
    raw[-8:] = digest_of(bytes(raw[:-8]))[:8]
    _replace(path, bytes(raw))
    return f"byte {at} is {raw[at]}"


def _forge_header(dice: random.Random, path: Path) -> str:
    raw = path.read_bytes()
    fields = list(_OBJECT.unpack_from(raw))
    at = dice.choice((1, 2, 3, 4, 6, 6, 8, 8, 9))
    sizes = {1: 16, 2: 16, 3: 8, 4: 8, 6: 32, 8: 64, 9: 64}
    fields[at] = dice.choice(NUMBERS) & ((1 << sizes[at]) - 1)
    _replace(path, _object(fields) + raw[HEADER_SIZE:])
    return f"field {at} of its header is {fields[at]}"


def _object(fields: list[object]) -> bytes:
    fixed = _OBJECT.pack(*fields)
    return fixed + digest_of(fixed)[:8]


def _forge_payload(dice: random.Random, path: Path, image: Original) -> str:
    """Other payloads, under right digests."""
    raw = path.read_bytes()
    fields: list[object] = list(_OBJECT.unpack_from(raw))
    kind = Kind(int(str(fields[3])))
    cut = HEADER_SIZE + int(str(fields[6]))
    first, second = raw[HEADER_SIZE + 32 : cut], raw[cut:]
    what = "payload"
    if kind is Kind.SNAPSHOT:
        description = wire.unpack(first)
        inner = second[32:]
        if dice.random() < 0.6:
            what, inner = _forge_image(dice, inner, image)
            if dice.random() < 0.9:
                description |= {"root": inner[-32:], "image_size": len(inner)}
        else:
            description = other_value(dice, description)
            what = "description"
        first, second = wire.pack(description), digest_of(inner) + inner
    elif kind in (Kind.PACK, Kind.INDEX):
        table = bytearray(first)
        for _ in range(dice.choice((1, 1, 3))):
            at = dice.randrange(max(1, len(table) // 4)) * 4
            number = dice.choice(NUMBERS) & 0xFFFF_FFFF
            table[at : at + 4] = struct.pack("<I", number)
        if dice.random() < 0.2:
            table *= dice.choice((2, 200))
        what, first = "table", bytes(table)
        if kind is Kind.PACK and dice.random() < 0.5:
            second = accident(dice, second).data
    else:
        first = wire.pack(other_value(dice, wire.unpack(first)))
    part = digest_of(first) + first
    fields[6], fields[8] = len(part), len(second)
    _replace(path, _object(fields) + part + second)
    return f"forged {what}"


def _forge_image(dice: random.Random, inner: bytes, image: Original) -> tuple[str, bytes]:
    """A snapshot's image with other records or other chunks."""
    external = list(for_each_frame(inner))
    metas = [
        one
        for kind, _, plain in external
        if kind == FrameType.INDEX
        for one in wire.unpack_all(plain)
    ]
    records = list(image.records)
    if dice.random() < 0.5:
        at = dice.randrange(len(records))
        kind, values = records[at]
        records[at] = [kind, other_value(dice, values)]
        what = f"values of {kind}"
    elif dice.random() < 0.2:
        body, what = b"\x91" * 100_000, "metas nested 100000 deep"
        return what, _external(records, body, len(metas), 0)
    else:
        at = dice.randrange(len(metas))
        metas[at] = other_value(dice, metas[at])
        if dice.random() < 0.2:
            metas *= dice.choice((2, 100))
        what = "metas of chunks"
    body = b"".join([wire.pack(one) for one in metas])
    try:
        plain_bytes = sum(sum(one[2][1::2]) for one in metas)
    except (TypeError, IndexError, KeyError):
        plain_bytes = 0
    return what, _external(records, body, len(metas), plain_bytes & ((1 << 64) - 1))


def _external(records: list[Any], metas: bytes, count: int, plain_bytes: int) -> bytes:
    out = bytearray(pack_header(Header(incompatible=EXTERNAL_CHUNKS)))
    root = RootDigest(bytes(out))
    body = b"".join([wire.pack(one) for one in records])
    position = 0
    for sequence, (kind, plain) in enumerate(((FrameType.RECORDS, body), (FrameType.INDEX, metas))):
        position = len(out)
        raw = frame(kind, b"", plain, sequence)
        root.add(raw[:HEAD_SIZE])
        out += raw
    size = len(out) + HEAD_SIZE + END_META_SIZE
    fixed = struct.pack("<QIIQQQQQ", position, 1, 1, len(records), count, plain_bytes, 0, size)
    return bytes(out) + frame(FrameType.END, fixed + root.finish(fixed), b"", 2)


# Reading


def read_contents(store: Store, snapshot_id: bytes) -> bytes:
    """A digest of all that a snapshot holds."""
    _, reader, chunks = open_snapshot(store, snapshot_id)
    try:
        found = blake3(repr(reader.records()).encode(errors="surrogateescape"))
        for chunk in reader.chunks():
            found.update(repr((chunk.object_id, chunk.offset, chunk.runs)).encode())
            found.update(chunk.unpack())
        reader.finish()
        return found.digest()
    finally:
        chunks.close()


def use_store(path: Path, subject: StoreSubject, forged: bool) -> str | None:
    """Do with a store what people do with one.

    Returns:
        What is wrong with what was read; None when all is right.

    Raises:
        WherryError: Something of it was refused.
    """
    refusals: list[WherryError] = []

    def attempt(step: Callable[[], object]) -> None:
        try:
            step()
        except WherryError as exc:
            refusals.append(exc)

    def unlocked(backend: Backend, config: StoreConfig) -> Seal:
        if subject.secret is None:
            raise StoreError("it wants a key, and has none", reason="store-key")
        return unlock(backend, config, subject.secret)

    with open_store(str(path), Operation.READ, unlocked) as store:
        before = _readable(store, refusals)
        attempt(lambda: read_stats(store))
        attempt(lambda: check_store(store, read_data=True, progress=lambda *_: None))
        attempt(lambda: prune(store, dry_run=True))
        attempt(lambda: prune(store, max_unused=0))
        after = _readable(store, refusals)
    lost = [one.hex()[:8] for one in before if before[one] != after.get(one)]
    if lost:
        return f"a prune has spoiled {', '.join(lost)}"
    if not forged:
        for snapshot_id, digest in before.items():
            if digest not in (None, subject.contents.get(snapshot_id)):
                return f"snapshot {snapshot_id.hex()[:8]} is another one now"
    if refusals:
        raise refusals[0]
    return None


def _readable(store: Store, refusals: list[WherryError]) -> dict[bytes, bytes]:
    found = {}
    for snapshot in store.snapshots(failures=refusals):
        try:
            found[snapshot.snapshot_id] = read_contents(store, snapshot.snapshot_id)
        except WherryError as exc:
            refusals.append(exc)
    return found
