"""Processes by pid *and* start time, so that a reused pid is never taken for the old process."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

# Fields of /proc/PID/stat after the command name, which is the only one that may contain blanks;
# man 5 proc_pid_stat counts from 1 with the pid, so field n is at index n - 3.
_STATE, _PPID, _PGRP, _START_TICKS = 0, 1, 2, 19


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process, told apart from any later one that gets the same pid.

    Attributes:
        pid: In our pid namespace.
        start_ticks: When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """The process that has this pid now.

        Raises:
            ProcessLookupError: There is none.
        """
        return cls(pid, int(_stat_fields(pid)[_START_TICKS]))

    def exists(self) -> bool:
        """Whether the process still has an entry, running or as a zombie."""
        try:
            return int(_stat_fields(self.pid)[_START_TICKS]) == self.start_ticks
        except ProcessLookupError:
            return False

    def alive(self) -> bool:
        """Whether the process still runs: it exists and is no zombie."""
        try:
            fields = _stat_fields(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[_START_TICKS]) == self.start_ticks and fields[_STATE] not in ("Z", "X")

    def open(self) -> int:
        """A pidfd of exactly this process; the caller closes it.

        Raises:
            ProcessLookupError: It is gone, whoever has its pid now.
        """
        pidfd = os.pidfd_open(self.pid)
        # The check comes after the open: the descriptor cannot change its process any more.
        if not self.exists():
            os.close(pidfd)
            raise ProcessLookupError(f"process {self.pid} is gone")
        return pidfd

    def wait_gone(self, timeout_s: float | None) -> bool:
        """Wait until the process has ended (it may still be a zombie).

        Returns:
            False when it still runs after *timeout_s* seconds.
        """
        try:
            pidfd = self.open()
        except ProcessLookupError:
            return True
        try:
            return wait_pidfd(pidfd, timeout_s)
        finally:
            os.close(pidfd)

    def to_json(self) -> dict[str, int]:
        """The reference as it stands in a metadata file."""
        return {"pid": self.pid, "start_ticks": self.start_ticks}

    @classmethod
    def from_json(cls, obj: dict[str, int] | None) -> ProcessRef | None:
        """The reverse of to_json; None stays None."""
        return None if obj is None else cls(int(obj["pid"]), int(obj["start_ticks"]))


def wait_pidfd(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the process of a pidfd has ended; False when the time is over before."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def wait_until_gone(processes: list[ProcessRef], timeout_s: float) -> list[ProcessRef]:
    """Wait for several processes together; what still runs at the end is returned."""
    deadline = time.monotonic() + timeout_s
    return [ref for ref in processes if not ref.wait_gone(deadline - time.monotonic())]


def parent_pid(pid: int) -> int:
    """The parent's pid, in our pid namespace.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return int(_stat_fields(pid)[_PPID])


def process_group(pid: int) -> int:
    """The process group's id, in our pid namespace.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return int(_stat_fields(pid)[_PGRP])


def namespace_pids(pid: int) -> tuple[int, ...]:
    """The pid in our namespace, then in each nested one down to the process's own.

    Raises:
        ProcessLookupError: There is no such process.

    Source: ``NSpid`` in man 5 proc_pid_status (Linux 4.1).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"process {pid} is gone") from None
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return tuple(int(word) for word in line.split()[1:])
    return (pid,)


def find_namespace_pid(pids: list[int], ns_pid: int) -> int | None:
    """The pid in our namespace of the process that has *ns_pid* in its own innermost one."""
    for pid in pids:
        try:
            if namespace_pids(pid)[-1] == ns_pid:
                return pid
        except ProcessLookupError:
            continue
    return None


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"process {pid} is gone") from None
    return text[text.rindex(")") + 2 :].split()
