"""Start a further process in a container that exists (``exec``)."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

from runtime.errors import ContainerError, RestoreError, WrongStatusError
from runtime.kernel import prctl
from runtime.kernel.capabilities import last_capability
from runtime.kernel.clone import CLONE_NEWPID, CLONE_NEWUSER, clone3
from runtime.kernel.keyring import new_session_keyring
from runtime.kernel.namespaces import NAMESPACE_FLAGS, setns
from runtime.sandbox import terminal
from runtime.sandbox.cgroups import Cgroups
from runtime.sandbox.cgroups.ahead import moving_soon
from runtime.sandbox.channel import Channel, channel_pair
from runtime.sandbox.credentials import set_oom_score
from runtime.sandbox.descriptors import (
    FIRST_FREE,
    Stdio,
    close_all_except,
    inherit_only,
    own_stdio,
    place_stdio,
)
from runtime.sandbox.init import become_process, report
from runtime.sandbox.launcher import check_report, launcher_for
from runtime.sandbox.program import reset_signals
from runtime.sandbox.restore_stub import CHANNEL_FD, RestoreStub
from runtime.sandbox.seccomp import SeccompFilter
from runtime.sandbox.steps import step
from runtime.sandbox.userns import become_root
from runtime.spec.load import parse_process_json
from runtime.spec.model import Process, Spec
from runtime.spec.reader import invalid
from runtime.spec.rules import check_process_host


class _Entry(NamedTuple):
    """What the new process needs."""

    spec: Spec
    process: Process
    pidfd: int
    kinds: int
    root: int
    channel: Channel
    stdio: Stdio
    console: int | None
    seccomp: SeccompFilter | None
    preserve_fds: int
    last_cap: int
    launcher: int

    def fds(self) -> set[int]:
        fds = {self.pidfd, self.root, self.channel.read_fd, self.channel.write_fd, *self.stdio}
        fds.update(range(FIRST_FREE, FIRST_FREE + self.preserve_fds))
        if self.launcher >= 0:
            fds.add(self.launcher)
        if self.console is not None:
            fds.add(self.console)
        return fds


def exec_process(
    target_init_pid: int,
    process: dict[str, Any],
    *,
    spec: Spec,
    cgroups: Cgroups | None,
    stdio: Stdio,
    console: int | None = None,
    preserve_fds: int = 0,
) -> int:
    """Run *process* in the namespaces and cgroups of a container.

    We must be single-threaded, and become the process's parent.

    Args:
        target_init_pid: The container's init, in our pid namespace.
        process: An OCI process object. Capabilities and limits that it does not mention are those
            of the container's own process, as with runc.
        spec: The container's configuration.
        cgroups: The container's cgroups.
        stdio: Our descriptors that become 0, 1 and 2, unless the process gets a terminal.
        console: Connected UNIX socket for the terminal's master, for ``terminal``.
        preserve_fds: How many descriptors from 3 on the program inherits.

    Returns:
        The process's pid in our pid namespace; it has become its program by then.

    Raises:
        ContainerError: A step failed and the process is gone. ``exec-not-found`` when there is no
            such program, ``exec-permission`` when it cannot be executed.
        WrongStatusError: The container is frozen, or has ended.
    """
    parsed = _complete(parse_process_json(process), spec)
    if parsed.terminal and console is None:
        raise invalid("process.terminal", "needs a console socket (--console-socket)")
    check_process_host(parsed, in_user_namespace=spec.linux.namespace("user") is not None)
    if cgroups is not None and cgroups.frozen:
        raise WrongStatusError("cannot exec in a paused container; resume it first")
    with moving_soon() if cgroups is not None else nullcontext():
        return _bring_in(target_init_pid, parsed, spec, cgroups, stdio, console, preserve_fds)


def _bring_in(
    target_init_pid: int,
    parsed: Process,
    spec: Spec,
    cgroups: Cgroups | None,
    stdio: Stdio,
    console: int | None,
    preserve_fds: int,
) -> int:
    seccomp = None
    if spec.linux.seccomp is not None:
        from runtime.sandbox.seccomp import compile_profile

        seccomp = compile_profile(spec.linux.seccomp)
    try:
        pidfd = os.pidfd_open(target_init_pid)
    except ProcessLookupError:
        raise WrongStatusError("cannot exec: the container has ended") from None
    root = -1
    try:
        with step("open the container's root"):
            root = os.open(f"/proc/{target_init_pid}/root", os.O_PATH | os.O_CLOEXEC)
        near, far = channel_pair()
        entry = _Entry(
            spec=spec,
            process=parsed,
            pidfd=pidfd,
            kinds=_foreign_kinds(target_init_pid),
            root=root,
            channel=far,
            stdio=stdio,
            console=console,
            seccomp=seccomp,
            preserve_fds=preserve_fds,
            last_cap=last_capability(),
            launcher=launcher_for(parsed, seccomp, far.write_fd),
        )
        try:
            return _spawn(entry, near, cgroups)
        finally:
            near.close()
            far.close()
            if entry.launcher >= 0:
                os.close(entry.launcher)
    finally:
        os.close(pidfd)
        if root >= 0:
            os.close(root)


def _complete(process: Process, spec: Spec) -> Process:
    own = spec.process
    return replace(
        process,
        capabilities=process.capabilities or own.capabilities,
        rlimits=process.rlimits or own.rlimits,
        oom_score_adj=(
            own.oom_score_adj if process.oom_score_adj is None else process.oom_score_adj
        ),
    )


def _foreign_kinds(pid: int) -> int:
    """The kinds of namespaces in which the container differs from us."""
    kinds = 0
    for name, flag in NAMESPACE_FLAGS.items():
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            continue  # this kernel has no such namespaces, or the init is a zombie
        if theirs != os.readlink(f"/proc/self/ns/{name}"):
            kinds |= flag
    return kinds


def _spawn(entry: _Entry, near: Channel, cgroups: Cgroups | None) -> int:
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if entry.kinds & CLONE_NEWPID:
            with step("join the container's pid namespace", reason="namespace"):
                setns(entry.pidfd, CLONE_NEWPID)
        try:
            with step("make a process", reason="clone"):
                pid, pidfd = clone3(0)
                if pid == 0:
                    near.close()
                    _enter(entry)
        finally:
            if entry.kinds & CLONE_NEWPID:
                setns(ours, CLONE_NEWPID)
    finally:
        os.close(ours)
    entry.channel.close()
    try:
        set_oom_score(pid, entry.process.oom_score_adj)
        if cgroups is not None:
            cgroups.add(pid)
        with suppress(BrokenPipeError):
            near.tell("placed")
        # End of file is success: the channel closed at the execve
        near.receive()
        check_report(near.rest(), entry.process.args[0])
    except BaseException:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(pidfd)
    return pid


def _enter(entry: _Entry) -> NoReturn:
    """Be the new process."""
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        close_all_except(entry.fds())
        # The container's processes must neither trace us nor look into our descriptors
        prctl.set_dumpable(False)
        entry.channel.expect("placed")
        _join(entry)
        become_process(
            entry.process,
            entry.root,
            seccomp=entry.seccomp,
            personality=entry.spec.linux.personality,
            last_cap=entry.last_cap,
            preserve_fds=entry.preserve_fds,
            launcher=entry.launcher,
            report_fd=entry.channel.write_fd,
        )
    except BaseException as exc:
        report(entry.channel, exc)
    finally:
        os._exit(1)


def _join(entry: _Entry) -> None:
    kinds = entry.kinds & ~CLONE_NEWPID
    _join_namespaces(entry.pidfd, kinds, entry.root)
    os.setsid()
    place_stdio(entry.stdio)
    if entry.process.terminal:
        master, slave, name = terminal.open_terminal(entry.root, entry.process)
        if entry.console is None:
            raise ContainerError("no console socket", reason="terminal")
        terminal.send_master(entry.console, master, name)
        os.close(master)
        os.close(entry.console)
        terminal.take_terminal(slave)
    elif entry.process.user.uid != 0 or kinds & CLONE_NEWUSER:
        own_stdio(entry.process.user.uid)


def _join_namespaces(pidfd: int, kinds: int, root: int) -> None:
    if kinds:
        with step("join the container's namespaces", reason="namespace"):
            setns(pidfd, kinds)
    with step("enter the container's root"):
        os.fchdir(root)
        os.chroot(".")
        os.chdir("/")
    if kinds & CLONE_NEWUSER:
        become_root()
    with step("make a session keyring"):
        new_session_keyring()


# A restored container's sessions


class StubProcess:
    """A child of ours in a container that waits to become the engine's stub.

    Attributes:
        pid: In our own pid namespace.
    """

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self._channel = channel

    def go(self) -> None:
        """Let it execute the stub; does not wait for it."""
        with step(f"release the process {self.pid}", reason="init-vanished"):
            self._channel.tell("go")
        self._channel.close()


def enter_as_stub(
    target_init_pid: int, ns_pid: int, *, cgroups: Cgroups, stub: RestoreStub
) -> StubProcess:
    """Make a process in a container that is being restored, for what exec had brought there.

    Args:
        target_init_pid: The container's init, in our pid namespace.
        ns_pid: The id that the process has inside.
        cgroups: The container's cgroups.
        stub: What it becomes, once ``go()`` is called.

    Raises:
        ContainerError: A step failed.
        RestoreError: The id is taken.
    """
    near, far = channel_pair()
    pidfd = os.pidfd_open(target_init_pid)
    root = os.open(f"/proc/{target_init_pid}/root", os.O_PATH | os.O_CLOEXEC)
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    kinds = _foreign_kinds(target_init_pid)
    try:
        if kinds & CLONE_NEWPID:
            with step("join the container's pid namespace", reason="namespace"):
                setns(pidfd, CLONE_NEWPID)
        try:
            pid, own_pidfd = _clone_under(ns_pid)
            if pid == 0:
                near.close()
                _become_stub(pidfd, kinds & ~CLONE_NEWPID, root, far, stub)
        finally:
            if kinds & CLONE_NEWPID:
                setns(ours, CLONE_NEWPID)
    finally:
        for fd in (pidfd, root, ours):
            os.close(fd)
        far.close()
    os.close(own_pidfd)
    cgroups.add(pid)
    near.tell("placed")
    return StubProcess(pid, near)


def _clone_under(ns_pid: int) -> tuple[int, int]:
    try:
        return clone3(0, set_tid=[ns_pid])
    except FileExistsError:
        raise RestoreError(
            f"cannot make task {ns_pid}: the id is taken", reason="pid-taken"
        ) from None


def _become_stub(
    pidfd: int, kinds: int, root: int, channel: Channel, stub: RestoreStub
) -> NoReturn:
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        kept = {pidfd, root, stub.elf_fd, stub.channel_fd, channel.read_fd, channel.write_fd}
        close_all_except(kept)
        prctl.set_dumpable(False)
        channel.expect("placed")
        _join_namespaces(pidfd, kinds, root)
        channel.expect("go")
        reset_signals()
        os.dup2(stub.channel_fd, CHANNEL_FD)
        inherit_only(0, CHANNEL_FD)
        os.execve(stub.elf_fd, ["wherry-restore"], {})
    finally:
        os._exit(1)
