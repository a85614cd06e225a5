"""Judging what differs between the configuration in an image and the one of a restore's bundle.

A restore builds a fresh sandbox from the new configuration and puts the saved program into it. So
a difference has one of three verdicts: it is *applied* (the sandbox gets it), it is *kept* (the
program brings its own, whatever the new configuration says: its arguments are in its memory), or it
is *refused*, because the program relies on what it had, or because it would be silently ignored.

The table below is the contract; a configuration path that it does not know is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from formats.errors import Refusal

Json = Any


class Verdict(enum.StrEnum):
    """What becomes of a difference."""

    APPLIED = "applied"
    KEPT = "kept"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two configurations.

    Attributes:
        path: Where it is in the configuration, for instance ``"linux.resources"``.
        verdict: What becomes of it.
        image: The value in the image's configuration, None when missing.
        bundle: The value in the bundle's configuration, None when missing.
    """

    path: str
    verdict: Verdict
    image: Json
    bundle: Json


def judge(
    image_spec: Mapping[str, Json], new_spec: Mapping[str, Json]
) -> tuple[list[Difference], list[Refusal]]:
    """Judge every difference between an image's configuration and a bundle's.

    Args:
        image_spec: The OCI configuration as it was applied to the saved container.
        new_spec: The OCI configuration of the bundle that the restore was given.

    Returns:
        The differences that do not stand in the way, and a refusal for each one that does.
    """
    found = _Findings()
    for key in sorted(image_spec.keys() | new_spec.keys()):
        judge_key = _TOP.get(key, _refuse_as("spec-changed", "cannot change in a restore"))
        judge_key(found, key, image_spec.get(key), new_spec.get(key))
    return found.differences, found.refusals


class _Findings:
    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.refusals: list[Refusal] = []

    def accept(self, path: str, verdict: Verdict, old: Json, new: Json) -> None:
        self.differences.append(Difference(path, verdict, old, new))

    def refuse(self, reason: str, path: str, why: str) -> None:
        self.refusals.append(Refusal(reason, path, why))


_Judge = Callable[[_Findings, str, Json, Json], None]


def _same(old: Json, new: Json) -> bool:
    """Whether two values mean the same: OCI gives missing, null and empty one meaning."""
    return (old or None) == (new or None)


def _accept_as(verdict: Verdict) -> _Judge:
    def judge_value(found: _Findings, path: str, old: Json, new: Json) -> None:
        if not _same(old, new):
            found.accept(path, verdict, old, new)

    return judge_value


def _refuse_as(reason: str, why: str) -> _Judge:
    def judge_value(found: _Findings, path: str, old: Json, new: Json) -> None:
        if not _same(old, new):
            found.refuse(reason, path, f"{_brief(old)} in the image, {_brief(new)} here: {why}")

    return judge_value


def _object(table: Mapping[str, _Judge], default: _Judge) -> _Judge:
    def judge_value(found: _Findings, path: str, old: Json, new: Json) -> None:
        old, new = old or {}, new or {}
        for key in sorted(old.keys() | new.keys()):
            table.get(key, default)(found, f"{path}.{key}", old.get(key), new.get(key))

    return judge_value


def _paths_only_added(reason: str) -> _Judge:
    """A list of strings, or of objects with a path, that may only grow."""

    def judge_value(found: _Findings, path: str, old: Json, new: Json) -> None:
        before, after = _by_path(old or []), _by_path(new or [])
        for name in sorted(before.keys() - after.keys()):
            found.refuse(reason, path, f"{name} is in the image and missing here: add it")
        for name in sorted(before.keys() & after.keys()):
            if before[name] != after[name]:
                found.refuse(reason, path, f"{name} is not the same as in the image")
        for name in sorted(after.keys() - before.keys()):
            found.accept(path, Verdict.APPLIED, None, after[name])

    return judge_value


def _by_path(items: Iterable[Json]) -> dict[str, Json]:
    return {item["path"] if isinstance(item, Mapping) else str(item): item for item in items}


def _judge_mounts(found: _Findings, path: str, old: Json, new: Json) -> None:
    before = {mount["destination"]: mount for mount in old or []}
    after = {mount["destination"]: mount for mount in new or []}
    for destination in sorted(before.keys() - after.keys()):
        found.refuse(
            "spec-mount-removed",
            f"{path}[{destination}]",
            "is mounted in the image and not here: add the mount",
        )
    for destination in sorted(after.keys() - before.keys()):
        found.accept(f"{path}[{destination}]", Verdict.APPLIED, None, after[destination])
    for destination in sorted(before.keys() & after.keys()):
        _judge_mount(found, f"{path}[{destination}]", before[destination], after[destination])


def _judge_mount(found: _Findings, path: str, old: Json, new: Json) -> None:
    if _mount_type(old) != _mount_type(new):
        found.refuse(
            "spec-mount-type",
            f"{path}.type",
            f"{_mount_type(old)} in the image, {_mount_type(new)} here",
        )
        return
    if set(old.get("options") or ()) != set(new.get("options") or ()):
        found.refuse(
            "spec-mount-options",
            f"{path}.options",
            f"{_brief(old.get('options'))} in the image, {_brief(new.get('options'))} here",
        )
    # The same tree may lie somewhere else on this host; its files are compared one by one when
    # they are opened. The source of a file system without a device is only a label.
    if old.get("source") != new.get("source"):
        found.accept(f"{path}.source", Verdict.APPLIED, old.get("source"), new.get("source"))


def _mount_type(mount: Mapping[str, Json]) -> str:
    if {"bind", "rbind"} & set(mount.get("options") or ()):
        return "bind"
    return str(mount.get("type") or "none")


def _judge_namespaces(found: _Findings, path: str, old: Json, new: Json) -> None:
    before = {entry["type"]: entry.get("path") for entry in old or []}
    after = {entry["type"]: entry.get("path") for entry in new or []}
    for kind in sorted(before.keys() ^ after.keys()):
        where = "image" if kind in before else "bundle"
        # A time namespace is made for every restore, so that no clock runs backwards.
        if kind == "time":
            found.accept(f"{path}[time]", Verdict.KEPT, kind in before, kind in after)
        else:
            found.refuse("spec-namespaces", f"{path}[{kind}]", f"is only in the {where}'s set")
    for kind in sorted(before.keys() & after.keys()):
        if before[kind] == after[kind]:
            continue
        if kind == "network":
            found.accept(f"{path}[network].path", Verdict.APPLIED, before[kind], after[kind])
        else:
            found.refuse(
                "spec-namespaces",
                f"{path}[{kind}].path",
                f"{before[kind] or 'a new one'} in the image, {after[kind] or 'a new one'} here",
            )


def _judge_sysctl(found: _Findings, path: str, old: Json, new: Json) -> None:
    old, new = old or {}, new or {}
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        if name.startswith("net."):
            found.accept(f"{path}[{name}]", Verdict.APPLIED, old.get(name), new.get(name))
        else:
            found.refuse(
                "spec-sysctl",
                f"{path}[{name}]",
                f"{old.get(name)} in the image, {new.get(name)} here",
            )


def _brief(value: Json) -> str:
    if value is None or value in ("", [], {}):
        return "nothing"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_applied = _accept_as(Verdict.APPLIED)
_kept = _accept_as(Verdict.KEPT)

_PROCESS = _object(
    {
        "args": _kept,
        "commandLine": _kept,
        "consoleSize": _kept,
        "cwd": _kept,
        "env": _kept,
        "oomScoreAdj": _applied,
        "terminal": _refuse_as("spec-terminal", "its terminal is part of the saved program"),
    },
    _refuse_as("spec-process", "the program is restored with what it had"),
)

_LINUX = _object(
    {
        "cgroupsPath": _applied,
        "resources": _applied,
        "devices": _paths_only_added("spec-devices"),
        "maskedPaths": _paths_only_added("spec-masked-paths"),
        "readonlyPaths": _paths_only_added("spec-readonly-paths"),
        "namespaces": _judge_namespaces,
        "uidMappings": _refuse_as("spec-user-mapping", "files and tasks would change owners"),
        "gidMappings": _refuse_as("spec-user-mapping", "files and tasks would change owners"),
        "seccomp": _refuse_as("spec-seccomp", "its filters are restored as they were"),
        "sysctl": _judge_sysctl,
        "timeOffsets": _kept,
    },
    _refuse_as("spec-changed", "cannot change in a restore"),
)

_ROOT = _object(
    {
        "path": _applied,
        "readonly": _refuse_as("spec-root-readonly", "the program's files would change their mode"),
    },
    _refuse_as("spec-changed", "cannot change in a restore"),
)

_TOP: dict[str, _Judge] = {
    "ociVersion": _applied,
    "annotations": _applied,
    "hostname": _applied,
    "domainname": _applied,
    "hooks": _applied,
    "mounts": _judge_mounts,
    "process": _PROCESS,
    "root": _ROOT,
    "linux": _LINUX,
}
