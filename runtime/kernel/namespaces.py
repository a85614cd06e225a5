"""setns(2), unshare(2) and the kinds of namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

from runtime.kernel.clone import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from runtime.kernel.libc import check, libc

# /proc/PID/ns/<name>: flag
NAMESPACE_FLAGS: Final = {
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

# ioctls on namespace descriptors, include/uapi/linux/nsfs.h
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702
NS_GET_NSTYPE = 0xB703
NS_GET_OWNER_UID = 0xB704

_setns = libc.setns
_setns.argtypes = (ctypes.c_int, ctypes.c_int)
_unshare = libc.unshare
_unshare.argtypes = (ctypes.c_int,)
_sethostname = libc.sethostname
_sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = libc.setdomainname
_setdomainname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)


class _Utsname(ctypes.Structure):
    """struct utsname, man 2 uname."""

    _fields_ = tuple(
        (name, ctypes.c_char * 65)
        for name in ("sysname", "nodename", "release", "version", "machine", "domainname")
    )


_uname = libc.uname
_uname.argtypes = (ctypes.POINTER(_Utsname),)


def setns(fd: int, kinds: int) -> None:
    """Join namespaces.

    Joining a pid or time namespace moves only future children (time: us too when single-threaded).
    User, mount and time namespaces refuse a caller with threads; a mount namespace sets root and
    working directory to its own root.

    Args:
        fd: A ``/proc/PID/ns/*`` descriptor, or a pidfd (Linux 5.8) to join several at once.
        kinds: ``CLONE_NEW*``; for a namespace descriptor it may be 0, then any kind is taken.

    Raises:
        OSError: EINVAL for the wrong kind, or our own user namespace, or a caller with threads;
            EPERM without CAP_SYS_ADMIN in the target's user namespace.

    Source: man 2 setns.
    """
    check(_setns(fd, kinds), f"setns(fd={fd}, kinds={kinds:#x})")


def unshare(kinds: int) -> None:
    """Move ourselves into new namespaces (pid and time: only future children).

    Raises:
        OSError: The kernel refused; ENOSPC is a limit under /proc/sys/user.

    Source: man 2 unshare.
    """
    check(_unshare(kinds), f"unshare({kinds:#x})")


def sethostname(name: str) -> None:
    """Set the host name of our UTS namespace; at most 64 bytes. Source: man 2 sethostname."""
    raw = name.encode()
    check(_sethostname(raw, len(raw)), f"sethostname({name!r})")


def names() -> tuple[str, str]:
    """Host name and domain name of our UTS namespace; the latter is "(none)" until it is set."""
    uname = _Utsname()
    check(_uname(ctypes.byref(uname)), "uname")
    return os.fsdecode(uname.nodename), os.fsdecode(uname.domainname)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of our UTS namespace; at most 64 bytes."""
    raw = name.encode()
    check(_setdomainname(raw, len(raw)), f"setdomainname({name!r})")


def open_namespace(pid: int | str, link: str) -> int:
    """A descriptor of a task's namespace; *link* as in /proc/PID/ns.

    Raises:
        FileNotFoundError: The task has ended; or no process has been made in a pid namespace yet.
    """
    return os.open(f"/proc/{pid}/ns/{link}", os.O_RDONLY | os.O_CLOEXEC)


def owner(fd: int) -> int:
    """A descriptor of the user namespace that owns the namespace *fd*.

    Raises:
        PermissionError: It is neither ours nor below ours.

    Source: man 2 NS_GET_USERNS.
    """
    return fcntl.ioctl(fd, NS_GET_USERNS)


def parent(fd: int) -> int:
    """A descriptor of the pid or user namespace that *fd* was made in.

    Raises:
        PermissionError: It is neither ours nor below ours.

    Source: man 2 NS_GET_PARENT.
    """
    return fcntl.ioctl(fd, NS_GET_PARENT)


def kind_of(fd: int) -> str:
    """The kind of the namespace *fd*, as in /proc/PID/ns.

    Raises:
        OSError: ENOTTY when it is no namespace.

    Source: man 2 NS_GET_NSTYPE.
    """
    flag = fcntl.ioctl(fd, NS_GET_NSTYPE)
    return next(kind for kind, known in NAMESPACE_FLAGS.items() if known == flag)


def owner_uid(fd: int) -> int:
    """Who made the user namespace *fd*, as our own user namespace calls them.

    Source: man 2 NS_GET_OWNER_UID.
    """
    answer: bytes = fcntl.ioctl(fd, NS_GET_OWNER_UID, bytes(4))
    return int(struct.unpack("I", answer)[0])


@contextlib.contextmanager
def fresh_network_namespace() -> Iterator[int]:
    """A descriptor of a new network namespace, which ends with it; we stay where we are."""
    here = open_namespace("thread-self", "net")
    try:
        unshare(CLONE_NEWNET)
        try:
            there = open_namespace("thread-self", "net")
        finally:
            setns(here, CLONE_NEWNET)
    finally:
        os.close(here)
    try:
        yield there
    finally:
        os.close(there)
