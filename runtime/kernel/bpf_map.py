"""bpf(2): maps, what they are and what is in them.

Source: man 2 bpf, include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.kernel.bpf import bpf_attr, bpf_call

BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM = 0, 1, 2
BPF_MAP_GET_NEXT_KEY, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 4, 14, 15
BPF_MAP_FREEZE, BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH = 22, 24, 26

BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY = 1, 2
BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LPM_TRIE = 9, 11
BPF_F_NUMA_NODE, BPF_F_RDONLY, BPF_F_WRONLY = 1 << 2, 1 << 3, 1 << 4

# struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name, ifindex,
# btf_vmlinux_value_type_id, netns_dev, netns_ino, btf_id and two types, vmlinux, extra
_INFO = struct.Struct("<6I16sIIQQ4IQ")
_CREATE = "<7I"  # and the name, see `create_map`
_NAME_OFFSET, _EXTRA_OFFSET = 28, 64
_ENOTSUPP = 524  # include/linux/errno.h, which user space should never see
_BATCH_ENTRIES = 4096
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What a map is.

    Attributes:
        kind: ``BPF_MAP_TYPE_*``.
        number: Its id on this host.
        key_size: Bytes.
        value_size: Bytes.
        max_entries: At most as many.
        flags: ``BPF_F_*`` as given to its creation.
        name: At most 15 bytes.
        extra: ``map_extra``.
        has_types: Whether it describes keys and values by BTF.
    """

    kind: int
    number: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: bytes
    extra: int
    has_types: bool


def map_info(fd: int) -> MapInfo:
    """Ask a map's descriptor what it is."""
    room = ctypes.create_string_buffer(_INFO.size)
    attr = bpf_attr("<IIQ", fd, _INFO.size, ctypes.addressof(room))
    bpf_call("map info", BPF_OBJ_GET_INFO_BY_FD, attr)
    fields = _INFO.unpack(room.raw)
    kind, number, key_size, value_size, max_entries, flags, name = fields[:7]
    return MapInfo(
        kind=kind,
        number=number,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        flags=flags,
        name=name.rstrip(b"\0"),
        extra=fields[-1],
        has_types=bool(fields[11]),
    )


def open_map(number: int, flags: int = 0) -> int:
    """A descriptor (close-on-exec) of the map with an id.

    Args:
        number: As in `MapInfo`.
        flags: ``BPF_F_RDONLY`` or ``BPF_F_WRONLY``.
    """
    return bpf_call("map by id", BPF_MAP_GET_FD_BY_ID, bpf_attr("<III", number, 0, flags))


def create_map(info: MapInfo) -> int:
    """Make a map like *info* and return its descriptor (close-on-exec).

    Raises:
        PermissionError: No CAP_BPF.
    """
    flags = info.flags & ~(BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY)
    attr = bpf_attr(
        _CREATE, info.kind, info.key_size, info.value_size, info.max_entries, flags, 0, 0
    )
    ctypes.memmove(ctypes.addressof(attr) + _NAME_OFFSET, info.name[:15], len(info.name[:15]))
    struct.pack_into("<Q", attr, _EXTRA_OFFSET, info.extra)
    return bpf_call("map create", BPF_MAP_CREATE, attr)


def freeze_map(fd: int) -> None:
    """Let nobody change a map through system calls any more (Linux 5.2)."""
    bpf_call("map freeze", BPF_MAP_FREEZE, bpf_attr("<I", fd))


def read_map(fd: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a map, in blocks: keys one after the other, and their values."""
    try:
        yield from _read_batches(fd, info)
    except OSError as exc:
        if exc.errno not in (_ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # Not every type, and no kernel before 5.6, gives many at once.
        yield from _read_singly(fd, info)


def _read_batches(fd: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    # A hash gives whole buckets: ENOSPC asks for more room than one of them needs.
    entries = max(64, min(_BATCH_ENTRIES, _BATCH_BYTES // (info.key_size + info.value_size)))
    # Its position is a bucket's number; that of others is a key.
    position_size = max(8, info.key_size)
    position = ctypes.create_string_buffer(position_size)
    first = True
    while True:
        keys = ctypes.create_string_buffer(entries * info.key_size)
        values = ctypes.create_string_buffer(entries * info.value_size)
        following = ctypes.create_string_buffer(position_size)
        attr = bpf_attr(
            "<4Q2I2Q",
            0 if first else ctypes.addressof(position),
            ctypes.addressof(following),
            ctypes.addressof(keys),
            ctypes.addressof(values),
            entries,
            fd,
            0,
            0,
        )
        ended = False
        try:
            bpf_call("map lookup batch", BPF_MAP_LOOKUP_BATCH, attr)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                entries *= 2
                continue
            if exc.errno != errno.ENOENT:
                raise
            ended = True
        (count,) = struct.unpack_from("<I", attr, 32)
        if count:
            yield keys.raw[: count * info.key_size], values.raw[: count * info.value_size]
        if ended:
            return
        position, first = following, False


def _read_singly(fd: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    key = ctypes.create_string_buffer(max(1, info.key_size))
    following = ctypes.create_string_buffer(max(1, info.key_size))
    value = ctypes.create_string_buffer(info.value_size)
    address = 0
    while True:
        attr = bpf_attr("<IxxxxQQQ", fd, address, ctypes.addressof(following), 0)
        try:
            bpf_call("map next key", BPF_MAP_GET_NEXT_KEY, attr)
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return
            raise
        ctypes.memmove(key, following, info.key_size)
        address = ctypes.addressof(key)
        attr = bpf_attr("<IxxxxQQQ", fd, address, ctypes.addressof(value), 0)
        bpf_call("map lookup", BPF_MAP_LOOKUP_ELEM, attr)
        yield key.raw[: info.key_size], value.raw


def fill_map(fd: int, info: MapInfo, keys: bytes, values: bytes) -> None:
    """Put entries into a map.

    Args:
        fd: The map.
        info: What it is.
        keys: One after the other.
        values: Likewise, as many.
    """
    for index in range(len(keys) // info.key_size):
        key = ctypes.create_string_buffer(
            keys[index * info.key_size : (index + 1) * info.key_size], info.key_size
        )
        size = info.value_size
        value = ctypes.create_string_buffer(values[index * size : (index + 1) * size], size)
        attr = bpf_attr("<IxxxxQQQ", fd, ctypes.addressof(key), ctypes.addressof(value), 0)
        bpf_call("map update", BPF_MAP_UPDATE_ELEM, attr)
