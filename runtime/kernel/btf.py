"""/sys/kernel/btf/vmlinux: the running kernel's own types, as far as we ask for them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_VMLINUX = Path("/sys/kernel/btf/vmlinux")
_HEADER = struct.Struct("<HBBIIIII")  # struct btf_header, include/uapi/linux/btf.h
_MAGIC = 0xEB9F
_STRUCT, _FUNC = 4, 12
# Words behind the three of struct btf_type: (fixed, for each of its vlen members), by kind
_EXTRA = {
    1: (1, 0),  # INT
    3: (3, 0),  # ARRAY
    4: (0, 3),  # STRUCT
    5: (0, 3),  # UNION
    6: (0, 2),  # ENUM
    13: (0, 2),  # FUNC_PROTO
    14: (1, 0),  # VAR
    15: (0, 3),  # DATASEC
    17: (1, 0),  # DECL_TAG
    19: (0, 3),  # ENUM64
}


class KernelTypes:
    """What `load` has read.

    Raises:
        OSError: The kernel has no BTF (CONFIG_DEBUG_INFO_BTF).
        ValueError: It is of an unknown form.

    Source: Documentation/bpf/btf.rst.
    """

    def __init__(self) -> None:
        data = _VMLINUX.read_bytes()
        magic, _, _, header, types, types_size, names, names_size = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"{_VMLINUX} begins with {magic:#x}")
        start = header + types
        self._words = memoryview(data)[start : start + types_size].cast("I")
        self._names = data[header + names : header + names + names_size]

    def function_id(self, name: str) -> int:
        """The number of a function's type; KeyError when there is none."""
        return self._find(name, _FUNC)[0]

    def member_offset(self, struct_name: str, member: str) -> int:
        """Where a member of a structure is, in bytes; KeyError when there is none."""
        _, at = self._find(struct_name, _STRUCT)
        words, wanted = self._words, set(self._offsets_of(member))
        grouped = words[at + 1] >> 31  # kind_flag: offsets with sizes of bit fields
        for entry in range(at + 3, at + 3 + 3 * (words[at + 1] & 0xFFFF), 3):
            if words[entry] in wanted:
                bits = words[entry + 2] & 0xFFFFFF if grouped else words[entry + 2]
                return int(bits) // 8
        raise KeyError(f"{struct_name}.{member}")

    def size_of(self, struct_name: str) -> int:
        """How many bytes a structure takes; KeyError when there is none."""
        _, at = self._find(struct_name, _STRUCT)
        return int(self._words[at + 2])

    def _offsets_of(self, name: str) -> Iterator[int]:
        """Where a name stands among the names; a name that ends others may be shared with them."""
        wanted, at = name.encode() + b"\0", -1
        while (at := self._names.find(wanted, at + 1)) >= 0:
            yield at

    def _find(self, name: str, kind: int) -> tuple[int, int]:
        """(number, index of its first word) of the first type of a name."""
        wanted, words, extra = set(self._offsets_of(name)), self._words, _EXTRA
        at, number, end = 0, 1, len(words)
        while at < end:
            info = words[at + 1]
            this = info >> 24 & 0x1F
            if this == kind and words[at] in wanted:
                return number, at
            fixed, each = extra.get(this, (0, 0))
            at += 3 + fixed + each * (info & 0xFFFF)
            number += 1
        raise KeyError(name)
