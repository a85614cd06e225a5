"""BPF maps, bpf(2)."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@record("bpf-map")
@dataclass(frozen=True, slots=True)
class BpfMap:
    """A map.

    Attributes:
        object_id: Id.
        kind: ``BPF_MAP_TYPE_*``.
        key_size: Bytes.
        value_size: Bytes.
        max_entries: At most as many.
        flags: ``BPF_F_*``.
        name: At most 15 bytes.
        extra: ``map_extra``.
        frozen: Whether system calls can change it no more.
        entries: Blocks of keys, one after the other, and their values.
    """

    object_id: int
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: bytes
    extra: int
    frozen: bool
    entries: tuple[tuple[bytes, bytes], ...]


@record("file-bpf-map")
@dataclass(frozen=True, slots=True)
class BpfMapFile:
    """A descriptor of a map; ``flags`` has its access mode."""

    file_id: int
    map_id: int
    flags: int
    owner: Owner | None = None
