"""What belongs to a namespace and not to a task."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record
from formats.records.files import Owner


@record("namespace")
@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that tasks of the container are in.

    Attributes:
        ns_id: Other records name it so.
        kind: As in /proc/PID/ns: "net", "mnt", "ipc", "uts", "pid", "user", "cgroup", "time".
        own: Whether it is the sandbox's: a restore finds it there.
        external: Whether it came from outside (joined, or the host's): its state is not saved.
        user_ns: Id of the user namespace that owns it; 0 for the sandbox's, or one above.
        parent: Of a nested pid or user namespace, the id of the one it is in; 0 for the sandbox's.
        dead: Of a pid namespace: its init has ended, nothing can be made in it any more.
    """

    ns_id: int
    kind: str
    own: bool
    external: bool
    user_ns: int = 0
    parent: int = 0
    dead: bool = False


@dataclass(frozen=True, slots=True)
class IdRange:
    """A line of /proc/PID/uid_map: first id inside, first id in the parent namespace, how many."""

    inside: int
    outside: int
    count: int


@record("user-namespace")
@dataclass(frozen=True, slots=True)
class UserNamespace:
    """What a nested user namespace is made of, user_namespaces(7).

    Attributes:
        ns_id: The namespace.
        uids: Its user ids; empty for none yet.
        gids: Its group ids.
        setgroups: Whether setgroups(2) is allowed.
        owner: User id of its owner, as the container sees it.
    """

    ns_id: int
    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    setgroups: bool
    owner: int


@record("time-namespace")
@dataclass(frozen=True, slots=True)
class TimeNamespace:
    """A nested time namespace, time_namespaces(7).

    Attributes:
        ns_id: The namespace.
        monotonic_ns: What its CLOCK_MONOTONIC shows more than the container's.
        boottime_ns: What its CLOCK_BOOTTIME shows more than the container's.
    """

    ns_id: int
    monotonic_ns: int
    boottime_ns: int


@record("uts")
@dataclass(frozen=True, slots=True)
class HostName:
    """The names of a UTS namespace.

    Attributes:
        ns_id: The namespace.
        hostname: As sethostname(2) has set it; empty for the one of the configuration.
        domainname: As setdomainname(2) has set it; the same.
    """

    ns_id: int
    hostname: str
    domainname: str


@record("last-pid")
@dataclass(frozen=True, slots=True)
class LastPid:
    """How far a pid namespace has counted.

    Attributes:
        ns_id: The namespace.
        last_pid: What it gave to a task last; the next one gets the next free number.
    """

    ns_id: int
    last_pid: int


@record("file-namespace")
@dataclass(frozen=True, slots=True)
class NamespaceFile:
    """A descriptor of a namespace.

    Attributes:
        file_id: Id.
        ns_id: The namespace.
        flags: open(2) flags.
        path: Where it was opened, if that is a mount and not /proc.
        owner: SIGIO's, or None.
    """

    file_id: int
    ns_id: int
    flags: int
    path: str = ""
    owner: Owner | None = None
