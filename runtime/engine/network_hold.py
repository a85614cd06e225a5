"""Connections to peers outside, from the look at them until somebody else has them.

While a container is frozen the kernel still answers its peers: it would acknowledge bytes that the
image does not hold, and would tell peers that nobody is there once the container is gone. So the
packets of these connections are held off (runtime.kernel.nft) for as long as that may be; the peers
repeat what gets lost, as after any disturbance on the way.

There are three ways out. *Released*, the container goes on: the packets come through again, and
nothing has happened. *Abandoned* and *ended*, it is killed at once: its sockets end without a word
to their peers, and what holds the packets off stays behind, for a restore to remove. *Left behind*,
it stays frozen while another host decides; `end_silently` or `take_back` follow some day.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from runtime.kernel import pidfd, proc_fdinfo
from runtime.kernel.interfaces import set_links_down
from runtime.kernel.nft import Connection, PacketLock, remove_lock
from runtime.kernel.tcp_repair import enter_repair, leave_repair

_STREAMS = (b"TCP\0", b"TCPv6\0")


class NetworkHold:
    """What holds the outside off. A context manager: on the way out the container is released.

    Attributes:
        token: Names what stays behind.
    """

    def __init__(self) -> None:
        self.token = f"wherry-{secrets.token_hex(8)}"
        self._pid = 0
        self._connections: Sequence[Connection] = ()
        self._sockets: list[socket.socket] = []
        self._own = False
        self._lock: PacketLock | None = None
        self._gate: PacketLock | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def hold(
        self, pid: int, connections: Sequence[Connection], sockets: Sequence[int], *, own: bool
    ) -> None:
        """Hold the packets of connections off.

        Args:
            pid: A task in their network namespace.
            connections: Local and remote ends.
            sockets: For each connection a descriptor of ours, which is ours to close.
            own: Whether the namespace is the container's alone, and ends with it.

        Raises:
            OSError: This kernel has no fitting nf_tables.
        """
        self._sockets = [socket.socket(fileno=fd) for fd in sockets]
        self._lock = PacketLock(_namespace(pid), f"{self.token}-dump", connections, owned=True)
        self._pid, self._connections, self._own = pid, connections, own

    def shut(self, pid: int) -> None:
        """Hold off everything, also what is no connection yet, and keep the container silent.

        What its kernel repeated on its own would draw the network's attention back to it when it
        is elsewhere already.

        Args:
            pid: A task in a network namespace that is the container's alone.

        Raises:
            OSError: This kernel has no fitting nf_tables.
        """
        name = f"{self.token}-gate"
        self._gate = PacketLock(_namespace(pid), name, (), owned=True, everything=True)
        self._pid = pid

    def release(self) -> None:
        """The container goes on, or all is settled: hold nothing off any more. Idempotent."""
        self._undo.close()
        for lock in (self._lock, self._gate):
            if lock is not None:
                lock.remove()
        self._lock = self._gate = None
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def abandon(self) -> None:
        """Prepare for the end of the container; until `end` is called, `release` undoes it.

        Raises:
            OSError: The kernel refused.
        """
        if self._lock is None:
            return
        stays = PacketLock(_namespace(self._pid), self.token, self._connections, owned=False)
        self._undo.callback(stays.remove)
        for sock in self._sockets:
            self._undo.callback(leave_repair, sock, enter_repair(sock))

    def end(self) -> None:
        """The container will be killed in the next moment: what `abandon` has done stays."""
        self._undo.pop_all()
        if self._lock is not None and self._own:
            # A namespace that ends gives up its packet filters before its interfaces.
            set_links_down(self._pid)

    def leave_behind(self) -> str:
        """The container stays frozen for longer than we live.

        Returns:
            What `take_back` needs; empty when nothing has to be held.

        Raises:
            OSError: The kernel refused.
        """
        if self._lock is None and self._gate is None:
            return ""
        PacketLock(
            _namespace(self._pid),
            self.token,
            self._connections,
            owned=False,
            everything=self._gate is not None,
        ).keep()
        return self.token


def take_back(pid: int, token: str) -> None:
    """Let the packets of a container that was left behind through again.

    Args:
        pid: A task of it.
        token: From `NetworkHold.leave_behind`.
    """
    if token:
        remove_lock(_namespace(pid), token)


def end_silently(pids: Sequence[int], *, own: bool) -> None:
    """Have the TCP connections of frozen processes end without a word, for they go on elsewhere.

    Args:
        pids: The processes, which are killed next.
        own: Whether their network namespace ends with them.
    """
    if pids and own:
        set_links_down(pids[0])
    for pid in pids:
        process = pidfd.open_pidfd(pid)
        try:
            for fd in proc_fdinfo.descriptors(pid):
                if _is_stream(f"/proc/{pid}/fd/{fd}"):
                    # One that listens refuses, and has nobody to tell anything.
                    with (
                        socket.socket(fileno=pidfd.get_fd(process, fd)) as sock,
                        contextlib.suppress(PermissionError),
                    ):
                        enter_repair(sock)
        finally:
            os.close(process)


def owns_network(spec: Mapping[str, Any]) -> bool:
    """Whether a container of this configuration has a network namespace that is nobody else's."""
    spaces = (spec.get("linux") or {}).get("namespaces") or ()
    return any(space["type"] == "network" and not space.get("path") for space in spaces)


def _is_stream(path: str) -> bool:
    try:
        return os.getxattr(path, "system.sockprotoname") in _STREAMS
    except OSError:
        return False  # no socket at all


def make_room_for_descriptors() -> None:
    """Let us hold as many descriptors as we are allowed to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _namespace(pid: int) -> str:
    return f"/proc/{pid}/ns/net"
