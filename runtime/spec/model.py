"""The OCI runtime configuration as typed values, after parsing.

Field names follow config.md and config-linux.md of the OCI runtime specification (1.2), in snake
case. ``None`` means "not given" wherever giving nothing differs from giving zero.

Small values are named tuples: a frozen dataclass with slots takes three times as long to define,
and this module is loaded by every command that starts something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]


class IdMapping(NamedTuple):
    """A line of /proc/PID/uid_map: *size* ids from *container_id* are *host_id* and on outside."""

    container_id: int
    host_id: int
    size: int


class Namespace(NamedTuple):
    """A namespace of the container.

    Attributes:
        kind: As under /proc/PID/ns: ``pid``, ``net``, ``mnt``, ``ipc``, ``uts``, ``user``,
            ``cgroup`` or ``time``.
        path: The namespace to join, None for a new one.
    """

    kind: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, with its options taken apart.

    Attributes:
        index: Place in ``mounts``, for messages.
        source: As given; for a bind mount made absolute (relative ones start at the bundle).
        bind, recursive: A bind mount, and one with submounts (``rbind``).
        flags: ``MS_*`` for mount(2) of a new file system.
        attr_set, attr_clear: ``MOUNT_ATTR_*`` of this mount alone.
        rec_set, rec_clear: ``MOUNT_ATTR_*`` of it and its submounts (``rro`` and so on).
        propagation: ``MS_SHARED`` …, perhaps with ``MS_REC``, in the order given.
        data: Options for the file system, comma-separated.
        copy_up: ``tmpcopyup``: a tmpfs starts with what the directory held.
        id_mapped: Owners are shifted by the mappings; ``"idmap"`` for this mount, ``"ridmap"``
            also for its submounts, empty for neither.
        uid_mappings, gid_mappings: Of an id-mapped mount; empty takes the container's own.
    """

    index: int
    destination: str
    fstype: str
    source: str
    options: tuple[str, ...] = ()
    bind: bool = False
    recursive: bool = False
    flags: int = 0
    attr_set: int = 0
    attr_clear: int = 0
    rec_set: int = 0
    rec_clear: int = 0
    propagation: tuple[int, ...] = ()
    data: str = ""
    copy_up: bool = False
    id_mapped: str = ""
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()

    @property
    def path(self) -> str:
        """Where in the configuration it stands."""
        return f"mounts[{self.index}]"


class User(NamedTuple):
    """Ids as the container's user namespace sees them; *umask* None keeps the default 0022."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(NamedTuple):
    """The five sets as names."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(NamedTuple):
    """A resource limit; unlimited is 2**64 - 1."""

    kind: str
    soft: int
    hard: int


class Scheduler(NamedTuple):
    """Arguments of sched_setattr(2); times in ns."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime_ns: int = 0
    deadline_ns: int = 0
    period_ns: int = 0


class IoPriority(NamedTuple):
    """Arguments of ioprio_set(2)."""

    io_class: str
    priority: int


@dataclass(frozen=True, slots=True)
class Process:
    """What runs in the container, and as whom.

    Attributes:
        console_size: ``(height, width)`` in characters.
        cpu_affinity: CPUs the process is bound to at its execve (``execCPUAffinity.final``).
        capabilities: None when the configuration has no such object; the init then gets none.
    """

    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: tuple[int, int] | None = None
    user: User = field(default_factory=User)
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    cpu_affinity: tuple[int, ...] = ()


class Device(NamedTuple):
    """A device node to create. *kind* is ``c``, ``u``, ``b`` or ``p``; *mode* the permissions."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class DeviceRule(NamedTuple):
    """A rule of the device cgroup; *major* and *minor* None mean any."""

    allow: bool
    kind: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class MemoryLimits(NamedTuple):
    """Bytes; -1 means unlimited."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool = False
    use_hierarchy: bool | None = None
    check_before_update: bool = False


class CpuLimits(NamedTuple):
    """Quota, burst, period and real-time values in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class DeviceNumber(NamedTuple):
    """A block device with one value: a weight, a leaf weight, or a rate per second."""

    major: int
    minor: int
    value: int


class BlockIoLimits(NamedTuple):
    """Weights are 10 to 1000, rates bytes or operations per second."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[DeviceNumber, ...] = ()
    leaf_weight_device: tuple[DeviceNumber, ...] = ()
    throttle_read_bps: tuple[DeviceNumber, ...] = ()
    throttle_write_bps: tuple[DeviceNumber, ...] = ()
    throttle_read_iops: tuple[DeviceNumber, ...] = ()
    throttle_write_iops: tuple[DeviceNumber, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """cgroup limits.

    Attributes:
        pids: Largest number of tasks; 0 or below means no limit.
        hugepage_limits: ``("2MB", bytes)`` pairs.
        class_id, net_priorities: The net_cls and net_prio controllers of cgroup v1.
        unified: cgroup v2 files and what is written to them.
    """

    devices: tuple[DeviceRule, ...] = ()
    memory: MemoryLimits = field(default_factory=MemoryLimits)
    cpu: CpuLimits = field(default_factory=CpuLimits)
    pids: int | None = None
    block_io: BlockIoLimits = field(default_factory=BlockIoLimits)
    hugepage_limits: tuple[tuple[str, int], ...] = ()
    class_id: int | None = None
    net_priorities: tuple[tuple[str, int], ...] = ()
    unified: dict[str, str] = field(default_factory=dict)


class SeccompArg(NamedTuple):
    """A condition on a system call argument, as libseccomp has it."""

    argument: int
    value: int
    value_two: int
    op: str


class SeccompRule(NamedTuple):
    """What happens to the calls *names* when every one of *args* holds."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(NamedTuple):
    """A seccomp profile."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rules: tuple[SeccompRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Linux:
    """The ``linux`` object.

    Attributes:
        time_offsets: Clock name (``monotonic``, ``boottime``) to ``(seconds, nanoseconds)``.
        rootfs_propagation: ``MS_*``, 0 when not given.
        personality: The number for personality(2), or None.
    """

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    time_offsets: dict[str, tuple[int, int]] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = field(default_factory=Resources)
    sysctl: dict[str, str] = field(default_factory=dict)
    seccomp: Seccomp | None = None
    rootfs_propagation: int = 0
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    personality: int | None = None

    def namespace(self, kind: str) -> Namespace | None:
        """The namespace of a kind, None when the container shares the runtime's."""
        return next((ns for ns in self.namespaces if ns.kind == kind), None)

    def makes_new(self, kind: str) -> bool:
        """Whether the container gets a new namespace of a kind."""
        namespace = self.namespace(kind)
        return namespace is not None and namespace.path is None


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole ``config.json``.

    Attributes:
        raw: The JSON it came from, for the metadata and for images.
        rootfs: Absolute path of the root file system.
        hooks: Hook name (``createRuntime``) to its hooks, each a dict with ``path`` and perhaps
            ``args``, ``env`` and ``timeout``.
    """

    raw: Json
    oci_version: str
    bundle: Path
    rootfs: Path
    root_readonly: bool
    process: Process
    mounts: tuple[Mount, ...]
    hostname: str
    domainname: str
    hooks: dict[str, tuple[Json, ...]]
    annotations: dict[str, str]
    linux: Linux
