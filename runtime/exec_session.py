"""``exec``: a further process in a running container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.metadata import ExecSession, file_identity, update_metadata
from runtime.monitor_client import MonitorClient, MonitorGoneError
from runtime.process import ProcessRef, namespace_pids
from runtime.sandbox.descriptors import Stdio
from runtime.sandbox.launch import exec_process
from runtime.spec import parse_process_json, parse_spec
from runtime.waiting import wait_process

if TYPE_CHECKING:
    from runtime.container import Container


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """What to run.

    Attributes:
        process: The OCI process.
        stdio: The three descriptors for it.
        console: A connected socket that the terminal's master is sent to, when
            ``process.terminal`` is true.
    """

    process: dict[str, Any]
    stdio: Stdio
    console: int | None = None


class ExecHandle:
    """A process that exec has started.

    Attributes:
        process: The process, in our pid namespace.
        ns_pid: Its pid as seen inside.
    """

    def __init__(self, directory: Path, session: ExecSession, client: MonitorClient | None) -> None:
        self.process = session.process
        self.ns_pid = session.ns_pid
        self._directory = directory
        self._client = client

    def wait(self) -> int:
        """Wait for its end; returns its wait status.

        Raises:
            ContainerError: The monitor was killed, and nobody else knows the status.
        """
        if self._client is not None:
            try:
                return int(self._client.receive()["exit_status"])
            except MonitorGoneError:
                return wait_process(self.process)
        status = wait_process(self.process)
        with update_metadata(self._directory) as metadata:
            for session in metadata.exec_sessions:
                if session.process == self.process:
                    session.exit_status = status
        return status

    def close(self) -> None:
        """Leave the process alone; it goes on."""
        if self._client is not None:
            self._client.close()


def execute(container: Container, request: ExecRequest) -> ExecHandle:
    """Start a process in a container; the caller holds the operation lock.

    Raises:
        SpecError: The process is invalid.
        ContainerError, OSError: It could not be started.
    """
    parse_process_json(request.process)  # to refuse it here, in its own words
    fds = list(request.stdio)
    if request.console is not None:
        fds.append(request.console)
    try:
        client = MonitorClient(container.directory)
    except MonitorGoneError:
        return _execute_as_child(container, request)
    try:
        answer = client.request("exec", fds, process=request.process)
    except BaseException:
        client.close()
        raise
    process = ProcessRef.from_json(answer["process"])
    assert process is not None
    session = ExecSession(process, int(answer["ns_pid"]), list(request.process["args"]))
    return ExecHandle(container.directory, session, client)


def _execute_as_child(container: Container, request: ExecRequest) -> ExecHandle:
    """Without a monitor the process is our child, and left to the supervisor when we end."""
    metadata = container.metadata
    assert metadata.init is not None
    pid = start_process(container, request)
    session = ExecSession(
        ProcessRef.of(pid),
        namespace_pids(pid)[-1],
        request.process["args"],
        stdio=[] if request.console is not None else [file_identity(fd) for fd in request.stdio],
    )
    with update_metadata(container.directory) as metadata:
        metadata.exec_sessions = [*metadata.exec_sessions, session]
    return ExecHandle(container.directory, session, None)


def start_process(container: Container, request: ExecRequest) -> int:
    """Start the process as our own child; returns its pid."""
    metadata = container.metadata
    assert metadata.init is not None
    return exec_process(
        metadata.init.pid,
        request.process,
        spec=parse_spec(metadata.spec, Path(metadata.bundle)),
        cgroups=container.cgroups,
        stdio=request.stdio,
        console=request.console,
    )
