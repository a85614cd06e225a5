"""keyctl(2): a session keyring of one's own, so a container cannot read the host's keys."""

from __future__ import annotations

import ctypes

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

KEYCTL_JOIN_SESSION_KEYRING = 1  # include/uapi/linux/keyctl.h


def join_session_keyring(name: str) -> int:
    """Join (or create) the session keyring *name* and return its serial number.

    Raises:
        OSError: ENOSYS when the kernel has no keyrings; EDQUOT when the user's quota is full.

    Source: man 3 keyctl_join_session_keyring.
    """
    raw = ctypes.create_string_buffer(name.encode())
    return syscall(
        f"keyctl(join session keyring {name})",
        NR["keyctl"],
        KEYCTL_JOIN_SESSION_KEYRING,
        ctypes.addressof(raw),
    )
