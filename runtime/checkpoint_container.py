"""Checkpoint, seen from outside the engine: who may be saved, by whom, and what happens afterwards.

The engine works in a worker process (worker.py) that holds a *lease* at the container's monitor: if
the worker is killed while the container is frozen, the monitor thaws it. The container is stopped
only when the image is complete and durable; until then every failure lets it go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runtime import sandbox_group
from runtime.engine.api import (
    CheckpointOptions,
    DumpReport,
    DumpTarget,
    Progress,
    StdioIdentity,
)
from runtime.engine.network_hold import NetworkHold
from runtime.errors import RefusedError
from runtime.filling import wait_until_filled
from runtime.monitor_client import MonitorClient, MonitorGoneError
from runtime.sandbox.overlay import Overlay
from runtime.status import Status, require_status
from runtime.worker import run_in_worker

if TYPE_CHECKING:
    from formats.sealed_file import Cipher, SealedSink
    from formats.statefile import ImageWriter, Sink, StateFile
    from runtime.container import Container
    from runtime.engine.incremental import Incremental
    from runtime.engine.precopy import PreCopy
    from runtime.kept_tracking import Following


class Carrier(Protocol):
    """What a checkpoint writes its image into. Used in the worker alone, from begin to end.

    Attributes:
        place: Names the store whose `ExternalImageWriter` it opens; empty for one that cannot take
            memory ahead.
    """

    place: str

    def opened(self) -> contextlib.AbstractContextManager[ImageWriter]:
        """The writer, before anything is frozen; leaving the block gives up what is not there."""

    def verify(self, progress: Progress) -> None:
        """Read back what was written, and let it be durable: a program is to end for it."""

    def commit(self, report: DumpReport) -> dict[str, Any]:
        """Make the image appear; what the report of the checkpoint says of it."""


class Sealer(Protocol):
    """Encrypts one state file."""

    def seal(self, sink: Sink, /) -> SealedSink:
        """What seals an image into *sink*."""

    def unlock(self, table: bytes, /) -> Cipher:
        """How that file is read again (formats.sealed_file.Unlock)."""


def checkpoint(
    container: Container,
    path: Path,
    *,
    leave_running: bool,
    progress: Progress,
    options: CheckpointOptions | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    sealer: Sealer | None = None,
) -> dict[str, Any]:
    """Save a container to a state file.

    Args:
        container: Running or paused.
        path: Where the file appears once it is complete.
        leave_running: Let the container go on (or stay paused) afterwards; else it is stopped.
        progress: Called while it works.
        options: What may be saved although the program, or a peer outside, may notice.
        sign: Signs the image (formats.signature).
        sealer: Encrypts the file; nothing else ever reaches the disk.

    Returns:
        A report: what engine.api.DumpReport says, and the image's sizes.

    Raises:
        WrongStatusError: It neither runs nor is paused.
        RefusedError: Something cannot be saved; everything that was found is named.
        CheckpointError, ImageWriteError: It failed; the container goes on, no file has appeared.
        Interrupted: We were told to stop; the same holds.
    """
    carrier = _FileCarrier(path, sign, sealer)
    return checkpoint_into(
        container, carrier, leave_running=leave_running, progress=progress, options=options
    )


def checkpoint_into(
    container: Container,
    carrier: Carrier,
    *,
    leave_running: bool,
    progress: Progress,
    options: CheckpointOptions | None = None,
) -> dict[str, Any]:
    """As checkpoint, into whatever carries images."""
    wait_until_filled(container.directory)
    with container.operation() as status:
        require_checkpoint(container, status)

        allow = options or CheckpointOptions()

        def save(report_progress: Progress) -> dict[str, Any]:
            return _save(container, carrier, leave_running, report_progress, allow)

        report = run_in_worker(save, progress)
        if not leave_running:
            from runtime.destruction import kill_processes

            kill_processes(container.metadata)
    return report


def require_checkpoint(container: Container, status: Status) -> None:
    """Refuse a container that cannot be saved whatever it does.

    Raises:
        WrongStatusError, RefusedError: As checkpoint.
    """
    require_status(container.id, status, "checkpoint", Status.RUNNING, Status.PAUSED)
    container.require_ours()
    refusals = sandbox_group.checkpoint_refusals(container)
    if refusals:
        raise RefusedError(f"cannot checkpoint {container.id}", refusals)


def _save(
    container: Container,
    carrier: Carrier,
    leave_running: bool,
    progress: Progress,
    options: CheckpointOptions,
) -> dict[str, Any]:
    with carrier.opened() as writer, contextlib.ExitStack() as held:
        follows: Following | None = None
        if carrier.place and leave_running and not container.cgroups.frozen:
            from formats.external import ExternalImageWriter
            from runtime.kept_tracking import following

            assert isinstance(writer, ExternalImageWriter)
            progress("memory", 0, 0)
            follows = held.enter_context(following(container, writer, carrier.place))
        with (
            NetworkHold() as hold,
            dumping(
                container,
                writer,
                progress,
                options,
                hold,
                goes_on=leave_running,
                incremental=None if follows is None else follows.incremental,
            ) as report,
        ):
            if not leave_running:
                # Nothing is killed before its image can be read and is on the disk; and when it is,
                # the program must not go on, or it would do things that the image knows not of.
                progress("verify", 0, 0)
                carrier.verify(progress)
                progress("sync", 0, 0)
                hold.abandon()
                committed = carrier.commit(report)
                hold.end()
                container.cgroups.kill_all()
        if leave_running:
            # Writing to the disk takes its time; the program need not wait for that.
            committed = carrier.commit(report)
            if follows is not None:
                follows.leave()
                committed["tracking"] = follows.report()
    return {**dataclasses.asdict(report), **committed}


class _FileCarrier:
    """A state file."""

    place = ""

    def __init__(
        self, path: Path, sign: Callable[[bytes], bytes] | None, sealer: Sealer | None
    ) -> None:
        self._path = path
        self._sign = sign
        self._sealer = sealer
        self._file: StateFile | None = None
        self._sealed: SealedSink | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[ImageWriter]:
        from formats.statefile import ImageWriter, StateFile

        with StateFile(self._path) as self._file:
            if self._sealer is not None:
                self._sealed = self._sealer.seal(self._file)
            with ImageWriter(self._sealed or self._file, sign=self._sign) as writer:
                yield writer

    def verify(self, progress: Progress) -> None:
        from formats.statefile import verify_file

        assert self._file is not None
        self._complete()
        unlock = None if self._sealer is None else self._sealer.unlock
        with _syncing(self._file):
            verify_file(f"/proc/self/fd/{self._file.fileno()}", decode=False, unlock=unlock)

    def commit(self, report: DumpReport) -> dict[str, Any]:
        assert self._file is not None
        self._complete()
        self._file.commit()
        return {"image": str(self._path), "image_bytes": self._path.stat().st_size}

    def _complete(self) -> None:
        if self._sealed is not None:
            self._sealed.finish()
            self._sealed = None


@contextlib.contextmanager
def _syncing(file: StateFile) -> Iterator[None]:
    """Write a file's bytes to the disk while the block runs, for the disk is slow.

    Raises:
        OSError: The disk would not take them. The kernel tells of that only once, so it must not
            get lost here.
    """
    failures: list[OSError] = []

    def sync() -> None:
        try:
            os.fdatasync(file.fileno())
        except OSError as exc:
            failures.append(exc)

    thread = threading.Thread(target=sync, name="sync")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def dumping(
    container: Container,
    writer: ImageWriter,
    progress: Progress,
    options: CheckpointOptions,
    hold: NetworkHold,
    *,
    goes_on: bool = False,
    precopy: PreCopy | None = None,
    postcopy: bool = False,
    incremental: Incremental | None = None,
) -> Iterator[DumpReport]:
    """Write a container's image; the ``with`` block runs while the container is frozen.

    The caller holds the operation lock and runs in a process that nobody kills lightly. On the
    way out the container goes on unless the block has killed it or it was paused before. *hold* is
    the caller's, for it may outlast the block. *precopy* has sent memory before, or *incremental*
    has put it into *writer*; with *postcopy* some is left out, to be asked for later.

    Raises:
        RefusedError, CheckpointError, ImageWriteError: As engine.dump.dumped.
    """
    from runtime.engine.dump import dumped

    target = dump_target(container, options, hold)
    with (
        freeze_lease(container.directory),
        dumped(
            target,
            writer,
            progress,
            goes_on=goes_on,
            precopy=precopy,
            postcopy=postcopy,
            incremental=incremental,
        ) as report,
    ):
        yield report


def dump_target(
    container: Container,
    options: CheckpointOptions | None = None,
    hold: NetworkHold | None = None,
) -> DumpTarget:
    """The container as the engine sees it.

    Raises:
        ContainerError: What it has changed cannot be seen from here.
    """
    metadata = container.metadata
    assert metadata.init is not None
    if metadata.overlay is not None:
        Overlay.from_json(metadata.overlay).require_here()
    return DumpTarget(
        container_id=container.id,
        init_pid=metadata.init.pid,
        cgroups=container.cgroups,
        spec=metadata.spec,
        overlay_upper=None if metadata.overlay is None else Path(metadata.overlay["upper"]),
        stdio=[None if entry is None else StdioIdentity(**entry) for entry in metadata.stdio],
        session_stdio=[
            [StdioIdentity(**entry) for entry in session.stdio]
            for session in metadata.exec_sessions
            if session.exit_status is None
        ],
        metadata={
            "bundle": metadata.bundle,
            "overlay": metadata.overlay is not None,
            "hash_seed": (metadata.overlay or {}).get("hash_seed", ""),
            "stdio": metadata.stdio,
            "exec_sessions": [
                {"ns_pid": session.ns_pid, "args": session.args}
                for session in metadata.exec_sessions
                if session.exit_status is None
            ],
            "created": metadata.created,
        },
        mounts=None if metadata.mounts is None else [tuple(entry) for entry in metadata.mounts],
        options=options or CheckpointOptions(),
        hold=hold or NetworkHold(),
    )


@contextlib.contextmanager
def freeze_lease(directory: Path) -> Iterator[None]:
    """Have the monitor thaw the container should this process die in the block.

    A container without a monitor (its supervisor wanted none) has nobody who would.
    """
    try:
        client = MonitorClient(directory)
    except MonitorGoneError:
        yield
        return
    with client:
        client.request("lease")
        yield
        # The program may be gone by now, and the monitor with it.
        with contextlib.suppress(MonitorGoneError):
            client.request("release")
