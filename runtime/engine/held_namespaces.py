"""Namespaces without any task in them, which live on as long as something else holds them.

A descriptor of a namespace file, a socket that was made there, or a bound namespace file (as ``ip
netns add`` leaves it) keeps one alive. Each of these may also come from outside, and then it is not
the container's: where tasks or mounts of others are, nothing is looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

from runtime.engine.context import DumpContext
from runtime.engine.scopes import Scopes
from runtime.kernel import namespaces, pidfd, proc_fdinfo
from runtime.kernel.mountinfo import read_mounts
from runtime.kernel.openat2 import openat2
from runtime.kernel.socket_namespace import socket_namespace

SAVED = (
    (
        "nested namespaces",
        "also network and UTS namespaces that only descriptors, sockets or bound files hold",
    ),
)
REFUSED = (
    ("namespace-held", "a pid, mount or IPC namespace that no process is in, but is held open"),
)

_WITHOUT_TASKS = frozenset({"net", "uts", "user", "cgroup", "time"})


def collect_held(context: DumpContext, scopes: Scopes, pids: Iterable[int]) -> None:
    """Add the namespaces that are held otherwise to those of the tasks.

    Args:
        context: The dump.
        scopes: Has seen every task.
        pids: Living processes.
    """
    for fd, where in _held(context, pids):
        try:
            kind = namespaces.kind_of(fd)
            known = (kind, os.fstat(fd).st_ino) in context.scopes
            if not known and not _is_elsewhere(context, kind, os.fstat(fd).st_ino):
                if kind in _WITHOUT_TASKS:
                    scopes.hold(fd)
                else:
                    context.refuse("namespace-held", where, f"holds a {kind} namespace")
        finally:
            os.close(fd)


def _held(context: DumpContext, pids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Descriptors of ours for namespaces, and what holds each."""
    device = os.stat("/proc/self/ns/net").st_dev
    for pid in pids:
        with contextlib.ExitStack() as opened:
            process = -1
            for number in proc_fdinfo.descriptors(pid):
                path = f"/proc/{pid}/fd/{number}"
                status = os.stat(path)
                where = context.subject(pid, f"fd {number}")
                if status.st_dev == device and stat.S_ISREG(status.st_mode):
                    yield os.open(path, os.O_RDONLY | os.O_CLOEXEC), where
                elif stat.S_ISSOCK(status.st_mode):
                    if process < 0:
                        process = pidfd.open_pidfd(pid)
                        opened.callback(os.close, process)
                    namespace = _of_socket(process, number)
                    if namespace is not None:
                        yield namespace, where
    yield from _bound(context, device)


def _of_socket(process: int, number: int) -> int | None:
    fd = pidfd.get_fd(process, number)
    try:
        return socket_namespace(fd)
    except OSError:  # a descriptor for its path only
        return None
    finally:
        os.close(fd)


def _bound(context: DumpContext, device: int) -> Iterator[tuple[int, str]]:
    """Namespace files that are mounted somewhere, as far as they are to be seen."""
    for pid in [scope.pid for scope in context.scopes.values() if scope.kind == "mnt"]:
        points = [mount.point for mount in read_mounts(pid) if mount.fstype == "nsfs"]
        if not points:
            continue
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for point in points:
                with contextlib.suppress(OSError):  # covered by another mount
                    fd = openat2(root, point.lstrip("/"), os.O_RDONLY)
                    if os.fstat(fd).st_dev == device:
                        yield fd, f"mount {point}"
                    else:
                        os.close(fd)
        finally:
            os.close(root)


def _is_elsewhere(context: DumpContext, kind: str, inode: int) -> bool:
    """Whether a namespace is used outside of the container."""
    name = f"{kind}:[{inode}]"
    if any(mount.fstype == "nsfs" and mount.root == name for mount in read_mounts(os.getpid())):
        return True
    inside = set(context.frozen.pids)
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) not in inside:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/{kind}") == name:
                    return True
    return False
