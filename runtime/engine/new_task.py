"""Tasks under construction: stubs that are driven by batches until they are what was saved."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence

from formats.records.task import Credentials
from runtime.engine.arch import current as arch
from runtime.engine.remote import (
    ALL_BUT_TRAP,
    DATA_OFFSET,
    SCRATCH_SIZE,
    Answers,
    Batch,
    Out,
    Tracee,
    map_scratch,
)
from runtime.errors import RestoreError
from runtime.kernel import proc_maps, ptrace
from runtime.kernel.clone import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
)
from runtime.kernel.numbers import NR

OPTIONS = (
    ptrace.PTRACE_O_TRACESYSGOOD
    | ptrace.PTRACE_O_TRACEFORK
    | ptrace.PTRACE_O_TRACEVFORK
    | ptrace.PTRACE_O_TRACECLONE
    | ptrace.PTRACE_O_TRACEEXEC
    | ptrace.PTRACE_O_EXITKILL
    | ptrace.PTRACE_O_SUSPEND_SECCOMP
)
THREAD_FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM

CHANNEL_FD = 1000  # where the sandbox leaves our socket in the init
CONSOLE_FD = 1001  # and the slave of the container's terminal, if it has one
FDS_PER_MESSAGE = 253  # SCM_MAX_FD, include/net/scm.h
RLIMIT_NOFILE = 7  # include/uapi/asm-generic/resource.h
PARK_SIZE = 64 << 10  # for the vDSO while the address space is rebuilt

MREMAP_MOVE_FIXED = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_CLONE_ARGS = struct.Struct("<11Q")  # struct clone_args, include/uapi/linux/sched.h
_MSGHDR = struct.Struct("<QIxxxxQQQQIxxxx")  # struct msghdr on 64-bit
_IOVEC = struct.Struct("<QQ")


class NewTask(Tracee):
    """A task of the container that is being rebuilt.

    Attributes:
        ns_pid: Its id inside the container.
        ids: That and its ids in the pid namespaces below the container's.
        within: Id of the namespace of each kind that it is in, and of "pid_for_children" and
            "time_for_children".
        identity: The credentials whose ids it has taken before it could no more; None for none.
        memory: The address space of the image that it has by now, or was born with; 0 for none.
        max_files: Its hard limit of open files, which its soft limit is raised to.
    """

    def __init__(self, tid: int, pid: int, ns_pid: int, *, scratch: int = 0) -> None:
        super().__init__(tid, pid, scratch=scratch)
        self.ns_pid = ns_pid
        self.ids: tuple[int, ...] = (ns_pid,)
        self.within: dict[str, int] = {}
        self.identity: Credentials | None = None
        self.memory = 0
        self.base: arch.Registers | None = None
        self.channel_fd = CHANNEL_FD
        self.max_files = 0

    def do(self, batch: Batch) -> Answers:
        """Run a batch; nothing of the stub's registers is worth keeping."""
        return self.run(batch, base=self.base)

    def start(self, batch: Batch) -> None:
        """Let the task begin a batch from which it does not come back."""
        self._start(batch, self.base)

    def call(self, name: str, *args: int | bytes | Out) -> int:
        """Run one system call."""
        batch = Batch()
        result = batch.call(name, *args)
        return self.do(batch)[result]

    def address(self, room: Out) -> int:
        """Where *room* of a batch will be in this task."""
        return self.scratch + DATA_OFFSET + room.offset

    def interrupted_call(self, name: str, args: tuple[int, ...]) -> int:
        """Begin a call that is interrupted at once; returns its result.

        The kernel remembers what is left of a sleep for restart_syscall(2), and the result is
        ``-ERESTART_RESTARTBLOCK`` then. Afterwards the task is stopped as after `settle`.
        """
        instruction = self.syscall_instruction
        self.set_registers(self.registers().for_syscall(instruction, NR[name], args))
        for leaving in (False, True):
            if leaving:
                ptrace.interrupt(self.tid)
            ptrace.resume_to_syscall(self.tid)
            while not self.wait().syscall:
                ptrace.resume_to_syscall(self.tid)
        result = self.registers().result
        self.settle()
        return result

    # Birth

    def clone(
        self, flags: int, exit_signal: int, ids: tuple[int, ...], *, choose: bool = True
    ) -> NewTask:
        """Make a child (or, with `THREAD_FLAGS`, a thread, or, with CLONE_PARENT, a sibling).

        Args:
            flags: ``CLONE_*``.
            exit_signal: Sent to its parent; 0 with CLONE_PARENT and for threads.
            ids: In the container's pid namespace and those below it that it will be in.
            choose: Ask the kernel for these ids; else it gives what comes next.

        Raises:
            RestoreError: An id is taken.
        """
        batch = Batch()
        set_tid = batch.data(struct.pack(f"<{len(ids)}i", *reversed(ids)))
        wanted = (self.address(set_tid), len(ids)) if choose else (0, 0)
        args = _CLONE_ARGS.pack(flags, 0, 0, 0, exit_signal, 0, 0, 0, *wanted, 0)
        result = batch.call("clone3", args, _CLONE_ARGS.size, may_fail=True)
        self.born.clear()
        answer = self.do(batch)[result]
        if answer != ids[len(self.ids) - 1]:
            reason = os.strerror(-answer) if answer < 0 else f"got {answer}"
            code = (
                "restore-failed" if -4095 < answer < 0 and answer != -errno.EEXIST else "pid-taken"
            )
            raise RestoreError(f"cannot make task {ids[0]}: {reason}", reason=code)
        (tid,) = self.born
        process = self.pid if flags & CLONE_THREAD else tid
        child = NewTask(tid, process, ids[0], scratch=self.scratch)
        child.ids = ids
        child.base = self.base
        child.memory = self.memory
        child.identity = self.identity
        child.channel_fd = self.channel_fd
        child.max_files = self.max_files
        ptrace.set_sigmask(tid, ALL_BUT_TRAP)
        return child

    def reap(self, child: NewTask) -> None:
        """Take the corpse of a child away."""
        self.call("wait4", child.ids[len(self.ids) - 1], 0, ptrace.WALL, 0)

    # Descriptors

    def receive(self, channel: socket.socket, fds: Sequence[int]) -> list[int]:
        """Give the task descriptors of ours; returns their numbers there.

        Args:
            channel: The other end of the task's `CHANNEL_FD`.
            fds: At most `FDS_PER_MESSAGE`, our numbers; repeats are fine.
        """
        channel.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        batch = Batch()
        byte = batch.out(1)
        control = batch.out(socket.CMSG_SPACE(4 * len(fds)))
        vector = batch.data(_IOVEC.pack(self.address(byte), 1))
        header = _MSGHDR.pack(0, 0, self.address(vector), 1, self.address(control), control.size, 0)
        batch.call("recvmsg", self.channel_fd, header, 0)
        raw = self.do(batch).read(control)
        length = int.from_bytes(raw[:8], "little")
        count = (length - 16) // 4
        if count != len(fds):
            raise RestoreError(
                f"task {self.ns_pid} took {max(count, 0)} of {len(fds)} descriptors: "
                "its limit of open files is too low",
                reason="rlimit-nofile",
            )
        return list(struct.unpack_from(f"<{count}i", raw, 16))

    def raise_file_limit(self) -> None:
        """Let the task, and all that it makes, have as many descriptors as it may."""
        batch = Batch()
        limit = batch.out(16)
        batch.call("prlimit64", 0, RLIMIT_NOFILE, 0, limit)
        self.max_files = struct.unpack("<QQ", self.do(batch).read(limit))[1]
        both = struct.pack("<QQ", self.max_files, self.max_files)
        self.call("prlimit64", 0, RLIMIT_NOFILE, both, 0)

    # Address space

    def empty_address_space(self, hole: int) -> None:
        """Leave nothing mapped but the scratch area at *hole* and the parked vDSO behind it."""
        kernel_maps = [m for m in proc_maps.mappings(self.pid) if m.path in _KERNEL_MAPS]
        batch = Batch()
        to = hole + SCRATCH_SIZE
        for mapping in sorted(kernel_maps, key=lambda m: m.start):
            size = mapping.end - mapping.start
            batch.call("mremap", mapping.start, size, size, MREMAP_MOVE_FIXED, to)
            to += size
        self.do(batch)
        self.clear(hole)

    def clear(self, hole: int) -> None:
        """Unmap everything but the scratch area at *hole* and what is parked behind it."""
        end = hole + SCRATCH_SIZE + PARK_SIZE
        batch = Batch()
        batch.call("munmap", 0, hole)
        batch.call("munmap", end, arch.TASK_SIZE - end)
        self.do(batch)


_KERNEL_MAPS = frozenset({"[vdso]", "[vvar]", "[vvar_vclock]"})


def adopt(pid: int, go: Callable[[], None], hole: int, ns_pid: int) -> NewTask:
    """Take over a process of a fresh sandbox, its init first, at the moment it becomes a stub.

    Args:
        pid: A process blocked before its exec.
        go: Called to let it execute the stub.
        hole: Address for the scratch area, free in every address space of the image.
        ns_pid: Its pid inside.
    """
    ptrace.seize(pid, OPTIONS)
    go()
    task = NewTask(pid, pid, ns_pid)
    while True:
        stop = task.wait()
        if stop.event == ptrace.PTRACE_EVENT_EXEC:
            break
        # What it does before the exec is the sandbox's business.
        ptrace.resume(pid, stop.signal if not stop.event else 0)
    task.settle()
    ptrace.set_sigmask(pid, ALL_BUT_TRAP)
    task.base = task.registers()._replace(rsp=0, rbp=0)
    map_scratch(task, arch.STUB_SYSCALL, hole)
    task.set_registers(task.base)
    task.settle()
    task.empty_address_space(hole)
    task.raise_file_limit()
    return task
