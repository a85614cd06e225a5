"""Signals to processes of a container; by pidfd, so that no other process ever gets one."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from runtime.errors import ContainerError
from runtime.process import ProcessRef, find_namespace_pid, process_group

if TYPE_CHECKING:
    from runtime.container import Container
    from runtime.sandbox.cgroups import Cgroups


def send_signal(process: ProcessRef, signum: int) -> None:
    """Send a signal to exactly this process.

    Raises:
        ProcessLookupError: It is gone, whoever has its pid now.
    """
    pidfd = process.open()
    try:
        signal.pidfd_send_signal(pidfd, signum)
    finally:
        os.close(pidfd)


def signal_all(cgroups: Cgroups, signum: int) -> None:
    """Send a signal to every process of a container."""
    if signum == signal.SIGKILL:
        cgroups.kill_all()  # which also finds those that are being forked
        return
    for pid in cgroups.pids():
        try:
            send_signal(ProcessRef.of(pid), signum)
        except ProcessLookupError:
            continue


def signal_one(container: Container, signum: int, *, ns_pid: int | None, group: bool) -> None:
    """Send a signal to one process, or to its process group.

    Args:
        container: The container, with an init.
        signum: The signal's number.
        ns_pid: The process's pid as seen inside; None means the init.
        group: To the whole process group.

    Raises:
        ContainerError: No process has this pid.
    """
    target = _target(container, ns_pid)
    try:
        if group:
            os.killpg(process_group(target.pid), signum)
        else:
            send_signal(target, signum)
    except ProcessLookupError:
        pass  # it ended while we looked: as if the signal had come too late


def _target(container: Container, ns_pid: int | None) -> ProcessRef:
    if ns_pid is None:
        assert container.metadata.init is not None
        return container.metadata.init
    pid = find_namespace_pid(container.cgroups.pids(), ns_pid)
    if pid is None:
        raise ContainerError(
            f"container {container.id!r}: no process has pid {ns_pid} inside",
            reason="no-such-process",
        )
    return ProcessRef.of(pid)
