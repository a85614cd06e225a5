"""The monitor: the small process that stays with a container.

It is forked from the command that creates the container (no second interpreter starts), leaves
its session, and becomes the parent of the container's init and of every process that ``exec``
brings in. So it is the one that learns their wait statuses: it writes them to the metadata at
once, and tells whoever waits. It also holds the *leases* of commands that freeze the container for
a moment: when such a command dies in the middle, the monitor thaws.

Conversations go over ``monitor.sock`` in the container's directory, as JSON lines (line_socket.py).
Only the same user and root may talk. Requests, by ``op``:

========  =========================================  ==============================================
op        further keys                               answers
========  =========================================  ==============================================
wait                                                 ``{"exit_status": n}`` when the init has ended
wait_pid  ``ns_pid``                                 the same for a pid as seen inside
exec      ``process`` (OCI); three descriptors,      ``{"process": …, "ns_pid": n}`` at once, then
          then the console socket if it has one      ``{"exit_status": n}``
started                                              ``{}`` when the init has become its program
lease                                                ``{}``; then the lease lasts until ``release``,
                                                     and a lost connection means: thaw
release                                              ``{}``
keep      ``tracking`` (kept_tracking.py) and its    ``{}``; the monitor holds them until they are
          descriptors; or None, and ``why``          taken, or another command takes a lease
take                                                 ``{"tracking": …}`` with the descriptors; None
                                                     and ``why`` when there are none
destroy                                              ``{}`` when everything was killed; the monitor
                                                     then removes the cgroups and ends
========  =========================================  ==============================================

An answer with the key ``error`` is a failure (error_report.py). Wait statuses are as os.waitpid()
gives them.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runtime.error_report import error_to_json
from runtime.errors import ContainerError
from runtime.kernel import pidfd_info
from runtime.line_socket import LineSocket, listen, peer_uid
from runtime.metadata import ExecSession, file_identity, update_metadata
from runtime.process import ProcessRef, find_namespace_pid, namespace_pids
from runtime.status import Status

if TYPE_CHECKING:
    from runtime.sandbox.cgroups import Cgroups

log = logging.getLogger(__name__)

SOCKET_NAME = "monitor.sock"
_STRANGERS_GRACE_S = 2.0
_KEPT_SESSIONS = 64  # ended exec sessions whose status a late wait may still ask for

ExecFunction = Callable[[dict[str, Any], list[int]], int]
"""Starts a process inside: OCI process and descriptors in, pid of our new child out."""


class Init(Protocol):
    """What the monitor needs of the init: runtime.sandbox.launch.InitProcess."""

    pid: int

    @property
    def report_fd(self) -> int:
        """Readable as soon as ``wait_executed`` would not block."""

    def wait_executed(self) -> None:
        """Return when the init has become its program; raise when it could not."""


@dataclass(slots=True)
class _Client:
    """A connected command."""

    line: LineSocket
    has_lease: bool = False
    waits_for: set[int] = field(default_factory=set)


class Monitor:
    """Serves one container from its creation until its init and its exec sessions have ended."""

    def __init__(
        self,
        directory: Path,
        init: Init,
        cgroups: Cgroups,
        start_process: ExecFunction,
        sessions: Iterable[ExecSession] = (),
    ) -> None:
        self._directory = directory
        self._init = init
        self._init_pid = init.pid
        self._destroying = False
        self._start_result: dict[str, Any] | None = None
        self._start_waiters: list[_Client] = []
        self._cgroups = cgroups
        self._start_process = start_process
        self._init_status: int | None = None
        self._sessions = {session.process.pid: session for session in sessions}
        self._strangers: dict[int, _Client] = {}  # pidfd of somebody else's child -> who waits
        self._clients: dict[int, _Client] = {}
        self._tracking: dict[str, Any] | None = None
        self._tracking_fds: list[int] = []
        self._why_none = "no snapshot was taken before"
        self._selector = selectors.EpollSelector()
        self._listener = listen(directory / SOCKET_NAME)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wakeup, self._wakeup_writer = _child_wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._children_changed)
        self._selector.register(init.report_fd, selectors.EVENT_READ, self._init_reported)
        self._stranger_poll = select.epoll()
        self._selector.register(self._stranger_poll, selectors.EVENT_READ, self._strangers_ended)

    def kept_fds(self) -> set[int]:
        """The descriptors that the monitor works with."""
        return {
            self._listener.fileno(),
            self._wakeup.fileno(),
            self._wakeup_writer.fileno(),
            self._stranger_poll.fileno(),
            self._selector.fileno(),
        }

    def serve(self) -> None:
        """Serve until the init has ended and nobody is left whose end we would have to see."""
        self._reap()
        while self._init_status is None or self._sessions:
            self._serve_once(None)
        # What died with its pid namespace is reaped a moment after the namespace's init.
        deadline = time.monotonic() + _STRANGERS_GRACE_S
        while self._strangers and (left := deadline - time.monotonic()) > 0:
            self._serve_once(left)
        for client in self._strangers.values():
            self._answer(client, {"error": error_to_json(_status_unknown())})
        if self._destroying:
            self._cgroups.destroy()
        self._listener.close()

    def _serve_once(self, timeout_s: float | None) -> None:
        for key, _events in self._selector.select(timeout_s):
            try:
                key.data()
            except Exception:
                # One odd client must not take the exit status of the container with it.
                log.exception("monitor of %s", self._directory.name)

    # Children

    def _children_changed(self) -> None:
        self._wakeup.recv(4096)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._init_pid:
                self._init_ended(status)
            elif pid in self._sessions:
                self._session_ended(pid, status)

    def _init_ended(self, status: int) -> None:
        self._init_status = status
        if self._start_result is None:
            self._init_reported()  # its last words are in the pipe; who waits for them is told now
        try:
            with update_metadata(self._directory) as metadata:
                metadata.exit_status = status
                metadata.status = Status.STOPPED
        except ContainerError as exc:
            # Deleted, or its record destroyed: nobody can ask for the status any more.
            log.info("exit status %d of %s has no record: %s", status, self._directory.name, exc)
        self._tell(self._init_pid, status)

    def _session_ended(self, pid: int, status: int) -> None:
        del self._sessions[pid]
        try:
            with update_metadata(self._directory) as metadata:
                for session in metadata.exec_sessions:
                    if session.process.pid == pid and session.exit_status is None:
                        session.exit_status = status
        except ContainerError as exc:
            log.info("exit status %d of pid %d has no record: %s", status, pid, exc)
        self._tell(pid, status)

    def _tell(self, pid: int, status: int) -> None:
        for client in list(self._clients.values()):
            if pid in client.waits_for:
                client.waits_for.discard(pid)
                self._answer(client, {"exit_status": status})

    # Clients

    def _accept(self) -> None:
        sock, _address = self._listener.accept()
        if peer_uid(sock) not in (0, os.geteuid()):
            sock.close()
            return
        sock.settimeout(5)  # a client that does not read must not stop the monitor
        client = _Client(LineSocket(sock))
        self._clients[sock.fileno()] = client
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._readable(client))

    def _readable(self, client: _Client) -> None:
        try:
            going_on = client.line.fill()
            while (message := client.line.next_message()) is not None:
                self._serve_message(client, message)
        except (OSError, ValueError):
            going_on = False
        if not going_on:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        number = client.line.fileno()
        if number < 0 or self._clients.get(number) is not client:
            return
        del self._clients[number]
        self._selector.unregister(client.line.sock)
        client.line.close()
        if client.has_lease:
            self._lease_lost()

    def _lease_lost(self) -> None:
        """The command that had frozen the container died: nothing may stay frozen for it."""
        with update_metadata(self._directory) as metadata:
            # Under the lock: whoever gives the container away looks there whether it is frozen.
            if metadata.status is Status.RUNNING and self._cgroups.freezing:
                log.warning("%s: its command died, and it was frozen; thawed", self._directory.name)
                self._cgroups.thaw()

    def _answer(self, client: _Client, message: dict[str, Any]) -> None:
        try:
            client.line.send(message)
        except OSError:
            self._drop(client)

    def _serve_message(self, client: _Client, message: dict[str, Any]) -> None:
        try:
            handler = {
                "wait": self._op_wait,
                "wait_pid": self._op_wait_pid,
                "exec": self._op_exec,
                "started": self._op_started,
                "lease": self._op_lease,
                "release": self._op_release,
                "keep": self._op_keep,
                "take": self._op_take,
                "destroy": self._op_destroy,
            }[message["op"]]
            handler(client, message)
        except Exception as exc:
            self._answer(client, {"error": error_to_json(exc)})

    def _op_wait(self, client: _Client, _message: dict[str, Any]) -> None:
        if self._init_status is not None:
            self._answer(client, {"exit_status": self._init_status})
        else:
            client.waits_for.add(self._init_pid)

    def _op_wait_pid(self, client: _Client, message: dict[str, Any]) -> None:
        pid = find_namespace_pid(self._cgroups.pids(), int(message["ns_pid"]))
        if pid is None:
            raise ContainerError(
                f"no process has pid {message['ns_pid']} inside the container",
                reason="no-such-process",
            )
        if pid == self._init_pid or pid in self._sessions:
            client.waits_for.add(pid)
            return
        # Some other process's child: once its parent has reaped it (EPOLLHUP), the kernel tells
        # its status to whoever holds a pidfd.
        pidfd = os.pidfd_open(pid)
        self._strangers[pidfd] = client
        self._stranger_poll.register(pidfd, select.EPOLLHUP)

    def _strangers_ended(self) -> None:
        for pidfd, _events in self._stranger_poll.poll(0):
            client = self._strangers.pop(pidfd)
            status = pidfd_info.exit_status(pidfd)
            self._stranger_poll.unregister(pidfd)
            os.close(pidfd)
            if status is None:
                self._answer(client, {"error": error_to_json(_status_unknown())})
            else:
                self._answer(client, {"exit_status": status})

    def _op_exec(self, client: _Client, message: dict[str, Any]) -> None:
        fds = client.line.take_fds()
        try:
            if self._init_status is not None:
                raise ContainerError("the container has ended", reason="wrong-status")
            pid = self._start_process(message["process"], fds)
            stdio = [file_identity(fd) for fd in fds[:3]] if len(fds) == 3 else []
        finally:
            for fd in fds:
                os.close(fd)
        session = ExecSession(
            process=ProcessRef.of(pid),
            ns_pid=namespace_pids(pid)[-1],
            args=[str(arg) for arg in message["process"].get("args", [])],
            stdio=stdio,
        )
        self._sessions[pid] = session
        with update_metadata(self._directory) as metadata:
            metadata.exec_sessions = [*_recent(metadata.exec_sessions), session]
        client.waits_for.add(pid)
        self._answer(client, {"process": session.process.to_json(), "ns_pid": session.ns_pid})

    def _init_reported(self) -> None:
        """The init has become its program, or says why it could not."""
        self._selector.unregister(self._init.report_fd)
        try:
            self._init.wait_executed()
            self._start_result = {}
        except Exception as exc:
            self._start_result = {"error": error_to_json(exc)}
        for client in self._start_waiters:
            self._answer(client, self._start_result)
        self._start_waiters.clear()

    def _op_started(self, client: _Client, _message: dict[str, Any]) -> None:
        if self._start_result is not None:
            self._answer(client, self._start_result)
        else:
            self._start_waiters.append(client)

    def _op_lease(self, client: _Client, _message: dict[str, Any]) -> None:
        client.has_lease = True
        # Who saves the container now would find memory that somebody tracks.
        self._drop_tracking("it was saved or migrated in another way since")
        self._answer(client, {})

    def _op_release(self, client: _Client, _message: dict[str, Any]) -> None:
        client.has_lease = False
        self._answer(client, {})

    def _op_keep(self, client: _Client, message: dict[str, Any]) -> None:
        self._drop_tracking("")
        self._tracking_fds = client.line.take_fds()
        self._tracking = message["tracking"]
        self._why_none = message["why"]
        self._answer(client, {})

    def _op_take(self, client: _Client, _message: dict[str, Any]) -> None:
        try:
            client.line.send(
                {"tracking": self._tracking, "why": self._why_none}, self._tracking_fds
            )
        except OSError:
            self._drop(client)
        # It is theirs now: what they learn from it is news only once.
        self._drop_tracking("the last snapshot failed")

    def _drop_tracking(self, why: str) -> None:
        """Let go of what tracks the container's memory; the kernel then takes that back."""
        if self._tracking is not None:
            self._why_none = why
        for fd in self._tracking_fds:
            os.close(fd)
        self._tracking_fds = []
        self._tracking = None

    def _op_destroy(self, client: _Client, _message: dict[str, Any]) -> None:
        # Asked by those who have lost the record, in which the cgroups' names stand.
        self._destroying = True
        self._cgroups.kill_all()
        self._answer(client, {})


def _recent(sessions: list[ExecSession]) -> list[ExecSession]:
    """The sessions worth keeping: all that run, and the last ones that have ended."""
    ended = [session for session in sessions if session.exit_status is not None]
    dropped = {id(session) for session in ended[:-_KEPT_SESSIONS]}
    return [session for session in sessions if id(session) not in dropped]


def _status_unknown() -> ContainerError:
    return ContainerError(
        "the process has ended, but its status is not known: this kernel does not tell it",
        reason="exit-status-unknown",
    )


def _child_wakeup() -> tuple[socket.socket, socket.socket]:
    """A socket that becomes readable when a child has ended, and its other end."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    return reader, writer
