"""/proc/PID/{stat,status,limits,timers,children,…}: what the kernel tells about a task."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from runtime.kernel.procfs import read_bytes, read_text

RLIM_INFINITY = 2**64 - 1

# Order and names of /proc/PID/limits; numbers from include/uapi/asm-generic/resource.h
_LIMITS = {
    "Max cpu time": 0,
    "Max file size": 1,
    "Max data size": 2,
    "Max stack size": 3,
    "Max core file size": 4,
    "Max resident set": 5,
    "Max processes": 6,
    "Max open files": 7,
    "Max locked memory": 8,
    "Max address space": 9,
    "Max file locks": 10,
    "Max pending signals": 11,
    "Max msgqueue size": 12,
    "Max nice priority": 13,
    "Max realtime priority": 14,
    "Max realtime timeout": 15,
}


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that the engine uses; pids as our namespace sees them.

    ``terminal`` is the device number of the controlling terminal, ``foreground`` that terminal's
    foreground group; 0 for none.

    Source: man 5 proc_pid_stat.
    """

    comm: bytes
    state: str
    ppid: int
    pgrp: int
    session: int
    flags: int
    terminal: int
    foreground: int
    start_time: int
    start_code: int
    end_code: int
    start_stack: int
    exit_signal: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exit_code: int


def stat(pid: int, tid: int | None = None) -> Stat:
    """Read /proc/PID/stat, or a thread's.

    Raises:
        FileNotFoundError, ProcessLookupError: The task has exited.
    """
    where = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    text = read_bytes(where)
    # The name may hold spaces and parentheses: it ends at the last one.
    head, _, tail = text.rpartition(b") ")
    f = tail.split()

    def number(field: int) -> int:  # numbered from 1 as in the manual page
        return int(f[field - 3])

    return Stat(
        comm=head.partition(b" (")[2],
        state=f[0].decode(),
        ppid=number(4),
        pgrp=number(5),
        session=number(6),
        flags=number(9),
        terminal=_device(number(7)),
        foreground=max(number(8), 0),
        start_time=number(22),
        start_code=number(26),
        end_code=number(27),
        start_stack=number(28),
        exit_signal=number(38),
        start_data=number(45),
        end_data=number(46),
        start_brk=number(47),
        arg_start=number(48),
        arg_end=number(49),
        env_start=number(50),
        env_end=number(51),
        exit_code=number(52),
    )


def _device(encoded: int) -> int:
    # new_encode_dev(), include/linux/kdev_t.h; shown as a signed number
    return os.makedev(encoded >> 8 & 0xFFF, encoded & 0xFF | encoded >> 12 & 0xFFF00)


@dataclass(frozen=True, slots=True)
class Status:
    """The lines of /proc/PID/status that the engine uses."""

    fields: dict[str, str]

    def ints(self, key: str) -> tuple[int, ...]:
        """The numbers of a line, decimal."""
        return tuple(int(word) for word in self.fields[key].split())

    def mask(self, key: str) -> int:
        """The value of a hexadecimal line."""
        return int(self.fields[key], 16)

    @property
    def ns_pids(self) -> tuple[int, ...]:
        """Ids from our pid namespace down to the task's own."""
        return self.ints("NSpid")

    @property
    def tracer(self) -> int:
        """Pid of the tracer, or 0."""
        return int(self.fields["TracerPid"])


def status(pid: int, tid: int | None = None) -> Status:
    """Read /proc/PID/status, or a thread's."""
    where = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    text = os.fsdecode(read_bytes(where))
    pairs = (line.partition(":\t") for line in text.splitlines())
    return Status({key: value for key, _, value in pairs})


def limits(pid: int) -> list[tuple[int, int, int]]:
    """Return (resource, soft, hard); prlimit(2) would need CAP_SYS_RESOURCE for other users'."""
    found = []
    for line in read_text(f"/proc/{pid}/limits").splitlines()[1:]:
        number = _LIMITS.get(line[:25].strip())
        if number is None:
            continue
        soft, hard = line[25:].split()[:2]
        found.append((number, _limit(soft), _limit(hard)))
    return found


def _limit(word: str) -> int:
    return RLIM_INFINITY if word == "unlimited" else int(word)


def threads(pid: int) -> list[int]:
    """Thread ids of a process, the leader first."""
    return sorted(
        (int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda t: (t != pid, t)
    )


def children(pid: int, thread: int | None = None) -> list[int]:
    """Child processes, zombies too; reliable while the process is frozen or stopped.

    Args:
        pid: The parent.
        thread: Only those of this thread, which may not have made all of them itself.
    """
    found = []
    for tid in os.listdir(f"/proc/{pid}/task") if thread is None else (thread,):
        text = read_text(f"/proc/{pid}/task/{tid}/children")
        found += [int(word) for word in text.split()]
    return sorted(found)


@dataclass(frozen=True, slots=True)
class TimerInfo:
    """One entry of /proc/PID/timers."""

    timer_id: int
    signal: int
    value: int
    notify: str
    by_thread: bool
    target: int
    clock: int


_TIMER = re.compile(
    r"ID: (\d+)\nsignal: (\d+)/([0-9a-fx]+|\(null\))\n"
    r"notify: (\w+)/(pid|tid)\.(\d+)\nClockID: (-?\d+)"
)


def timers(pid: int) -> list[TimerInfo]:
    """The POSIX timers of a process; target ids as our pid namespace sees them."""
    text = read_text(f"/proc/{pid}/timers")
    return [
        TimerInfo(
            timer_id=int(match[1]),
            signal=int(match[2]),
            value=0 if match[3] == "(null)" else int(match[3], 16),
            notify=match[4],
            by_thread=match[5] == "tid",
            target=int(match[6]),
            clock=int(match[7]),
        )
        for match in _TIMER.finditer(text)
    ]


def clock_offsets(pid: int | str) -> tuple[int, int]:
    """Offsets of the time namespace of the task's children, (monotonic, boottime) in nanoseconds.

    Source: man 7 time_namespaces.
    """
    offsets = {"monotonic": 0, "boottime": 0}
    for line in read_text(f"/proc/{pid}/timens_offsets").splitlines():
        name, seconds, nanoseconds = line.split()
        offsets[name] = int(seconds) * 10**9 + int(nanoseconds)
    return offsets["monotonic"], offsets["boottime"]


def wait_channel(pid: int, tid: int) -> str:
    """The kernel function that a thread waits in; "0" when it runs.

    Source: man 5 proc_pid_wchan.
    """
    return read_text(f"/proc/{pid}/task/{tid}/wchan")
