"""Probes of the host around the kernel: architecture, privileges, the seccomp library."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from runtime.kernel.features import Need, UnavailableError, probe

_GROUP = "host"

# <linux/capability.h>
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
CAP_SYS_RESOURCE = 24


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise UnavailableError("/proc/self/status has no CapEff line")


@probe(
    "architecture",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="registers, system call numbers and the code of the restore stub",
    without_it="no checkpoint and no restore",
)
def _architecture() -> str:
    machine = os.uname().machine
    if machine != "x86_64":
        raise UnavailableError(f"the engine knows x86_64, this machine is {machine}")
    return machine


@probe(
    "root",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="making containers",
    without_it="nothing works; run wherry as root",
)
def _root() -> str:
    if os.geteuid() != 0:
        raise UnavailableError(f"the effective user id is {os.geteuid()}, not 0")
    return ""


@probe(
    "capabilities",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="mounting, tracing, changing identities, making devices",
    without_it="steps that need a missing one fail",
)
def _capabilities() -> str:
    effective = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise UnavailableError(f"root lacks {', '.join(missing)}")
    return ""


@probe(
    "cap-sys-resource",
    group=_GROUP,
    used_for="raising hard limits at a restore",
    without_it="a restore that needs a higher hard limit than this host gives is refused",
)
def _cap_sys_resource() -> str:
    if not _effective_capabilities() >> CAP_SYS_RESOURCE & 1:
        raise UnavailableError("root lacks CAP_SYS_RESOURCE")
    return ""


@probe(
    "libseccomp",
    group=_GROUP,
    used_for="translating the seccomp profile of a configuration",
    without_it="a configuration with a seccomp profile is refused",
)
def _libseccomp() -> str:
    if importlib.util.find_spec("pyseccomp") is None:
        raise UnavailableError("the Python package pyseccomp is not installed (wherry[seccomp])")
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise UnavailableError("libseccomp.so.2 is not installed (Debian: libseccomp2)") from None

    class _Version(ctypes.Structure):  # struct scmp_version, <seccomp.h>
        _fields_ = tuple((part, ctypes.c_uint) for part in ("major", "minor", "micro"))

    library.seccomp_version.restype = ctypes.POINTER(_Version)
    version = library.seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"
