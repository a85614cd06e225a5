"""Waiting for the end of processes whose parent somebody else is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime.errors import ContainerError
from runtime.kernel import pidfd_info
from runtime.metadata import read_metadata, update_metadata
from runtime.monitor_client import MonitorClient, MonitorGoneError
from runtime.process import ProcessRef, find_namespace_pid, wait_pidfd
from runtime.status import Status

if TYPE_CHECKING:
    from runtime.container import Container

# How long a parent may take to reap its child. Before Linux 6.15 we wait this long in vain.
_REAP_TIMEOUT_S = 10.0


def wait_init(container: Container) -> int:
    """The wait status of a container's init. Errors: see Container.wait."""
    try:
        with MonitorClient(container.directory) as client:
            return int(client.request("wait")["exit_status"])
    except MonitorGoneError:
        pass  # it has ended, and recorded the status before; or there never was one
    metadata = read_metadata(container.directory)
    if metadata.exit_status is not None:
        return metadata.exit_status
    if metadata.init is None:
        raise ContainerError(f"container {container.id!r} never had an init")
    status = wait_process(metadata.init)
    with update_metadata(container.directory) as metadata:
        if metadata.exit_status is None:
            metadata.exit_status = status
            metadata.status = Status.STOPPED
    return status


def wait_namespace_pid(container: Container, ns_pid: int) -> int:
    """The wait status of a process by its pid inside. Errors: see Container.wait_pid."""
    try:
        with MonitorClient(container.directory) as client:
            return int(client.request("wait_pid", ns_pid=ns_pid)["exit_status"])
    except MonitorGoneError:
        pid = find_namespace_pid(_pids(container), ns_pid)
        if pid is not None:
            return wait_process(ProcessRef.of(pid))
    except ContainerError as exc:
        if exc.reason != "no-such-process":
            raise
    return _recorded_status(container, ns_pid)


def _pids(container: Container) -> list[int]:
    container.reload()
    return [] if container.metadata.cgroups is None else container.cgroups.pids()


def _recorded_status(container: Container, ns_pid: int) -> int:
    """The status of an exec session, or of the init, that ended before we were asked."""
    metadata = read_metadata(container.directory)
    for session in reversed(metadata.exec_sessions):
        if session.ns_pid == ns_pid and session.exit_status is not None:
            return session.exit_status
    if ns_pid == 1 and metadata.exit_status is not None:
        return metadata.exit_status
    raise ContainerError(
        f"container {container.id!r}: no process has pid {ns_pid} inside",
        reason="no-such-process",
    )


def wait_process(process: ProcessRef) -> int:
    """Wait for a process, whoever its parent is.

    Raises:
        ContainerError: With the reason ``exit-status-unknown``: it was gone before, or this kernel
            tells the status to nobody but the parent.
    """
    try:
        pidfd = process.open()
    except ProcessLookupError:
        raise _unknown(process) from None
    try:
        wait_pidfd(pidfd, None)
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except ChildProcessError:
            pass  # not ours
        else:
            assert result is not None
            return _wait_status(result.si_code, result.si_status)
        pidfd_info.wait_reaped(pidfd, _REAP_TIMEOUT_S)
        status = pidfd_info.exit_status(pidfd)
    finally:
        os.close(pidfd)
    if status is None:
        raise _unknown(process)
    return status


def _wait_status(code: int, value: int) -> int:
    """What waitpid(2) would have said, from waitid(2)'s siginfo."""
    if code == os.CLD_EXITED:
        return value << 8
    return value | (0x80 if code == os.CLD_DUMPED else 0)


def _unknown(process: ProcessRef) -> ContainerError:
    return ContainerError(
        f"process {process.pid} has ended, and only its parent knows how",
        reason="exit-status-unknown",
    )
