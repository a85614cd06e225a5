"""Make the process that becomes the init, in the namespaces it needs.

The caller becomes its parent. Two kinds of namespaces only ever take hold of *children*: pid and
time. For those we enter (or make) them ourselves just for the moment of the clone, and come back.
A user namespace to join has no way back, so a short-lived helper goes there and makes the init
as its sibling (``CLONE_PARENT``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from runtime.errors import ContainerError
from runtime.kernel.clone import CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_PARENT, clone3
from runtime.kernel.namespaces import NAMESPACE_FLAGS, setns, unshare
from runtime.sandbox.restore_stub import RestoreStub
from runtime.sandbox.steps import step
from runtime.spec.model import Linux

_NS = 1_000_000_000
TimeOffsets = dict[str, tuple[int, int]]

# These come later: a cgroup namespace when the init is in its cgroup, a time namespace by unshare
_NOT_CLONED = ("cgroup", "time")


def new_namespaces(linux: Linux) -> int:
    """The ``CLONE_NEW*`` flags for clone3."""
    flags = 0
    for namespace in linux.namespaces:
        if namespace.path is None and namespace.kind not in _NOT_CLONED:
            flags |= NAMESPACE_FLAGS[namespace.kind]
    return flags


def time_offsets(linux: Linux, restore: RestoreStub | None) -> TimeOffsets | None:
    """Offsets for a new time namespace, None when there shall be none.

    A restored container always gets one, with the engine's offsets: its clocks go on from where
    they were.
    """
    if restore is not None:
        return {
            "monotonic": divmod(restore.monotonic_offset_ns, _NS),
            "boottime": divmod(restore.boottime_offset_ns, _NS),
        }
    return linux.time_offsets if linux.makes_new("time") else None


def spawn(
    body: Callable[[], NoReturn],
    *,
    flags: int,
    joined: Mapping[str, int],
    offsets: TimeOffsets | None,
) -> tuple[int, int]:
    """Run *body* in a new process.

    Args:
        body: What the process does; it must not return.
        flags: New namespaces, for clone3.
        joined: Descriptors of namespaces to join; only ``user`` and ``pid`` are our business.
        offsets: Make a time namespace with these.

    Returns:
        Its pid in our pid namespace, and a pidfd. It is our child.

    Raises:
        ContainerError: The kernel refused.
    """
    if "user" in joined:
        return _spawn_by_helper(body, flags=flags, joined=joined, offsets=offsets)
    with _children_in(joined.get("pid"), offsets), step("make the init's process", reason="clone"):
        pid, pidfd = clone3(flags)
        if pid == 0:
            body()
    return pid, pidfd


@contextmanager
def _children_in(pid_namespace: int | None, offsets: TimeOffsets | None) -> Iterator[None]:
    """Let our next child be in another pid namespace and a new time namespace."""
    ours: list[tuple[int, int]] = []
    try:
        if pid_namespace is not None:
            ours.append((os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWPID))
            with step("join the pid namespace (linux.namespaces)", reason="namespace"):
                setns(pid_namespace, CLONE_NEWPID)
        if offsets is not None:
            ours.append((os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWTIME))
            _make_time_namespace(offsets)
        yield
    finally:
        # The child never gets here
        for fd, kind in ours:
            try:
                setns(fd, kind)
            finally:
                os.close(fd)


def _make_time_namespace(offsets: TimeOffsets) -> None:
    with step("make a time namespace (linux.namespaces)", reason="namespace"):
        unshare(CLONE_NEWTIME)
    lines = "".join(f"{clock} {secs} {nanos}\n" for clock, (secs, nanos) in offsets.items())
    if not lines:
        return
    # Only until the first process enters; then the offsets are fixed for good
    with step(f"set the clock offsets {offsets} (linux.timeOffsets)", reason="namespace"):
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, lines.encode())
        finally:
            os.close(fd)


def _spawn_by_helper(
    body: Callable[[], NoReturn],
    *,
    flags: int,
    joined: Mapping[str, int],
    offsets: TimeOffsets | None,
) -> tuple[int, int]:
    reader, writer = os.pipe()
    helper, helper_fd = clone3(0)
    if helper == 0:
        _be_helper(body, writer, flags=flags, joined=joined, offsets=offsets)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.close(helper_fd)
    os.waitpid(helper, 0)
    if not answer.isdecimal():
        why = answer or "the helper that joins it was killed"
        raise ContainerError(f"cannot join the user namespace: {why}", reason="user-namespace")
    pid = int(answer)
    # Our own unreaped child: the number cannot mean another process
    return pid, os.pidfd_open(pid)


def _be_helper(
    body: Callable[[], NoReturn],
    writer: int,
    *,
    flags: int,
    joined: Mapping[str, int],
    offsets: TimeOffsets | None,
) -> NoReturn:
    try:
        if offsets is not None:
            _make_time_namespace(offsets)
        if "pid" in joined:
            setns(joined["pid"], CLONE_NEWPID)
        setns(joined["user"], CLONE_NEWUSER)
        pid, _ = clone3(flags | CLONE_PARENT, exit_signal=0)
        if pid == 0:
            os.close(writer)
            body()
        os.write(writer, str(pid).encode())
    except BaseException as exc:
        os.write(writer, str(exc).encode())
    finally:
        os._exit(0)
