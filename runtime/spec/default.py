"""Configurations that wherry writes itself: the template of ``spec`` and that of ``do``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from runtime.spec.model import Json

OCI_VERSION: Final = "1.2.0"

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What container managers grant by default: enough to install packages and drop privileges
_DO_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)

_MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


def _mount(destination: str, fstype: str, *options: str, source: str = "") -> Json:
    return {
        "destination": destination,
        "type": fstype,
        "source": source or fstype,
        "options": list(options),
    }


def _default_mounts() -> list[Json]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount(
            "/dev/shm",
            "tmpfs",
            "nosuid",
            "noexec",
            "nodev",
            "mode=1777",
            "size=65536k",
            source="shm",
        ),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]


def _capabilities(names: Sequence[str]) -> Json:
    return {key: list(names) for key in ("bounding", "effective", "permitted")}


def default_spec() -> dict[str, Any]:
    """The configuration that ``wherry spec`` writes: a shell on a terminal, read-only root.

    The same defaults as ``runc spec``, so that what is known about that holds here.
    """
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [_PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": _capabilities(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wherry",
        "mounts": _default_mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": list(_MASKED_PATHS),
            "readonlyPaths": list(_READONLY_PATHS),
        },
    }


def do_spec(
    command: Sequence[str],
    *,
    cwd: str = "/",
    env: Sequence[str] = (),
    hostname: str = "wherry",
    terminal: bool = False,
    hide: Sequence[Path | str] = (),
    host_network: bool = False,
    capabilities: Sequence[str] = (),
    privileged: bool = False,
) -> dict[str, Any]:
    """The configuration of ``wherry do``: the host's root below an overlay of the container's own.

    The root is ``/`` and must be used with an ``Overlay`` over it, or the command would write to
    the host. Nothing else of the host comes along: /proc, /sys and /dev are new, and what the
    host has mounted below its root is not there, since an overlay does not cross mounts.

    Args:
        command: Program and arguments.
        cwd: Working directory inside.
        env: ``NAME=VALUE`` strings; PATH is added when it is not among them.
        hostname: Host name inside.
        terminal: Give the command a terminal of its own.
        hide: Host directories that must not be seen through the overlay; the directory that holds
            the overlay's own layers belongs here.
        host_network: Share the host's network instead of a loopback of its own.
        capabilities: Granted beside the usual ones.
        privileged: Hide nothing of /proc and /sys, allow every device.
    """
    spec = default_spec()
    entries = list(env)
    if not any(entry.startswith("PATH=") for entry in entries):
        entries.append(_PATH)
    spec["process"].update(
        terminal=terminal,
        args=list(command),
        cwd=cwd,
        env=entries,
        capabilities=_capabilities(sorted({*_DO_CAPABILITIES, *capabilities})),
        noNewPrivileges=False,
        rlimits=[],
    )
    spec["root"] = {"path": "/", "readonly": False}
    spec["hostname"] = hostname
    linux = spec["linux"]
    if privileged:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
        linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
        for mount in spec["mounts"]:
            mount["options"] = [option for option in mount.get("options", ()) if option != "ro"]
    linux["maskedPaths"] += [str(path) for path in hide]
    if host_network:
        linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] != "network"]
    return spec
