"""What belongs to a namespace and not to a task."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record


@record("namespace")
@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that tasks of the container are in.

    Attributes:
        ns_id: Other records name it so.
        kind: As in /proc/PID/ns: "net", "mnt", "ipc", "uts", "pid", "user", "cgroup", "time".
        own: Whether it is the init's: the sandbox makes it, and a restore finds it there.
        external: Whether it came from outside (joined, or the host's): its state is not saved.
    """

    ns_id: int
    kind: str
    own: bool
    external: bool


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
