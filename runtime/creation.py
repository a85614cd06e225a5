"""Creating a container: from a bundle to an init that waits for ``start``.

The command checks everything that can be checked first, makes the directory, and takes the lock.
Then the *builder* (building.py) makes the rest, in the monitor (forked now), or in the command
itself when another supervisor will be the init's parent. The record names each thing before it is
made, so that whatever kills the builder, a later ``delete --force`` finds and removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import sandbox_group
from runtime.annotations import ContainerType, sandbox_role
from runtime.detach import Reporter, fork_detached
from runtime.errors import ContainerError, ContainerExistsError
from runtime.ids import validate_id
from runtime.metadata import (
    Metadata,
    OperationLock,
    now_rfc3339,
    read_metadata,
    write_metadata,
)
from runtime.sandbox.descriptors import Stdio
from runtime.spec import check_host, parse_spec
from runtime.status import Status, require_status
from runtime.worker import Progress

if TYPE_CHECKING:
    from runtime.restore_container import Restoring


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
        new_keyring: Give the program a session keyring of its own, instead of ours.
        restore: Put a saved program into it instead of starting one.
        progress: Told how far that is.
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
    new_keyring: bool = True
    restore: Restoring | None = None
    progress: Progress | None = None


def create(
    root: Path, request: CreateRequest, *, meanwhile: Callable[[], None] | None = None
) -> Path:
    """Make a container; afterwards it is *created*.

    Args:
        root: The state root; made when it does not exist.
        request: What the container shall be.
        meanwhile: Called in this process while the monitor works.

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
        if request.monitor:

            def monitor(reporter: Reporter) -> None:
                from runtime.building import Builder, run_monitor

                run_monitor(Builder(directory, spec, request), lock, reporter)

            fork_detached(monitor, meanwhile=meanwhile, progress=request.progress)
        else:
            from runtime.building import Builder

            Builder(directory, spec, request).build(request.progress or (lambda *_: None))
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
    from runtime.destruction import tear_down

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


def write_pid_file(path: Path, pid: int) -> None:
    """Write a pid file so that whoever sees it sees all of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(str(pid))
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
