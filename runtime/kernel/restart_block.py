"""When a sleep that was interrupted is to end: the ``restart_block`` of a task, through BPF.

A relative sleep that was interrupted goes on as restart_syscall(2). When it is over the kernel
keeps in the task's ``restart_block``, which no file and no call shows. A BPF iterator over tasks
may read it: a program of a dozen instructions copies it into a map.

Source: include/linux/restart_block.h, Documentation/bpf/bpf_iterators.rst (Linux 5.8; one task
only 6.1).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import struct
from dataclasses import dataclass

from runtime.kernel import bpf
from runtime.kernel.btf import KernelTypes

log = logging.getLogger(__name__)

_SIZE = 56  # struct restart_block: architecture's word, function, union of five words
# Of the union, by member: futex, nanosleep, poll
_FUTEX = struct.Struct("<16xQIIIxxxxQ")
_NANOSLEEP = struct.Struct("<16xiIQQ")
_POLL = struct.Struct("<16xQiIqq")


@dataclass(frozen=True, slots=True)
class RestartBlock:
    """The kernel's memory of an interrupted call; which of its readings is right, the call tells.

    Attributes:
        data: The structure.
    """

    data: bytes

    @property
    def futex(self) -> tuple[int, int, int]:
        """(address, expected value, end) of FUTEX_WAIT; the end on the clock of the wait, in ns."""
        address, value, _, _, end = _FUTEX.unpack_from(self.data)
        return address, value, end

    @property
    def nanosleep(self) -> tuple[int, int]:
        """(clock, end in ns) of a sleep, relative ones of CLOCK_REALTIME on CLOCK_MONOTONIC."""
        clock, _, _, end = _NANOSLEEP.unpack_from(self.data)
        return clock, end

    @property
    def poll(self) -> tuple[int, int, int | None]:
        """(address, descriptors, end) of poll(2); the end on CLOCK_MONOTONIC in ns, or None."""
        address, count, limited, end_s, end_ns = _POLL.unpack_from(self.data)
        return address, count, end_s * 10**9 + end_ns if limited else None


class RestartBlocks:
    """Reads restart blocks.

    Raises:
        OSError: No BPF iterators, or no privilege for them.
        KeyError, ValueError: No type information that we understand.
    """

    def __init__(self) -> None:
        types = KernelTypes()
        self._map = bpf.create_array(_SIZE)
        try:
            self._program = bpf.load_task_iterator(
                _program(self._map, types.member_offset("task_struct", "restart_block")),
                types.function_id("bpf_iter_task"),
                "wherry_restart",
            )
        except BaseException:
            os.close(self._map)
            raise

    def read(self, tid: int) -> RestartBlock:
        """The restart block of a task of our pid namespace.

        Raises:
            ProcessLookupError: There is no such task.
        """
        bpf.set_first_of_array(self._map, bytes(_SIZE))
        bpf.run_task_iterator(self._program, tid)
        data = bpf.first_of_array(self._map, _SIZE)
        if not any(data):
            raise ProcessLookupError(errno.ESRCH, f"no iterator came to task {tid}")
        return RestartBlock(data)


@functools.cache
def restart_blocks() -> RestartBlocks | None:
    """The reader, loaded at the first call, or None where there can be none."""
    try:
        return RestartBlocks()
    except (OSError, KeyError, ValueError) as exc:
        log.info("the ends of interrupted sleeps cannot be read: %s", exc)
        return None


def _program(map_fd: int, offset: int) -> bytes:
    """Copy the restart block of the task that the iterator has come to into the map."""
    i = bpf.instruction
    return b"".join(
        (
            i(bpf.BPF_LDX_MEM_DW, 6, 1, 8),  # r6 = context->task, behind context->meta
            i(bpf.BPF_JMP_JEQ_K, 6, 0, 12, 0),  # the end of the tasks
            i(bpf.BPF_ST_MEM_W, 10, 0, -4, 0),  # key 0 on the stack
            i(bpf.BPF_LD_IMM_DW, 1, bpf.BPF_PSEUDO_MAP_FD, 0, map_fd),
            i(0),
            i(bpf.BPF_ALU64_MOV_X, 2, 10),
            i(bpf.BPF_ALU64_ADD_K, 2, 0, 0, -4),
            i(bpf.BPF_CALL, 0, 0, 0, bpf.BPF_FUNC_MAP_LOOKUP_ELEM),
            i(bpf.BPF_JMP_JEQ_K, 0, 0, 5, 0),
            i(bpf.BPF_ALU64_MOV_X, 1, 0),  # to the map's value
            i(bpf.BPF_ALU64_MOV_K, 2, 0, 0, _SIZE),
            i(bpf.BPF_ALU64_MOV_X, 3, 6),
            i(bpf.BPF_ALU64_ADD_K, 3, 0, 0, offset),
            i(bpf.BPF_CALL, 0, 0, 0, bpf.BPF_FUNC_PROBE_READ_KERNEL),
            i(bpf.BPF_ALU64_MOV_K, 0, 0, 0, 0),
            i(bpf.BPF_EXIT),
        )
    )
