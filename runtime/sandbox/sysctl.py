"""Kernel parameters of the container's namespaces."""

from __future__ import annotations

import os
from collections.abc import Mapping

from runtime.sandbox.steps import step


def sysctl_path(name: str) -> str:
    """The file of a parameter: ``net.ipv4.ip_forward`` or ``net/ipv4/conf/eth0.1/forwarding``."""
    relative = name if "/" in name else name.replace(".", "/")
    return f"/proc/sys/{relative}"


def write_sysctls(values: Mapping[str, str]) -> None:
    """Set parameters; which namespace they belong to follows from the writer, which is us.

    Uses the host's /proc, so it must run before the root changes: the container's own may be
    masked, read-only or missing.

    Raises:
        ContainerError: No such parameter, or a value that the kernel refuses.
    """
    for name, value in values.items():
        with step(f"set {name} to {value!r} (linux.sysctl)", reason="sysctl"):
            fd = os.open(sysctl_path(name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
