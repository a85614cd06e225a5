"""Connections to peers outside, from the look at them until somebody else has them.

While a container is frozen the kernel still answers its peers: it would acknowledge bytes that the
image does not hold, and would tell peers that nobody is there once the container is gone. So the
packets of these connections are held off (runtime.kernel.nft) for as long as that may be; the peers
repeat what gets lost, as after any disturbance on the way.

There are two ways out. *Released*, the container goes on: the packets come through again, and
nothing has happened. *Abandoned*, it is about to be killed: its sockets end without a word to their
peers, and what holds the packets off stays behind, for a restore in the same network namespace to
remove.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from runtime.kernel import pidfd
from runtime.kernel.interfaces import set_links_down
from runtime.kernel.nft import Connection, PacketLock
from runtime.kernel.tcp_repair import enter_repair, leave_repair


class NetworkHold:
    """What holds the outside off. A context manager: on the way out the container is released.

    Attributes:
        token: Names what stays behind.
    """

    def __init__(self) -> None:
        self.token = f"wherry-{secrets.token_hex(8)}"
        self._pid = 0
        self._connections: Sequence[Connection] = ()
        self._descriptors: list[tuple[int, int]] = []
        self._own = False
        self._lock: PacketLock | None = None

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
        self,
        pid: int,
        connections: Sequence[Connection],
        descriptors: list[tuple[int, int]],
        *,
        own: bool,
    ) -> None:
        """Hold the packets of connections off.

        Args:
            pid: A task in their network namespace.
            connections: Local and remote ends.
            descriptors: For each connection a process (our pid) and its number there.
            own: Whether the namespace is the container's alone, and ends with it.

        Raises:
            OSError: This kernel has no fitting nf_tables.
        """
        self._lock = PacketLock(pid, f"{self.token}-dump", connections, owned=True)
        self._pid, self._connections, self._descriptors = pid, connections, descriptors
        self._own = own

    def release(self) -> None:
        """The container goes on, or the packets' fate is settled: hold nothing off any more."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(FileNotFoundError):
                lock.remove()

    def abandon(self) -> None:
        """Prepare for the end of the container, which must follow and must not fail.

        Raises:
            OSError: The kernel refused; the container can go on.
        """
        if self._lock is None:
            return
        with contextlib.ExitStack() as undo:
            stays = PacketLock(self._pid, self.token, self._connections, owned=False)
            undo.callback(stays.remove)
            reuse: list[int] = []
            undo.callback(self._mend, reuse)
            for sock in self._sockets():
                reuse.append(enter_repair(sock))
            if self._own:
                # A namespace that ends gives up its packet filters before its interfaces.
                set_links_down(self._pid)
            undo.pop_all()
        stays.keep()

    def _mend(self, reuse: list[int]) -> None:
        for sock, before in zip(self._sockets(), reuse, strict=False):
            leave_repair(sock, before)

    def _sockets(self) -> Iterator[socket.socket]:
        pidfds: dict[int, int] = {}
        try:
            for pid, fd in self._descriptors:
                if pid not in pidfds:
                    pidfds[pid] = pidfd.open_pidfd(pid)
                with socket.socket(fileno=pidfd.get_fd(pidfds[pid], fd)) as sock:
                    yield sock
        finally:
            for held in pidfds.values():
                os.close(held)
