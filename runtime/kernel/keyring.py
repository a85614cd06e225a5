"""keyctl(2): a session keyring of one's own, so a container cannot read the host's keys."""

from __future__ import annotations

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

KEYCTL_JOIN_SESSION_KEYRING = 1  # include/uapi/linux/keyctl.h


def new_session_keyring() -> int:
    """Leave our session keyring for a new, empty one without a name; return its serial number.

    Raises:
        OSError: ENOSYS when the kernel has no keyrings; EDQUOT when the user's quota is full.

    Source: man 3 keyctl_join_session_keyring.
    """
    return syscall("keyctl(new session keyring)", NR["keyctl"], KEYCTL_JOIN_SESSION_KEYRING, 0)
