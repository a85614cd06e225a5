"""prlimit(2): resource limits by the names that the OCI configuration uses."""

from __future__ import annotations

import resource
from typing import Final

# include/uapi/asm-generic/resource.h
RLIMIT_NUMBERS: Final = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

RLIM_INFINITY = (1 << 64) - 1  # as OCI and the kernel write it; Python's resource says -1


def _to_python(value: int) -> int:
    return resource.RLIM_INFINITY if value == RLIM_INFINITY else value


def get_rlimit(name: str, pid: int = 0) -> tuple[int, int]:
    """Soft and hard limit of a process; unlimited is ``RLIM_INFINITY`` (2**64 - 1)."""
    soft, hard = resource.prlimit(pid, RLIMIT_NUMBERS[name])
    return (
        RLIM_INFINITY if soft == resource.RLIM_INFINITY else soft,
        RLIM_INFINITY if hard == resource.RLIM_INFINITY else hard,
    )


def set_rlimit(name: str, soft: int, hard: int, pid: int = 0) -> None:
    """Set both limits of a process, 0 being ourselves.

    Raises:
        PermissionError: The hard limit goes up without CAP_SYS_RESOURCE (in the first namespace).
        ValueError: *soft* is above *hard*, or the kernel's own maximum is below *hard*.

    Source: man 2 prlimit.
    """
    resource.prlimit(pid, RLIMIT_NUMBERS[name], (_to_python(soft), _to_python(hard)))
