"""Taking a container down: whatever state it is in, nothing of it stays.

Every step can be repeated and starts from the record, so that a destruction that was killed in the
middle is finished by the next one. The order matters: processes, then what they hold (mounts,
cgroup), then the directory, in it the record last.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from pathlib import Path

from runtime import sandbox_group
from runtime.errors import ContainerError
from runtime.filling import end_filling
from runtime.kernel import mount
from runtime.metadata import STATE_FILE, STATE_LOCK, Metadata
from runtime.monitor_client import MonitorClient, MonitorGoneError
from runtime.process import ProcessRef
from runtime.received_bundle import remove_received
from runtime.removal import remove_tree
from runtime.sandbox import own_file_system
from runtime.sandbox.cgroups import Cgroups

log = logging.getLogger(__name__)

KILL_TIMEOUT_S = 20.0
_MONITOR_TIMEOUT_S = 5.0


def tear_down(directory: Path, metadata: Metadata | None) -> None:
    """Remove a container; the caller holds its operation lock.

    Args:
        directory: The container's directory.
        metadata: Its record; None when there is none or it cannot be read.

    Raises:
        ContainerError: A process cannot be killed (uninterruptible sleep), or something is
            still mounted in the directory.
    """
    if metadata is not None:
        if metadata.sandbox_id == metadata.id:
            for member in sandbox_group.members(directory.parent, metadata.id):
                kill_processes(member)
        kill_processes(metadata)
        end_filling(metadata)
    else:
        _ask_monitor_to_kill(directory)
    if metadata is not None and metadata.monitor is not None:
        _end_monitor(metadata.monitor)
    _unmount_below(directory)
    if metadata is not None and metadata.cgroups is not None:
        cgroups = Cgroups.from_json(metadata.cgroups)
        # Not known to be ours, and not empty: then they are another container's.
        if metadata.cgroups_made or not cgroups.pids():
            cgroups.destroy()
    remove_received(directory, metadata)
    _remove_directory(directory)


def kill_processes(metadata: Metadata) -> None:
    """Kill every process of a container and wait until none runs.

    Raises:
        ContainerError: Some still run after a while, with the reason ``unkillable``.
    """
    cgroups = None
    if metadata.cgroups is not None and metadata.cgroups_made:
        cgroups = Cgroups.from_json(metadata.cgroups)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    known = [session.process for session in metadata.exec_sessions]
    if metadata.init is not None:
        known.append(metadata.init)
    while True:
        if cgroups is not None:
            cgroups.kill_all()
        for process in known:
            _kill(process)
        left = _reap(known)
        if cgroups is not None:
            left += _alive(cgroups.pids())
        running = [process for process in left if not process.wait_gone(0.2)]
        if not running:
            return
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in running)
            raise ContainerError(
                f"container {metadata.id!r}: process {pids} does not end, though killed",
                reason="unkillable",
            )


def _kill(process: ProcessRef) -> None:
    try:
        pidfd = process.open()
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _reap(processes: list[ProcessRef]) -> list[ProcessRef]:
    """Those that are left; the ones that are our own children are reaped when they have ended."""
    left = []
    for process in processes:
        if process.alive():
            left.append(process)
            continue
        try:
            if process.exists():
                os.waitpid(process.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # somebody else's, who reaps it
    return left


def _alive(pids: list[int]) -> list[ProcessRef]:
    found = []
    for pid in pids:
        try:
            process = ProcessRef.of(pid)
        except ProcessLookupError:
            continue
        if process.alive():
            found.append(process)
    return found


def _ask_monitor_to_kill(directory: Path) -> None:
    """Without a record, the monitor is the only one that knows the cgroup and the init."""
    try:
        with MonitorClient(directory) as client:
            client.request("destroy")
            try:
                client.receive()  # it never answers twice: this waits until it has ended
            except MonitorGoneError:
                pass
    except MonitorGoneError:
        pass


def _end_monitor(monitor: ProcessRef) -> None:
    """The monitor ends by itself once its children have; it is killed when it does not."""
    if monitor.pid == os.getpid():
        return  # it is the monitor that takes down what it could not finish
    if not monitor.wait_gone(_MONITOR_TIMEOUT_S):
        log.warning("monitor %d does not end; killed", monitor.pid)
        _kill(monitor)
        monitor.wait_gone(None)


def _unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted in the directory, the last one first."""
    for target in reversed(mounts_below(directory)):
        own_file_system.give_up(Path(target))
        try:
            mount.umount2(target, mount.MNT_DETACH)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOENT):  # somebody else was faster
                raise


def mounts_below(directory: Path) -> list[str]:
    """Mount points in a directory, in the order in which they were mounted.

    Source: man 5 proc_pid_mountinfo; blanks in paths are written as octal escapes.
    """
    prefix = f"{directory.resolve()}/"
    found = []
    with Path("/proc/self/mountinfo").open() as file:
        for line in file:
            target = line.split(" ", 5)[4]
            target = target.encode().decode("unicode_escape").encode("latin-1").decode()
            if target.startswith(prefix):
                found.append(target)
    return found


def _remove_directory(directory: Path) -> None:
    try:
        device = directory.stat().st_dev
    except FileNotFoundError:
        return
    # The record goes last: as long as anything is left, the entry can be found and deleted.
    last = (STATE_FILE, STATE_LOCK)
    trash = directory / ".trash"
    trash.mkdir(exist_ok=True)
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name in last):
        if entry.name == trash.name:
            continue
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path), trash, device)
        else:
            if entry.name == STATE_FILE:
                remove_tree(trash, directory, device)
            Path(entry.path).unlink(missing_ok=True)
    if trash.exists():
        remove_tree(trash, directory, device)
    directory.rmdir()
