"""Snapshots: images in a store, with a time and tags, and how people name them.

A snapshot object has two parts: a *description* (msgpack, small, so that a list of snapshots is
quick) and the image (`formats.external`).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from formats import wire
from formats.errors import ImageCorruptError
from migrate.errors import StoreError
from migrate.store.objects import damaged

MAX_TAGS = 64
MAX_TAG_SIZE = 128
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/-]*")
_PREFIX = re.compile(r"[0-9a-f]{1,32}")
_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store's list says about one snapshot.

    Attributes:
        snapshot_id: 16 bytes.
        container_id: Of the container, at the time.
        created_ns: Wall-clock time of the freeze, UTC.
        hostname: Of the host it was made on.
        tags: Sorted.
        root: Root digest of the image.
        image_size: Bytes of the image, its contents not counted.
        chunks: Chunks of the image.
        plain_bytes: Bytes of these.
        new_chunks: Chunks that the store did not have before.
        new_bytes: What they have added to the store, stored bytes.
        frozen_ns: How long the container stood still.
        wherry_version: Of the program that wrote it.
        signer, signature: Ed25519 public key and signature (`migrate.store.signing`); empty when
            it is not signed.
    """

    snapshot_id: bytes
    container_id: str
    created_ns: int
    hostname: str
    tags: tuple[str, ...]
    root: bytes
    image_size: int
    chunks: int
    plain_bytes: int
    new_chunks: int
    new_bytes: int
    frozen_ns: int
    wherry_version: str
    signer: bytes = b""
    signature: bytes = b""

    @property
    def short_id(self) -> str:
        """Enough of the id for people."""
        return self.snapshot_id.hex()[:8]

    @property
    def created(self) -> datetime.datetime:
        """The time of the freeze, UTC."""
        return datetime.datetime.fromtimestamp(self.created_ns / 1e9, datetime.UTC)


_FIELDS = [field for field in dataclasses.fields(Snapshot) if field.name != "snapshot_id"]
_TYPES: dict[str, type] = {"int": int, "str": str, "bytes": bytes, "tuple[str, ...]": list}
_SIGNATURES = ((0, 0), (32, 64))  # sizes of key and signature
_MAX_CREATED_NS = 253_402_300_799 * 10**9  # the last second of the year 9999


def pack_description(snapshot: Snapshot) -> bytes:
    """The first part of a snapshot object."""
    values = {field.name: getattr(snapshot, field.name) for field in _FIELDS}
    return wire.pack(values | {"tags": list(snapshot.tags)})


def unpack_description(payload: bytes, snapshot_id: bytes, name: str) -> Snapshot:
    """Read and judge a description; StoreError ``store-damaged``."""
    try:
        value = wire.unpack(payload)
    except ImageCorruptError as exc:
        raise damaged(name, str(exc)) from None
    if type(value) is not dict:
        raise damaged(name, "is malformed")
    fields: dict[str, Any] = {}
    for field in _FIELDS:
        absent = None if field.default is dataclasses.MISSING else field.default
        found = value.get(field.name, absent)
        if type(found) is not _TYPES[str(field.type)] or (type(found) is int and found < 0):
            raise damaged(name, f"has no valid {field.name}")
        fields[field.name] = found
    tags = fields["tags"]
    if len(tags) > MAX_TAGS or any(type(tag) is not str or not _TAG.fullmatch(tag) for tag in tags):
        raise damaged(name, "has no valid tags")
    if fields["created_ns"] > _MAX_CREATED_NS or len(fields["root"]) != 32:
        raise damaged(name, "has values out of range")
    if (len(fields["signer"]), len(fields["signature"])) not in _SIGNATURES:
        raise damaged(name, "has no valid signature")
    return Snapshot(snapshot_id, **(fields | {"tags": tuple(tags)}))


def check_tag(tag: str) -> str:
    """A tag as it may be; StoreError (``tag``) otherwise."""
    if not _TAG.fullmatch(tag) or len(tag) > MAX_TAG_SIZE or tag == "latest":
        raise StoreError(
            f"{tag!r} is no tag: letters, digits and ._:+/- make one, of {MAX_TAG_SIZE} at most",
            reason="tag",
        )
    return tag


def find_snapshot(snapshots: Sequence[Snapshot], wanted: str, url: str) -> Snapshot:
    """The snapshot that somebody means.

    Args:
        snapshots: All of the store's.
        wanted: An id, ``latest``, a tag (its latest), a container's id (its latest), the beginning
            of an id, or ``container@time``: the container's latest at that time, UTC.
        url: The store, for messages.

    Raises:
        StoreError: Reason ``no-such-snapshot`` or ``ambiguous-snapshot``.
    """
    ordered = sorted(snapshots, key=lambda one: (one.created_ns, one.snapshot_id))
    container, at, moment = wanted.partition("@")
    if at:
        limit = _moment_ns(moment)
        found = [one for one in ordered if one.container_id == container and one.created_ns < limit]
    elif wanted == "latest":
        found = ordered
    else:
        # What people have named comes before what looks like it by chance: "b" may begin an id.
        found = [one for one in ordered if one.snapshot_id.hex() == wanted]
        found = found or [one for one in ordered if wanted in one.tags]
        found = found or [one for one in ordered if one.container_id == wanted]
        found = found or _by_id(ordered, wanted, url)
    if not found:
        raise StoreError(f"{url}: no snapshot {wanted!r}", reason="no-such-snapshot")
    return found[-1]


def _by_id(ordered: Sequence[Snapshot], wanted: str, url: str) -> list[Snapshot]:
    if not _PREFIX.fullmatch(wanted):
        return []
    found = [one for one in ordered if one.snapshot_id.hex().startswith(wanted)]
    if len(found) > 1:
        ids = ", ".join(one.snapshot_id.hex()[: len(wanted) + 4] for one in found[:4])
        raise StoreError(
            f"{url}: {wanted!r} is the beginning of {len(found)} snapshots ({ids}…)",
            reason="ambiguous-snapshot",
        )
    return found


def _moment_ns(text: str) -> int:
    """The first nanosecond after a moment, which is as long as it is exact: a day, a second."""
    text = text.removesuffix("Z")
    lengths = (86_400, 60, 1, 1)
    for form, length_s in zip(_TIMES, lengths, strict=True):
        try:
            moment = datetime.datetime.strptime(text, form).replace(tzinfo=datetime.UTC)
        except ValueError:
            continue
        return (int(moment.timestamp()) + length_s) * 10**9
    raise StoreError(
        f"{text!r} is no time; write 2026-01-31 or 2026-01-31T12:30:00, UTC", reason="time"
    )
