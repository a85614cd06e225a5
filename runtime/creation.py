"""Creating a container: from a bundle to an init that waits for ``start``.

The command checks everything that can be checked first, makes the directory, and takes the lock.
Then the *builder* makes the rest, in the monitor (forked now), or in the command itself when
another supervisor will be the init's parent. The record names each thing before it is made, so
that whatever kills the builder, a later ``delete --force`` finds and removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import sandbox_group
from runtime.annotations import ContainerType, sandbox_role
from runtime.destruction import tear_down
from runtime.detach import fork_detached, replace_other_fds
from runtime.errors import ContainerError, ContainerExistsError
from runtime.ids import validate_id
from runtime.kernel import prctl
from runtime.line_socket import Message
from runtime.metadata import (
    Metadata,
    OperationLock,
    now_rfc3339,
    read_metadata,
    update_metadata,
    write_metadata,
)
from runtime.monitor import Monitor
from runtime.process import ProcessRef
from runtime.sandbox.cgroups import Cgroups
from runtime.sandbox.launch import (
    InitProcess,
    RestoreStub,
    Stdio,
    create_init,
    exec_process,
)
from runtime.sandbox.overlay import Overlay
from runtime.spec import Spec, check_host, parse_spec
from runtime.status import Status, require_status

if TYPE_CHECKING:
    from runtime.restore_container import RestorePlan

EXEC_FIFO = "exec.fifo"
MONITOR_LOG = "monitor.log"


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a new container shall be.

    Attributes:
        cid: Its id, which must be free.
        spec: The OCI configuration as JSON.
        bundle: Directory that relative paths of *spec* start at.
        overlay: Give it a private overlay over its root file system.
        stdio: The three descriptors for the program.
        console: A connected socket that the terminal's master is sent to, when
            ``process.terminal`` is true.
        pid_file: Where the init's pid is written, last of all.
        monitor: Whether a monitor stays with it. Without one, the init is our child, and is left
            to the child subreaper above us when we end.
        preserve_fds: How many descriptors from 3 on the program inherits.
        restore: Put a saved program into it instead of starting one.
    """

    cid: str
    spec: dict[str, Any]
    bundle: Path
    stdio: Stdio
    overlay: bool = False
    console: int | None = None
    pid_file: Path | None = None
    monitor: bool = True
    preserve_fds: int = 0
    restore: RestorePlan | None = None


def create(root: Path, request: CreateRequest) -> Path:
    """Make a container; afterwards it is *created*.

    Returns:
        Its directory.

    Raises:
        ContainerExistsError: The id is taken.
        SpecError, HookError, ContainerError, OSError: Nothing of the container is left.
    """
    validate_id(request.cid)
    raw, sandbox_id = _with_sandbox(root, request)
    spec = parse_spec(raw, request.bundle)
    check_host(spec)
    directory = _make_directory(root, request.cid)
    lock = OperationLock(directory)
    lock.acquire()
    try:
        write_metadata(
            directory,
            Metadata(
                id=request.cid,
                bundle=str(request.bundle.absolute()),
                created=now_rfc3339(),
                status=Status.CREATING,
                spec=spec.raw,
                sandbox_id=sandbox_id,
                frozen_restore=request.restore is not None,
                restored_from=None if request.restore is None else request.restore.origin(),
            ),
        )
        builder = _Builder(directory, spec, request)
        if request.monitor:
            fork_detached(lambda report: _monitor(builder, lock, report))
        else:
            builder.build()
    except BaseException:
        # The builder has tidied up after itself unless it was killed: then this does it.
        tear_down_quietly(directory)
        raise
    finally:
        lock.release()
    return directory


def tear_down_quietly(directory: Path) -> None:
    """Tear down after a failure, so that the failure itself stays the error."""
    if not directory.exists():
        return
    try:
        metadata = read_metadata(directory)
    except ContainerError:
        metadata = None
    tear_down(directory, metadata)


def _with_sandbox(root: Path, request: CreateRequest) -> tuple[dict[str, Any], str]:
    """The configuration with the sandbox's namespaces, and the sandbox's id."""
    role = sandbox_role(request.spec.get("annotations") or {})
    if role.type is not ContainerType.CONTAINER:
        return request.spec, request.cid
    from runtime.container import Container

    assert role.sandbox_id is not None
    if request.restore is not None:
        raise ContainerError(
            f"{request.cid}: a container in the sandbox of {role.sandbox_id} cannot be restored",
            reason="shared-sandbox",
        )
    sandbox = Container.load(root, role.sandbox_id, exact=True)
    status = sandbox.status
    require_status(
        sandbox.id, status, "join the sandbox of", Status.CREATED, Status.RUNNING, Status.PAUSED
    )
    raw = sandbox_group.join_sandbox(request.spec, sandbox.pid, sandbox.metadata.spec)
    return raw, sandbox.id


def _make_directory(root: Path, cid: str) -> Path:
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory = root / cid
    try:
        directory.mkdir(mode=0o711)
    except FileExistsError:
        raise ContainerExistsError(f"container {cid!r} exists already") from None
    return directory


def _monitor(builder: _Builder, lock: OperationLock, report: Callable[[Message], None]) -> None:
    """The whole life of a monitor."""
    builder.build()
    assert builder.init is not None and builder.cgroups is not None
    init, cgroups = builder.init, builder.cgroups
    monitor = Monitor(builder.directory, init, cgroups, builder.start_process)
    # The command's part is done: whether it lives or was killed, the next one may go on.
    lock.release()
    os.chdir("/")  # wherever the command was called: that file system can be unmounted
    prctl.set_name("wherry-monitor")
    report({"pid": init.pid})
    replace_other_fds(
        {*monitor.kept_fds(), init.pidfd, init.report_fd}, builder.directory / MONITOR_LOG
    )
    monitor.serve()


class _Builder:
    """Makes everything of a container that is not its directory."""

    def __init__(self, directory: Path, spec: Spec, request: CreateRequest) -> None:
        self.directory = directory
        self.init: InitProcess | None = None
        self.cgroups: Cgroups | None = None
        self._spec = spec
        self._request = request

    def build(self) -> None:
        """Make it; after a failure, nothing is left."""
        try:
            self._build()
        except BaseException:
            if self.init is not None:
                self.init.kill()
            tear_down_quietly(self.directory)
            raise

    def _build(self) -> None:
        request, directory = self._request, self.directory
        overlay = self._plan_overlay()
        self.cgroups = Cgroups.plan(request.cid, self._spec)
        with update_metadata(directory) as metadata:
            metadata.cgroups = self.cgroups.to_json()
            metadata.overlay = None if overlay is None else overlay.to_json()
            if request.monitor:
                metadata.monitor = ProcessRef.of(os.getpid())
        self.cgroups.create()
        with update_metadata(directory) as metadata:
            metadata.cgroups_made = True
        self.init = self._make_init(overlay, self.cgroups)
        self._record_created(self.init)
        if request.pid_file is not None:
            write_pid_file(request.pid_file, self.init.pid)

    def _make_init(self, overlay: Overlay | None, cgroups: Cgroups) -> InitProcess:
        request = self._request
        fifo = self.directory / EXEC_FIFO

        def make(stub: RestoreStub | None) -> InitProcess:
            return create_init(
                self._spec,
                cid=request.cid,
                bundle=request.bundle,
                cgroups=cgroups,
                overlay=overlay,
                stdio=request.stdio,
                console=request.console,
                exec_fifo=None if stub is not None else fifo,
                restore=stub,
                preserve_fds=request.preserve_fds,
            )

        if request.restore is None:
            os.mkfifo(fifo, 0o600)
            return make(None)
        return request.restore.build(
            overlay=overlay, cgroups=cgroups, stdio=request.stdio, create_init=make
        )

    def _plan_overlay(self) -> Overlay | None:
        if not self._request.overlay:
            return None
        return Overlay.below(self.directory / "overlay", self._spec.rootfs)

    def start_process(self, process: dict[str, Any], fds: list[int]) -> int:
        """Bring a further process in, for ``exec``; returns its pid."""
        assert self.init is not None and self.cgroups is not None
        return exec_process(
            self.init.pid,
            process,
            spec=self._spec,
            cgroups=self.cgroups,
            stdio=Stdio(*fds[:3]),
            console=fds[3] if len(fds) > 3 else None,
        )

    def _record_created(self, init: InitProcess) -> None:
        with update_metadata(self.directory) as metadata:
            metadata.init = ProcessRef.of(init.pid)
            metadata.status = Status.CREATED
            metadata.stdio = [
                None if self._request.console is not None else _identity(fd)
                for fd in self._request.stdio
            ]


def _identity(fd: int) -> dict[str, Any]:
    """Which file a descriptor is, so that a checkpoint knows it again."""
    status = os.fstat(fd)
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "description": os.readlink(f"/proc/self/fd/{fd}"),
    }


def write_pid_file(path: Path, pid: int) -> None:
    """Write a pid file so that whoever sees it sees all of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(str(pid))
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
