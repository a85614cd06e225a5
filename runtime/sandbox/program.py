"""Find and execute the user's program inside the container."""

from __future__ import annotations

import errno
import os
import posixpath
import signal
import stat
from typing import NoReturn

from runtime.errors import ContainerError
from runtime.kernel.openat2 import RESOLVE_NO_MAGICLINKS, openat2
from runtime.sandbox.paths import read_inside
from runtime.spec.model import Process

NOT_FOUND = "exec-not-found"  # the command line exits with 127
NOT_EXECUTABLE = "exec-permission"  # … and with 126

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT = 1 << 20
_AT_FDCWD = -100


def environment_of(process: Process, root_fd: int) -> dict[str, str]:
    """The environment; HOME is added from the container's /etc/passwd when it is missing."""
    env = dict(entry.split("=", 1) for entry in process.env)
    env.setdefault("HOME", _home_of(process.user.uid, root_fd))
    return env


def _home_of(uid: int, root_fd: int) -> str:
    for line in read_inside(root_fd, "/etc/passwd", _PASSWD_LIMIT).split(b"\n"):
        fields = line.split(b":")
        if len(fields) == 7 and fields[2] == str(uid).encode() and fields[5].startswith(b"/"):
            return os.fsdecode(fields[5])
    return "/"


def find_program(process: Process, env: dict[str, str]) -> str:
    """The path of ``process.args[0]``, searched in PATH as execvp does.

    Our root and working directory must be the container's.

    Raises:
        ContainerError: ``exec-not-found`` or ``exec-permission``, with the name as it was given
            and where it was looked for.
    """
    name = process.args[0]
    if "/" in name:
        _check_program(name, name)
        return name
    denied: ContainerError | None = None
    path = env.get("PATH", _DEFAULT_PATH)
    for directory in path.split(":"):
        candidate = posixpath.join(directory or ".", name)
        try:
            _check_program(name, candidate)
        except ContainerError as exc:
            if exc.reason == NOT_EXECUTABLE:
                denied = denied or exc
            continue
        return candidate
    if denied is not None:
        raise denied
    raise ContainerError(f"{name}: no such program in PATH={path}", reason=NOT_FOUND)


def _check_program(name: str, path: str) -> None:
    label = path if path == name else f"{name} ({path})"
    try:
        # A link of /proc that jumps, such as /proc/self/exe, would execute (and lend to the
        # container) a file of the host
        fd = openat2(_AT_FDCWD, path, os.O_PATH, resolve=RESOLVE_NO_MAGICLINKS)
    except OSError as exc:
        raise exec_error(label, exc) from exc
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if stat.S_ISDIR(mode):
        raise ContainerError(f"{label}: is a directory, no program", reason=NOT_EXECUTABLE)
    if not mode & 0o111:
        raise ContainerError(
            f"{label}: is not executable (mode {stat.S_IMODE(mode):04o})", reason=NOT_EXECUTABLE
        )


def exec_error(label: str, exc: OSError) -> ContainerError:
    """What to say when a program cannot be executed."""
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        why = "no such file in the container, or the interpreter it needs is missing"
        return ContainerError(f"{label}: {why}", reason=NOT_FOUND)
    if exc.errno == errno.ENOEXEC:
        why = "is neither a program of this architecture nor a script with a #! line"
        return ContainerError(f"{label}: {why}", reason=NOT_EXECUTABLE)
    why = os.strerror(exc.errno or 0).lower()
    return ContainerError(f"{label}: cannot be executed: {why}", reason=NOT_EXECUTABLE)


def reset_signals() -> None:
    """Give every signal its default action and block none, as a program expects to start."""
    # Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so over execve
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def execute(path: str, process: Process, env: dict[str, str], launcher: int) -> NoReturn:
    """Become the program, by way of *launcher* unless that is -1.

    Raises:
        ContainerError: The kernel refused.
    """
    try:
        if launcher >= 0:
            os.execve(launcher, [path, *process.args], env)
        os.execve(path, process.args, env)
    except OSError as exc:
        raise exec_error(path, exc) from exc
