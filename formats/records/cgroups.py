"""Control groups that programs have made below the container's own, cgroups(7)."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record


@dataclass(frozen=True, slots=True)
class CgroupFile:
    """Who may use a file of a cgroup, where that is not what a new one has.

    Attributes:
        name: In the cgroup's directory; empty for the directory itself.
        mode: Permission bits.
        uid: Owner, as the host calls it.
        gid: Group, as the host calls it.
    """

    name: str
    mode: int
    uid: int
    gid: int


@record("cgroup")
@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup.

    Attributes:
        hierarchy: As in /proc/PID/cgroup: controllers or ``name=…`` for v1, empty for v2.
        path: Below the container's own cgroup in that hierarchy; empty for that itself, of which
            only ``subtree_control`` is saved.
        threaded: Whether its ``cgroup.type`` is "threaded".
        subtree_control: Controllers that it passes on.
        values: Content of the files that can be read and written, by name.
        files: Who may use what.
    """

    hierarchy: str
    path: str
    threaded: bool = False
    subtree_control: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    files: tuple[CgroupFile, ...] = ()


@record("cgroup-namespace")
@dataclass(frozen=True, slots=True)
class CgroupNamespace:
    """The root of a nested cgroup namespace.

    Attributes:
        ns_id: The namespace.
        roots: Hierarchy and path, as in `Cgroup`; where nothing is said, the container's own.
    """

    ns_id: int
    roots: tuple[tuple[str, str], ...]
