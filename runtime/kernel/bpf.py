"""bpf(2): programs for the devices of a cgroup, and one that looks at a task."""

from __future__ import annotations

import ctypes
import os
import struct

from runtime.kernel.libc import syscall
from runtime.kernel.numbers import NR

# include/uapi/linux/bpf.h
BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_TEST_RUN = 10
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_LINK_CREATE = 28
BPF_ITER_CREATE = 33
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_PROG_TYPE_TRACING = 26
BPF_PROG_TYPE_SYSCALL = 31
BPF_CGROUP_DEVICE = 6
BPF_TRACE_ITER = 28
BPF_MAP_TYPE_ARRAY = 2
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_SLEEPABLE = 1 << 4

BPF_DEVCG_ACC_MKNOD = 1
BPF_DEVCG_ACC_READ = 2
BPF_DEVCG_ACC_WRITE = 4
BPF_DEVCG_DEV_BLOCK = 1
BPF_DEVCG_DEV_CHAR = 2

# include/uapi/linux/bpf_common.h and bpf.h: the few instructions that are used
BPF_LDX_MEM_W = 0x61
BPF_ALU64_MOV_X = 0xBF
BPF_ALU64_MOV_K = 0xB7
BPF_ALU64_AND_K = 0x57
BPF_ALU64_RSH_K = 0x77
BPF_JMP_JNE_K = 0x55
BPF_JMP_JNE_X = 0x5D
BPF_JMP_JEQ_K = 0x15
BPF_EXIT = 0x95
BPF_LDX_MEM_DW = 0x79
BPF_STX_MEM_DW = 0x7B
BPF_JMP_JGT_K = 0x25
BPF_LD_IMM_DW = 0x18
BPF_ST_MEM_W = 0x62
BPF_ALU64_ADD_K = 0x07
BPF_CALL = 0x85
BPF_PSEUDO_MAP_FD = 1  # as the source register: the value is a map's descriptor
BPF_PSEUDO_MAP_VALUE = 2  # likewise, and the value is the address of its first element
BPF_FUNC_MAP_LOOKUP_ELEM = 1
BPF_FUNC_GET_CURRENT_TASK = 35
BPF_FUNC_PROBE_READ_KERNEL = 113

_ATTR_SIZE = 144  # zero-padded; the kernel takes more than it knows as long as the rest is zero
_MAX_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS


def instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    """One ``struct bpf_insn``. *imm* is 32 bits, signed or not."""
    return struct.pack("<BBhI", code, dst | src << 4, offset, imm & 0xFFFFFFFF)


def bpf_call(name: str, command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """Make the system call; *name* is for the message, *attr* from `bpf_attr`."""
    return syscall(f"bpf({name})", NR["bpf"], command, ctypes.addressof(attr), _ATTR_SIZE)


def bpf_attr(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    """A ``union bpf_attr`` whose first fields are laid out as `struct` says."""
    return ctypes.create_string_buffer(struct.pack(layout, *values), _ATTR_SIZE)


def load_program(kind: int, program: bytes, name: str) -> int:
    """Load a program and return its descriptor.

    Args:
        kind: ``BPF_PROG_TYPE_*``.
        program: Instructions from ``instruction``.
        name: Shown by tools, at most 15 characters.

    Raises:
        PermissionError: No CAP_BPF or CAP_SYS_ADMIN.
        OSError: EINVAL or EACCES when the verifier refuses the program.

    Source: man 2 bpf.
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attr = bpf_attr(
        "<IIQQIIQII",
        kind,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0,  # log_level
        0,  # log_size
        0,  # log_buf
        0,  # kern_version
        0,  # prog_flags
    )
    ctypes.memmove(ctypes.addressof(attr) + 48, name.encode()[:15], len(name.encode()[:15]))
    return bpf_call("load program", BPF_PROG_LOAD, attr)


def attach_to_cgroup(cgroup_fd: int, program_fd: int, attach_type: int) -> None:
    """Attach a program to a cgroup, beside those that are there; it lives as long as the cgroup.

    Source: man 2 bpf (Linux 4.15 for several programs).
    """
    attr = bpf_attr("<IIII", cgroup_fd, program_fd, attach_type, BPF_F_ALLOW_MULTI)
    bpf_call("attach", BPF_PROG_ATTACH, attr)


def detach_all(cgroup_fd: int, attach_type: int, *, keep_fd: int = -1) -> None:
    """Detach every program of *attach_type* that is attached to this very cgroup.

    Args:
        cgroup_fd: The cgroup's directory.
        attach_type: ``BPF_CGROUP_*``.
        keep_fd: A program to leave, so that a new one can be attached before the old ones go.
    """
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attr = bpf_attr("<IIIIQI", cgroup_fd, attach_type, 0, 0, ctypes.addressof(ids), len(ids))
    bpf_call("query", BPF_PROG_QUERY, attr)
    (count,) = struct.unpack_from("<I", attr.raw, 24)
    kept = -1 if keep_fd < 0 else _program_id(keep_fd)
    for program_id in ids[:count]:
        if program_id == kept:
            continue
        fd = bpf_call("program by id", BPF_PROG_GET_FD_BY_ID, bpf_attr("<I", program_id))
        try:
            bpf_call("detach", BPF_PROG_DETACH, bpf_attr("<III", cgroup_fd, fd, attach_type))
        finally:
            os.close(fd)


def _program_id(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("prog_id:"):
                return int(line.split()[1])
    raise ValueError(f"fd {fd} is no BPF program")


# Looking at tasks


def create_array(value_size: int) -> int:
    """Make an array map of one element of *value_size* bytes; returns its descriptor."""
    return bpf_call(
        "create map", BPF_MAP_CREATE, bpf_attr("<IIII", BPF_MAP_TYPE_ARRAY, 4, value_size, 1)
    )


def first_of_array(map_fd: int, value_size: int) -> bytes:
    """The value of the first element of an array map."""
    key, value = ctypes.c_uint32(0), ctypes.create_string_buffer(value_size)
    attr = bpf_attr("<IxxxxQQ", map_fd, ctypes.addressof(key), ctypes.addressof(value))
    bpf_call("look up", BPF_MAP_LOOKUP_ELEM, attr)
    return value.raw


def set_first_of_array(map_fd: int, value: bytes) -> None:
    """Set the first element of an array map."""
    key, buffer = ctypes.c_uint32(0), ctypes.create_string_buffer(value, len(value))
    attr = bpf_attr("<IxxxxQQ", map_fd, ctypes.addressof(key), ctypes.addressof(buffer))
    bpf_call("update", BPF_MAP_UPDATE_ELEM, attr)


def load_task_iterator(program: bytes, function_id: int, name: str) -> int:
    """Load a program that an iterator runs for tasks; returns its descriptor.

    Args:
        program: Instructions. The verifier lets only a program that may be used under the GPL look
            into the kernel's structures; those that are loaded here are offered under both.
        function_id: Of the kernel's ``bpf_iter_task`` in its BTF.
        name: Shown by tools, at most 15 characters.

    Raises:
        PermissionError: No CAP_BPF and CAP_PERFMON.
        OSError: EINVAL from a kernel without task iterators.

    Source: Documentation/bpf/bpf_iterators.rst (Linux 5.8).
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Dual MIT/GPL")
    attr = bpf_attr(
        "<IIQQ24x16sIIIIQIIQII",
        BPF_PROG_TYPE_TRACING,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        name.encode()[:15],
        0,  # prog_ifindex
        BPF_TRACE_ITER,
        0,  # prog_btf_fd and what describes the program's own types
        0,
        0,
        0,
        0,
        0,
        0,
        function_id,
    )
    return bpf_call("load iterator", BPF_PROG_LOAD, attr)


def run_task_iterator(program_fd: int, tid: int) -> None:
    """Run an iterator's program for one task, ids as our pid namespace sees them.

    Raises:
        OSError: EINVAL before Linux 6.1, which cannot choose a task.
    """
    info = ctypes.create_string_buffer(struct.pack("<IIQ", tid, 0, 0), 16)
    attr = bpf_attr("<IIIIQI", program_fd, 0, BPF_TRACE_ITER, 0, ctypes.addressof(info), len(info))
    link = bpf_call("link iterator", BPF_LINK_CREATE, attr)
    try:
        iterator = bpf_call("create iterator", BPF_ITER_CREATE, bpf_attr("<II", link, 0))
        try:
            os.read(iterator, 64)  # it prints nothing
        finally:
            os.close(iterator)
    finally:
        os.close(link)


def load_syscall_program(program: bytes, name: str) -> int:
    """Load a program that `run_syscall_program` runs; returns its descriptor.

    Args:
        program: Instructions; offered under the GPL too, as the helpers that read memory demand.
        name: Shown by tools, at most 15 characters.

    Raises:
        PermissionError: No CAP_BPF and CAP_PERFMON, or the verifier refuses the program.
        OSError: EINVAL before Linux 5.14.
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Dual MIT/GPL")
    attr = bpf_attr(
        "<IIQQ20xI16s",
        BPF_PROG_TYPE_SYSCALL,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        BPF_F_SLEEPABLE,
        name.encode()[:15],
    )
    return bpf_call("load program", BPF_PROG_LOAD, attr)


def run_syscall_program(program_fd: int) -> int:
    """Run a program in our own context; returns what it returns, as 32 bits."""
    attr = bpf_attr("<II", program_fd, 0)
    bpf_call("run program", BPF_PROG_TEST_RUN, attr)
    return int.from_bytes(attr.raw[4:8], "little")
