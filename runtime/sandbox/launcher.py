"""The last step into the container: a sealed program that executes the user's program.

If the init executed the user's program itself, ``/proc/self/exe`` would be the host's Python
interpreter at that moment. A hostile image whose program begins with ``#!/proc/self/exe`` would get
that file executed inside the container, keep a descriptor of it, and overwrite it on the host
later (CVE-2019-5736). So the init first becomes this: some hundred bytes in a sealed memfd, which

1. mark the descriptor of the report channel close-on-exec (it had to survive until here),
2. install the seccomp filter, when that is the last step before the program,
3. execve the program: argv[0] is its path, the rest are its arguments,
4. when that fails, write the error number to the channel, or a sentence to stderr when nobody
   listens there any more, and exit with 1.

Success is the channel's end-of-file.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

from runtime.kernel.executable import elf_of, new_executable
from runtime.sandbox.credentials import seccomp_comes_last
from runtime.sandbox.program import exec_error
from runtime.sandbox.seccomp import SeccompFilter
from runtime.spec.model import Process

_BASE: Final = 0x400000
_EM_X86_64: Final = 62  # <elf.h>
_HEADERS: Final = 64 + 56  # ELF header and one program header
_REPORT_BYTES: Final = 8
_ERROR_BIT: Final = 0x80  # so that no report looks like the channel's text

# include/uapi/linux/fcntl.h
_F_ADD_SEALS: Final = 1033
_ALL_SEALS: Final = 0xF  # no further seals, no shrinking, growing or writing


def make_launcher(report_fd: int, program: str, seccomp: SeccompFilter | None) -> int:
    """Make the launcher.

    Args:
        report_fd: Number of the channel's descriptor in the process that will execute it.
        program: The user's program as it was given, for the sentence on stderr.
        seccomp: Filter to install; no_new_privs must be set by then.

    Returns:
        Descriptor of the sealed program, close-on-exec; -1 where there is none for this
        architecture, and the program has to be executed directly.
    """
    if os.uname().machine != "x86_64":
        return -1
    text = f"wherry: {program:.200}: cannot be executed\n".encode(errors="replace")
    fd = new_executable("wherry-launcher", os.MFD_ALLOW_SEALING)
    os.write(fd, _elf(report_fd, text, seccomp))
    fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd


def launcher_for(process: Process, seccomp: SeccompFilter | None, report_fd: int) -> int:
    """The launcher for a process, with the filter in it when that is the last step."""
    last = seccomp if seccomp_comes_last(process) else None
    return make_launcher(report_fd, process.args[0], last)


def check_report(report: bytes, program: str) -> None:
    """Raise what a launcher reported; nothing when it wrote nothing.

    Args:
        report: What was left in the channel at its end.
        program: The user's program, for the message.

    Raises:
        ContainerError: ``exec-not-found`` or ``exec-permission``.
    """
    if len(report) == _REPORT_BYTES:
        number = report[0] & ~_ERROR_BIT
        raise exec_error(program, OSError(number, os.strerror(number)))


def _elf(report_fd: int, text: bytes, seccomp: SeccompFilter | None) -> bytes:
    length = len(_code(report_fd, seccomp, 0, 0, len(text)))
    text_address = _BASE + _HEADERS + length
    fprog_address = -(-(text_address + len(text)) // 8) * 8
    code = _code(report_fd, seccomp, text_address, fprog_address, len(text))
    body = code + text
    if seccomp is not None:
        body = body.ljust(fprog_address - _BASE - _HEADERS, b"\0")
        # struct sock_fprog, then the instructions themselves
        body += struct.pack("<H6xQ", len(seccomp.program) // 8, fprog_address + 16)
        body += seccomp.program
    return elf_of(body, _EM_X86_64, _BASE)


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _code(
    report_fd: int, seccomp: SeccompFilter | None, text: int, fprog: int, text_length: int
) -> bytes:
    """x86-64 machine code; on entry rsp points at argc, argv…, 0, envp…, 0 (System V ABI)."""
    syscall = bytes.fromhex("0f05")

    def eax(value: int) -> bytes:
        return b"\xb8" + _u32(value)

    def edi(value: int) -> bytes:
        return b"\xbf" + _u32(value)

    def esi(value: int) -> bytes:
        return b"\xbe" + _u32(value)

    def edx(value: int) -> bytes:
        return b"\xba" + _u32(value)

    execute = b"".join(
        (
            bytes.fromhex("488b7c2408"),  # mov rdi, [rsp + 8]             path
            bytes.fromhex("488d742410"),  # lea rsi, [rsp + 16]            argv
            bytes.fromhex("488d54dc10"),  # lea rdx, [rsp + rbx * 8 + 16]  envp
            eax(59),  # execve
            syscall,
        )
    )
    tell = b"".join((edi(2), esi(text), edx(text_length), eax(1), syscall))
    work = b""
    if seccomp is not None:
        # seccomp(SECCOMP_SET_MODE_FILTER, flags, &fprog)
        work += eax(317) + edi(1) + esi(seccomp.flags) + edx(fprog) + syscall
        work += bytes.fromhex("4885c0")  # test rax, rax
        work += b"\x75" + bytes((len(execute),))  # jnz past the execve
    work += execute
    code = bytes.fromhex("488b1c24")  # mov rbx, [rsp]                     argc
    code += eax(72) + edi(report_fd) + esi(2) + edx(1) + syscall  # fcntl(F_SETFD, FD_CLOEXEC)
    # No such descriptor: this is not our execve but that of a script which names /proc/self/exe
    # as its interpreter, and would go round for ever
    code += bytes.fromhex("83f8f7")  # cmp eax, -EBADF
    code += b"\x74" + bytes((len(work),))  # je past the work
    code += work
    code += bytes.fromhex("f7d8")  # neg eax
    code += b"\x0d" + _u32(_ERROR_BIT)  # or eax, 0x80
    code += b"\x50"  # push rax
    code += eax(1) + edi(report_fd)  # write(report_fd, rsp, 8)
    code += bytes.fromhex("4889e6") + edx(_REPORT_BYTES) + syscall
    code += bytes.fromhex("4885c0")  # test rax, rax
    code += b"\x7f" + bytes((len(tell),))  # jg past the sentence
    code += tell
    code += eax(231) + edi(1) + syscall  # exit_group(1)
    return code
