"""The record of a container: one JSON file in its directory, rewritten after every change.

Two locks keep the commands apart:

* The *operation lock* is a ``flock`` on the container's directory itself. A command holds it from
  reading the status until its change is recorded, so that two commands never interleave. There
  is no lock file that could outlive the directory, and whoever got the lock of a directory that
  was deleted meanwhile notices, because the name no longer leads to the locked inode.
* The *record lock* is a ``flock`` on ``state.lock``, held only while the file is read, changed and
  rewritten. The monitor takes it to record an exit status while a command holds the other.

Readers take neither: the file is replaced atomically, so what they read is always one whole
version of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import ContainerError, ContainerNotFoundError
from runtime.process import ProcessRef
from runtime.status import Status

STATE_FILE = "state.json"
STATE_LOCK = "state.lock"
VERSION = 1

HANDOVER = "handover"
"""In `Metadata.extra` of a frozen container that a migration has given to another host."""
NETWORK_HOLD = "network-hold"
"""In `Metadata.extra`: the token of what holds such a container's peers off (network_hold)."""


def file_identity(fd: int) -> dict[str, Any]:
    """Which file a descriptor is, so that a checkpoint knows it again."""
    status = os.fstat(fd)
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "description": os.readlink(f"/proc/self/fd/{fd}"),
    }


@dataclass(slots=True)
class ExecSession:
    """A process that ``exec`` brought into the container.

    Attributes:
        process: The process, in our pid namespace.
        ns_pid: Its pid as seen inside the container.
        args: Its command, for messages.
        exit_status: Wait status once it has ended, None before.
        stdio: Which files its standard streams were given as, see `file_identity`; empty when it
            has a terminal.
    """

    process: ProcessRef
    ns_pid: int
    args: list[str]
    exit_status: int | None = None
    stdio: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The session as it stands in the file."""
        return {
            "process": self.process.to_json(),
            "ns_pid": self.ns_pid,
            "args": self.args,
            "exit_status": self.exit_status,
            "stdio": self.stdio,
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> ExecSession:
        """The reverse of to_json."""
        process = obj["process"]
        return cls(
            process=ProcessRef(int(process["pid"]), int(process["start_ticks"])),
            ns_pid=int(obj["ns_pid"]),
            args=[str(arg) for arg in obj["args"]],
            exit_status=obj.get("exit_status"),
            stdio=list(obj.get("stdio") or []),
        )


@dataclass(slots=True)
class Metadata:
    """Everything that a later command has to know about a container.

    Attributes:
        id: The container's id, equal to its directory's name.
        bundle: Absolute path of the bundle; empty for ``wherry do``.
        created: When it was created, RFC 3339 in UTC.
        status: A claim: whoever reads it checks the init process before believing it.
        spec: The whole OCI configuration as it was applied.
        init: The init process; None before there is one.
        monitor: The monitor; None when another supervisor asked for the container.
        exit_status: The init's wait status once the monitor has seen it.
        cgroups: ``Cgroups.to_json()``.
        cgroups_made: Whether they are certainly ours: planned ones may turn out to be another's.
        overlay: The overlay's four directories, when it has one.
        stdio: What its three standard descriptors were at creation, for checkpoint and restore.
        mounts: Every mount in the container when it was made, as `mountinfo.mount_points` says.
        exec_sessions: What ``exec`` started, with exit statuses.
        sandbox_id: The container whose sandbox this one shares; its own id for a root container.
        frozen_restore: It was restored and waits for ``start``, frozen.
        restored_from: The state file's path and digest when it was restored.
        outside: Its interfaces that lead outside, when it was restored: see `runtime.outside`.
        extra: What single features note down; unknown keys survive a rewrite.
    """

    id: str
    bundle: str
    created: str
    status: Status
    spec: dict[str, Any]
    init: ProcessRef | None = None
    monitor: ProcessRef | None = None
    exit_status: int | None = None
    cgroups: dict[str, Any] | None = None
    cgroups_made: bool = False
    overlay: dict[str, Any] | None = None
    stdio: list[dict[str, Any] | None] = field(default_factory=list)
    mounts: list[list[str]] | None = None
    exec_sessions: list[ExecSession] = field(default_factory=list)
    sandbox_id: str = ""
    frozen_restore: bool = False
    restored_from: dict[str, Any] | None = None
    outside: list[tuple[int, str, str]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the configuration."""
        return dict(self.spec.get("annotations") or {})

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return {
            "version": VERSION,
            "id": self.id,
            "bundle": self.bundle,
            "created": self.created,
            "status": str(self.status),
            "init": self.init and self.init.to_json(),
            "monitor": self.monitor and self.monitor.to_json(),
            "exit_status": self.exit_status,
            "cgroups": self.cgroups,
            "cgroups_made": self.cgroups_made,
            "overlay": self.overlay,
            "stdio": self.stdio,
            "mounts": self.mounts,
            "exec_sessions": [session.to_json() for session in self.exec_sessions],
            "sandbox_id": self.sandbox_id,
            "frozen_restore": self.frozen_restore,
            "restored_from": self.restored_from,
            "outside": self.outside,
            "extra": self.extra,
            "spec": self.spec,
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Metadata:
        """The reverse of to_json.

        Raises:
            KeyError, TypeError, ValueError: The document is not what to_json wrote.
        """
        if obj["version"] != VERSION:
            raise ValueError(f"version is {obj['version']}, this wherry knows {VERSION}")
        return cls(
            id=str(obj["id"]),
            bundle=str(obj["bundle"]),
            created=str(obj["created"]),
            status=Status(obj["status"]),
            spec=dict(obj["spec"]),
            init=ProcessRef.from_json(obj.get("init")),
            monitor=ProcessRef.from_json(obj.get("monitor")),
            exit_status=obj.get("exit_status"),
            cgroups=obj.get("cgroups"),
            cgroups_made=bool(obj.get("cgroups_made")),
            overlay=obj.get("overlay"),
            stdio=list(obj.get("stdio") or []),
            mounts=obj.get("mounts"),
            exec_sessions=[ExecSession.from_json(item) for item in obj.get("exec_sessions") or []],
            sandbox_id=str(obj.get("sandbox_id") or obj["id"]),
            frozen_restore=bool(obj.get("frozen_restore")),
            restored_from=obj.get("restored_from"),
            outside=[(int(i), str(h), str(b)) for i, h, b in obj.get("outside") or []],
            extra=dict(obj.get("extra") or {}),
        )


def now_rfc3339() -> str:
    """The time now as OCI tools write it: UTC with nanoseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def read_metadata(directory: Path) -> Metadata:
    """Read a container's record; needs no lock.

    Raises:
        ContainerNotFoundError: There is no such directory.
        ContainerError: The record is missing (reason ``half-created``) or unreadable (reason
            ``corrupt-metadata``); ``delete --force`` removes such an entry.
    """
    path = directory / STATE_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        if not directory.is_dir():
            raise ContainerNotFoundError(f"container {directory.name!r} does not exist") from None
        raise ContainerError(
            f"container {directory.name!r} is half created, remove it with delete --force",
            reason="half-created",
        ) from None
    except NotADirectoryError:
        raise ContainerNotFoundError(f"container {directory.name!r} does not exist") from None
    try:
        return Metadata.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ContainerError(
            f"container {directory.name!r}: {STATE_FILE} is unreadable ({exc}), remove the"
            " container with delete --force",
            reason="corrupt-metadata",
        ) from exc


def write_metadata(directory: Path, metadata: Metadata) -> None:
    """Replace a container's record so that a reader or a crash sees the old or the new one.

    The caller holds the record lock, or is the creator that nobody knows of yet.
    """
    temporary = directory / f".{STATE_FILE}.{os.getpid()}"
    data = json.dumps(metadata.to_json(), separators=(",", ":")).encode()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / STATE_FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make a rename in this directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def update_metadata(directory: Path) -> Iterator[Metadata]:
    """Read, change and rewrite the record under the record lock.

    An exception in the body leaves the file as it was.

    Raises:
        ContainerNotFoundError, ContainerError: As read_metadata.
    """
    with _record_lock(directory):
        metadata = read_metadata(directory)
        yield metadata
        write_metadata(directory, metadata)


@contextlib.contextmanager
def _record_lock(directory: Path) -> Iterator[None]:
    try:
        fd = os.open(directory / STATE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise ContainerNotFoundError(f"container {directory.name!r} does not exist") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class OperationLock:
    """The operation lock of one container; a context manager.

    It is taken with a ``flock`` on the directory, and belongs to the open file description: a
    monitor forked while it is held shares it, and ``release`` in either process releases it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def acquire(self, *, blocking: bool = True, shared: bool = False) -> bool:
        """Take the lock.

        Args:
            blocking: Wait for it.
            shared: Only find out that nobody holds it, beside others who do the same.

        Returns:
            False when it is taken and *blocking* is false.

        Raises:
            ContainerNotFoundError: The container does not exist, or was deleted meanwhile.
        """
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
        while True:
            try:
                fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                name = self._directory.name
                raise ContainerNotFoundError(f"container {name!r} does not exist") from None
            try:
                fcntl.flock(fd, kind)
                if self._still_named(fd):
                    self._fd = fd
                    return True
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _still_named(self, fd: int) -> bool:
        """Whether the directory's name leads to what we have locked: it may be deleted by now."""
        try:
            return os.path.samestat(os.fstat(fd), self._directory.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back, for every process that shares it."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close our descriptor only: another process that shares the lock keeps it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> OperationLock:
        self.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()
