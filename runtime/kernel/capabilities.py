"""capset(2), capget(2) and the names of capabilities.

Sets of capabilities are plain ints with bit *n* for capability *n*, as /proc/PID/status shows them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from runtime.kernel.libc import check, libc

# include/uapi/linux/capability.h, in the order of their numbers
CAPABILITY_NAMES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
CAPABILITY_NUMBERS: Final = {name: number for number, name in enumerate(CAPABILITY_NAMES)}

_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class cap_header(ctypes.Structure):  # struct __user_cap_header_struct
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class cap_data(ctypes.Structure):  # struct __user_cap_data_struct; two of them make 64 bits
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class CapabilitySets(NamedTuple):
    """The three sets that capset handles, as bit masks."""

    effective: int
    permitted: int
    inheritable: int


def mask_of(names: Iterable[str]) -> int:
    """The bit mask of capability names; KeyError for a name that is none."""
    mask = 0
    for name in names:
        mask |= 1 << CAPABILITY_NUMBERS[name]
    return mask


def names_of(mask: int) -> list[str]:
    """The names in a bit mask, lowest number first; bits without a name as ``CAP_<n>``."""
    known = len(CAPABILITY_NAMES)
    return [
        CAPABILITY_NAMES[bit] if bit < known else f"CAP_{bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    ]


def last_capability() -> int:
    """The highest capability number that this kernel knows (Linux 3.2)."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())


def get_capabilities() -> CapabilitySets:
    """Our own effective, permitted and inheritable sets. Source: man 2 capget."""
    header = cap_header(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (cap_data * 2)()
    check(libc.capget(ctypes.byref(header), data), "capget()")
    low, high = data
    return CapabilitySets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def set_capabilities(sets: CapabilitySets) -> None:
    """Set our own effective, permitted and inheritable sets.

    Raises:
        PermissionError: The sets hold something that we do not have.

    Source: man 2 capset.
    """
    header = cap_header(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (cap_data * 2)(
        *(cap_data(*[mask >> shift & 0xFFFFFFFF for mask in sets]) for shift in (0, 32))
    )
    call = "capset(effective={:#x}, permitted={:#x}, inheritable={:#x})".format(*sets)
    check(libc.capset(ctypes.byref(header), data), call)
