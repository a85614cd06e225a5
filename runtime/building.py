"""Building a container: everything of it that is not its directory.

This runs in the monitor, or in the command where there is none. The command does not import it
otherwise: what the sandbox needs loads in the monitor, while the command loads other things.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runtime.creation import CreateRequest, tear_down_quietly, write_pid_file
from runtime.detach import Reporter, replace_other_fds
from runtime.kernel import prctl
from runtime.kernel.mountinfo import mount_points
from runtime.metadata import ExecSession, OperationLock, file_identity, update_metadata
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
from runtime.sandbox.own_file_system import OwnFileSystem
from runtime.spec import Spec
from runtime.starting import EXEC_FIFO
from runtime.status import Status
from runtime.worker import Progress

MONITOR_LOG = "monitor.log"


def run_monitor(builder: Builder, lock: OperationLock, reporter: Reporter) -> None:
    """The whole life of a monitor: build the container, report, serve."""
    builder.build(reporter.progress)
    assert builder.init is not None and builder.cgroups is not None
    init, cgroups = builder.init, builder.cgroups
    monitor = Monitor(builder.directory, init, cgroups, builder.start_process, builder.sessions)
    # The command's part is done: whether it lives or was killed, the next one may go on.
    lock.release()
    os.chdir("/")  # wherever the command was called: that file system can be unmounted
    prctl.set_name("wherry-monitor")
    reporter.ready({"pid": init.pid})
    replace_other_fds(
        {*monitor.kept_fds(), init.pidfd, init.report_fd}, builder.directory / MONITOR_LOG
    )
    monitor.serve()


class Builder:
    """Makes everything of a container that is not its directory."""

    def __init__(self, directory: Path, spec: Spec, request: CreateRequest) -> None:
        self.directory = directory
        self.init: InitProcess | None = None
        self.cgroups: Cgroups | None = None
        self.sessions: list[ExecSession] = []  # of a restored container
        self._mounts: list[list[str]] | None = None
        self._spec = spec
        self._request = request

    def build(self, progress: Progress) -> None:
        """Make it; after a failure, nothing is left."""
        try:
            self._build(progress)
        except BaseException:
            if self.init is not None:
                self.init.kill()
            tear_down_quietly(self.directory)
            raise

    def _build(self, progress: Progress) -> None:
        request, directory = self._request, self.directory
        overlay = self._plan_overlay()
        own = None if overlay is None else OwnFileSystem(overlay.upper.parent)
        self.cgroups = Cgroups.plan(request.cid, self._spec)
        with update_metadata(directory) as metadata:
            metadata.cgroups = self.cgroups.to_json()
            metadata.overlay = None if overlay is None else overlay.to_json()
            if request.monitor:
                metadata.monitor = ProcessRef.of(os.getpid())
        self.cgroups.create()
        if overlay is not None and own is not None:
            overlay = overlay.mount_own(own, request.restore.hash_seed if request.restore else "")
        with update_metadata(directory) as metadata:
            metadata.cgroups_made = True
            metadata.overlay = None if overlay is None else overlay.to_json()
        self.init = self._make_init(overlay, self.cgroups, progress)
        self._record_created(self.init)
        if request.pid_file is not None:
            write_pid_file(request.pid_file, self.init.pid)

    def _make_init(
        self, overlay: Overlay | None, cgroups: Cgroups, progress: Progress
    ) -> InitProcess:
        request = self._request
        fifo = self.directory / EXEC_FIFO

        def make(stub: RestoreStub | None) -> InitProcess:
            init = create_init(
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
                new_keyring=request.new_keyring,
            )
            # Before a restore adds the mounts that the program had made itself
            self._mounts = mount_points(init.pid)
            return init

        if request.restore is None:
            os.mkfifo(fifo, 0o600)
            return make(None)
        init = request.restore.build(
            overlay=overlay,
            cgroups=cgroups,
            stdio=request.stdio,
            create_init=make,
            progress=progress,
            directory=self.directory,
        )
        self.sessions = request.restore.sessions
        return init

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
            metadata.mounts = self._mounts
            metadata.exec_sessions = self.sessions
            if (restore := self._request.restore) is not None:
                metadata.outside = list(restore.outside)
            metadata.stdio = [
                None if self._request.console is not None else file_identity(fd)
                for fd in self._request.stdio
            ]
