"""Parse the ``linux`` object (config-linux.md)."""

from __future__ import annotations

import posixpath
from typing import Final

from runtime.kernel.personality import PER_LINUX, PER_LINUX32
from runtime.spec.model import (
    Device,
    IdMapping,
    Linux,
    Namespace,
    Seccomp,
    SeccompArg,
    SeccompRule,
)
from runtime.spec.mount_options import PROPAGATION
from runtime.spec.reader import Node, invalid, unsupported
from runtime.spec.resources import parse_resources

# OCI's names to those under /proc/PID/ns
NAMESPACE_KINDS: Final = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}

_ID_MAX = (1 << 32) - 2

_ACTIONS = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
)
_OPERATORS = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)
_SECCOMP_FLAGS = (
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
)


def seccomp_names() -> dict[str, list[str]]:
    """The words of seccomp profiles that are understood, for ``wherry features``."""
    return {
        "actions": list(_ACTIONS),
        "operators": list(_OPERATORS),
        "knownFlags": list(_SECCOMP_FLAGS),
        "supportedFlags": list(_SECCOMP_FLAGS),
    }


def parse_linux(node: Node | None) -> Linux:
    """Parse ``linux``; an absent one is an empty one."""
    if node is None:
        return Linux()
    propagation = node.str_of("rootfsPropagation")
    if propagation and propagation not in PROPAGATION:
        raise invalid("linux.rootfsPropagation", f"{propagation!r} is no propagation")
    parsed = Linux(
        namespaces=_parse_namespaces(node),
        uid_mappings=parse_mappings(node, "uidMappings"),
        gid_mappings=parse_mappings(node, "gidMappings"),
        time_offsets=_parse_time_offsets(node),
        devices=tuple(_parse_device(device) for device in node.list_of("devices")),
        cgroups_path=node.str_of("cgroupsPath"),
        resources=parse_resources(node.get("resources")),
        sysctl=node.string_map("sysctl"),
        seccomp=_parse_seccomp(node.get("seccomp")),
        rootfs_propagation=PROPAGATION.get(propagation, 0),
        masked_paths=_parse_paths(node, "maskedPaths"),
        readonly_paths=_parse_paths(node, "readonlyPaths"),
        personality=_parse_personality(node.get("personality")),
    )
    node.refuse("intelRdt", "Intel RDT is not supported; remove it")
    node.refuse("mountLabel", "SELinux is not supported; remove it")
    node.refuse("netDevices", "moving network devices is not supported; remove it")
    node.refuse("memoryPolicy", "NUMA memory policies are not supported; remove it")
    node.done()
    if ".." in parsed.cgroups_path.split("/"):
        raise invalid("linux.cgroupsPath", f"{parsed.cgroups_path!r} must not contain ..")
    _check_user_namespace(parsed)
    _check_time_namespace(parsed)
    return parsed


def _parse_namespaces(node: Node) -> tuple[Namespace, ...]:
    found: dict[str, Namespace] = {}
    for entry in node.list_of("namespaces"):
        kind = NAMESPACE_KINDS[entry.need("type").choice(NAMESPACE_KINDS)]
        path = entry.str_of("path")
        entry.done()
        if kind in found:
            raise invalid(entry.path, f"the {kind} namespace is given twice")
        if path and not posixpath.isabs(path):
            raise invalid(f"{entry.path}.path", f"{path!r} is not an absolute path")
        found[kind] = Namespace(kind, path or None)
    return tuple(found.values())


def parse_mappings(node: Node, key: str) -> tuple[IdMapping, ...]:
    """Parse ``uidMappings`` or ``gidMappings``."""
    found = []
    for entry in node.list_of(key):
        found.append(
            IdMapping(
                container_id=entry.need("containerID").integer(0, _ID_MAX),
                host_id=entry.need("hostID").integer(0, _ID_MAX),
                size=entry.need("size").integer(1, _ID_MAX + 1),
            )
        )
        entry.done()
    return tuple(found)


def _check_user_namespace(linux: Linux) -> None:
    mapped = bool(linux.uid_mappings or linux.gid_mappings)
    if linux.makes_new("user"):
        for key, mappings in (("uid", linux.uid_mappings), ("gid", linux.gid_mappings)):
            if not any(entry.container_id == 0 for entry in mappings):
                why = "a new user namespace needs a mapping of id 0"
                raise invalid(f"linux.{key}Mappings", why)
    elif mapped and linux.namespace("user") is None:
        key = "uidMappings" if linux.uid_mappings else "gidMappings"
        raise invalid(f"linux.{key}", "needs a user namespace in linux.namespaces")


def _parse_time_offsets(node: Node) -> dict[str, tuple[int, int]]:
    offsets = node.get("timeOffsets")
    if offsets is None:
        return {}
    found: dict[str, tuple[int, int]] = {}
    for clock, entry in offsets.items():
        if clock not in ("monotonic", "boottime"):
            raise unsupported(entry.path, "only monotonic and boottime have offsets")
        seconds = entry.int_of("secs", -(1 << 62), 1 << 62) or 0
        found[clock] = (seconds, entry.int_of("nanosecs", 0, 999_999_999) or 0)
        entry.done()
    return found


def _check_time_namespace(linux: Linux) -> None:
    if linux.time_offsets and not linux.makes_new("time"):
        raise invalid("linux.timeOffsets", "needs a new time namespace in linux.namespaces")


def _parse_device(node: Node) -> Device:
    path = node.need("path").text()
    if not posixpath.isabs(path) or ".." in path.split("/"):
        raise invalid(f"{node.path}.path", f"{path!r} is not an absolute path without ..")
    kind = node.need("type").choice(("c", "b", "u", "p"))
    needed = kind != "p"
    mode = node.int_of("fileMode", 0, 0o177777)
    device = Device(
        path=path,
        kind=kind,
        major=node.need("major").integer(0, 4095) if needed else node.int_of("major") or 0,
        minor=node.need("minor").integer(0, (1 << 20) - 1) if needed else node.int_of("minor") or 0,
        mode=0o666 if mode is None else mode & 0o7777,
        uid=node.int_of("uid", 0, _ID_MAX) or 0,
        gid=node.int_of("gid", 0, _ID_MAX) or 0,
    )
    node.done()
    return device


def _parse_paths(node: Node, key: str) -> tuple[str, ...]:
    entries = node.list_of(key)
    for entry in entries:
        if not posixpath.isabs(entry.text()):
            raise invalid(entry.path, f"{entry.text()!r} is not an absolute path")
    return tuple(entry.text() for entry in entries)


def _parse_personality(node: Node | None) -> int | None:
    if node is None:
        return None
    domain = node.need("domain").choice(("LINUX", "LINUX32"))
    if node.list_of("flags"):
        raise unsupported(f"{node.path}.flags", "the specification defines no flags")
    node.done()
    return PER_LINUX32 if domain == "LINUX32" else PER_LINUX


def _parse_seccomp(node: Node | None) -> Seccomp | None:
    if node is None:
        return None
    flags = node.list_of("flags")
    parsed = Seccomp(
        default_action=_parse_action(node.need("defaultAction")),
        default_errno=node.int_of("defaultErrnoRet", 0, 4095),
        architectures=node.strings("architectures"),
        flags=tuple(flag.choice(_SECCOMP_FLAGS) for flag in flags),
        rules=tuple(_parse_seccomp_rule(rule) for rule in node.list_of("syscalls")),
    )
    node.refuse("listenerPath", "seccomp notification is not supported; remove it")
    node.refuse("listenerMetadata", "seccomp notification is not supported; remove it")
    node.done()
    return parsed


def _parse_action(node: Node) -> str:
    if node.value == "SCMP_ACT_NOTIFY":
        raise unsupported(node.path, "seccomp notification is not supported")
    return node.choice(_ACTIONS)


def _parse_seccomp_rule(node: Node) -> SeccompRule:
    names = node.strings("names")
    if not names:
        raise invalid(f"{node.path}.names", "is empty")
    args = []
    for entry in node.list_of("args"):
        args.append(
            SeccompArg(
                argument=entry.need("index").integer(0, 5),
                value=entry.need("value").integer(0),
                value_two=entry.int_of("valueTwo", 0) or 0,
                op=entry.need("op").choice(_OPERATORS),
            )
        )
        entry.done()
    rule = SeccompRule(
        names=names,
        action=_parse_action(node.need("action")),
        errno=node.int_of("errnoRet", 0, 4095),
        args=tuple(args),
    )
    # Written by Docker's own profiles and by podman's copy of them
    node.str_of("comment")
    node.done()
    return rule
