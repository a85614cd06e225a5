"""Rules between parts of the configuration and limits of this host, checked beforehand."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.kernel.capabilities import CAPABILITY_NUMBERS, get_capabilities, last_capability
from runtime.kernel.rlimits import RLIM_INFINITY, get_rlimit
from runtime.spec.model import Capabilities, Process, Spec
from runtime.spec.reader import invalid, unsupported

log = logging.getLogger(__name__)

# sysctls that belong to a namespace: man 7 ipc_namespaces, network_namespaces, uts_namespaces
_IPC_SYSCTLS: Final = frozenset(
    (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    )
)


def check_rules(spec: Spec) -> None:
    """Refuse a configuration whose parts contradict each other.

    Raises:
        SpecError: With the path of the first contradiction.
    """
    linux = spec.linux
    if linux.namespace("mnt") is None:
        raise unsupported("linux.namespaces", "wherry needs a mount namespace; add {type: mount}")
    if not linux.makes_new("mnt"):
        _check_joined_mounts(spec)
    for key, value in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if value and linux.namespace("uts") is None:
            raise invalid(key, "needs a uts namespace in linux.namespaces")
        if len(value.encode()) > 64:
            raise invalid(key, f"{len(value.encode())} bytes, the kernel takes at most 64")
    for name in linux.sysctl:
        _check_sysctl(spec, name)
    for mount in spec.mounts:
        if mount.id_mapped and not mount.uid_mappings and not linux.uid_mappings:
            why = "needs uidMappings and gidMappings, its own or the container's"
            raise invalid(f"{mount.path}.options", why)


def _check_joined_mounts(spec: Spec) -> None:
    """A joined mount namespace has other users, and is left as it is."""
    linux = spec.linux
    asked = {
        "mounts": spec.mounts,
        "root.readonly": spec.root_readonly,
        "process.terminal": spec.process.terminal,
        "linux.devices": linux.devices,
        "linux.maskedPaths": linux.masked_paths,
        "linux.readonlyPaths": linux.readonly_paths,
        "linux.rootfsPropagation": linux.rootfs_propagation,
    }
    for path, value in asked.items():
        if value:
            why = "cannot be had in a mount namespace that is joined by path; others use it too"
            raise unsupported(path, why)


def _check_sysctl(spec: Spec, name: str) -> None:
    path = f"linux.sysctl[{name!r}]"
    # Both separators are in use: net.ipv4.conf.eth0 and net/ipv4/conf/eth0.100
    parts = name.split("/") if "/" in name else name.split(".")
    if any(part in ("", ".", "..") for part in parts):
        raise invalid(path, "is no name of a kernel parameter")
    dotted = ".".join(parts)
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        kind = "ipc"
    elif dotted.startswith("net."):
        kind = "net"
    elif dotted == "kernel.domainname":
        kind = "uts"
    elif dotted == "kernel.hostname":
        raise invalid(path, "use hostname")
    else:
        raise unsupported(path, "does not belong to a namespace, it would change the host")
    if spec.linux.namespace(kind) is None:
        raise invalid(path, f"needs a {kind} namespace in linux.namespaces")


def check_host(spec: Spec) -> None:
    """Refuse what this host, or this user's privileges, cannot give.

    Apart from ``check_rules`` so that a configuration made for another host can still be parsed.

    Raises:
        SpecError: With the path, what was asked and what there is.
    """
    new_user_namespace = spec.linux.namespace("user") is not None
    check_process_host(spec.process, in_user_namespace=new_user_namespace)
    for index, namespace in enumerate(spec.linux.namespaces):
        if not Path(f"/proc/self/ns/{namespace.kind}").exists():
            why = f"this kernel has no {namespace.kind} namespaces"
            raise unsupported(f"linux.namespaces[{index}]", why)
    # Only whether it is there; importing it, which also loads the library, is the sandbox's part
    if spec.linux.seccomp is not None and importlib.util.find_spec("pyseccomp") is None:
        why = "needs libseccomp and its Python binding; install wherry[seccomp] and libseccomp2"
        raise unsupported("linux.seccomp", why)
    if spec.linux.makes_new("mnt") and not spec.rootfs.is_dir():
        raise invalid("root.path", f"{spec.rootfs} is not a directory")


def check_process_host(process: Process, *, in_user_namespace: bool) -> None:
    """Refuse limits that we cannot hand on, and warn of capabilities that we cannot grant.

    Args:
        process: What is to run.
        in_user_namespace: The process gets a user namespace, and all capabilities there.
    """
    ours = get_capabilities().permitted
    may_raise = ours >> CAPABILITY_NUMBERS["CAP_SYS_RESOURCE"] & 1
    for index, limit in enumerate(process.rlimits):
        _, hard = get_rlimit(limit.kind)
        if limit.hard > hard and not may_raise:
            asked = "unlimited" if limit.hard == RLIM_INFINITY else str(limit.hard)
            raise unsupported(
                f"process.rlimits[{index}]",
                f"{limit.kind} hard limit {asked} is above this process's {hard}, and it lacks "
                f"CAP_SYS_RESOURCE; lower it to at most {hard}",
            )
    if process.capabilities is not None:
        for path, why in _not_grantable(process.capabilities, ours, in_user_namespace):
            # config.md asks for a warning here, not for a failure
            log.warning("config.json: %s: %s; it is left out", path, why)


def _not_grantable(
    sets: Capabilities, ours: int, in_user_namespace: bool
) -> Iterator[tuple[str, str]]:
    last = last_capability()
    for set_name, names in sets._asdict().items():
        for index, name in enumerate(names):
            number = CAPABILITY_NUMBERS[name]
            if number > last:
                why = f"this kernel does not know {name}"
            elif not in_user_namespace and not ours >> number & 1:
                why = f"wherry itself lacks {name} here"
            elif set_name == "effective" and name not in sets.permitted:
                why = f"{name} is not in the permitted set"
            elif set_name == "ambient" and not (
                name in sets.permitted and name in sets.inheritable
            ):
                why = f"{name} is not in both the permitted and the inheritable set"
            else:
                continue
            yield f"process.capabilities.{set_name}[{index}]", why
