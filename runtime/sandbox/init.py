"""The init of a container, from clone3 to execve. All of this runs in the new process.

It is a copy of the interpreter and must import nothing once its root has changed, so everything it
needs is imported here at the top. Failures travel to the parent over the channel, as they are.

Steps, in the order that the OCI runtime specification asks for: namespaces, mounts, (parent:
prestart and createRuntime hooks), createContainer hooks, read-only and masked paths, pivot_root,
*created*; then, released through the start FIFO, startContainer hooks, credentials, execve.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from formats.errors import WherryError
from runtime.kernel import prctl
from runtime.kernel.clone import CLONE_NEWCGROUP
from runtime.kernel.keyring import new_session_keyring
from runtime.kernel.mount import (
    AT_FDCWD,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_REC,
    MS_SLAVE,
    mount,
    mount_setattr,
    move_mount,
    pivot_root,
    umount2,
)
from runtime.kernel.namespaces import (
    NAMESPACE_FLAGS,
    setdomainname,
    sethostname,
    setns,
    unshare,
)
from runtime.sandbox import terminal
from runtime.sandbox.cgroups.hierarchy import Hierarchy
from runtime.sandbox.channel import Channel
from runtime.sandbox.credentials import (
    apply_process,
    enter_directory,
    install_seccomp,
    seccomp_comes_last,
    try_enter,
)
from runtime.sandbox.descriptors import (
    FIRST_FREE,
    Stdio,
    close_all_except,
    inherit_only,
    own_stdio,
    place_stdio,
)
from runtime.sandbox.devices import devices_of, make_devices, make_links, wants_devices
from runtime.sandbox.mounts import Mounter, make_readonly, mask_paths
from runtime.sandbox.network import bring_loopback_up
from runtime.sandbox.paths import make_directories
from runtime.sandbox.prepare import Prepared
from runtime.sandbox.program import (
    environment_of,
    execute,
    find_program,
    reset_signals,
)
from runtime.sandbox.restore_stub import CHANNEL_FD, CONSOLE_FD, RestoreStub
from runtime.sandbox.seccomp import SeccompFilter
from runtime.sandbox.steps import step
from runtime.sandbox.sysctl import write_sysctls
from runtime.sandbox.userns import become_root
from runtime.spec.model import Process, Spec

HookRunner = Callable[[str, dict[str, Any]], None]
"""Runs all hooks of a name with an OCI state."""


class InitPlan(NamedTuple):
    """Everything the init needs, decided before it exists."""

    spec: Spec
    cid: str
    prepared: Prepared
    channel: Channel
    stdio: Stdio
    console: int | None
    hierarchies: list[Hierarchy]
    run_hooks: HookRunner
    restore: RestoreStub | None
    preserve_fds: int
    last_cap: int
    launcher: int
    new_keyring: bool = True

    def fds(self) -> set[int]:
        """Descriptors that the init must keep for its work."""
        fds = {*self.stdio, *self.prepared.fds(), self.channel.read_fd, self.channel.write_fd}
        fds.update(range(FIRST_FREE, FIRST_FREE + self.preserve_fds))
        if self.console is not None:
            fds.add(self.console)
        if self.launcher >= 0:
            fds.add(self.launcher)
        if self.restore is not None:
            fds |= {self.restore.elf_fd, self.restore.channel_fd}
        return fds

    def hook_state(self, status: str) -> dict[str, Any]:
        """The OCI state for a hook in the container: its pid is the one seen inside."""
        return {
            "ociVersion": self.spec.oci_version,
            "id": self.cid,
            "status": status,
            "pid": os.getpid(),
            "bundle": str(self.spec.bundle),
            "annotations": self.spec.annotations,
        }


def run_init(plan: InitPlan) -> NoReturn:
    """Be the init. Never returns: executes the program, or reports and exits with status 1."""
    try:
        # A collection now would close descriptors of the parent's objects, whose numbers we reuse
        gc.disable()
        signal.set_wakeup_fd(-1)
        reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # until execve, a gone parent is an error
        close_all_except(plan.fds())
        plan.channel.expect("placed")
        released = _set_up(plan)
        plan.channel.tell("ready")
        released()
    except BaseException as exc:
        report(plan.channel, exc)
    finally:
        os._exit(1)


def report(channel: Channel, exc: BaseException) -> None:
    """Send a failure to the parent, or write it to stderr when the parent is gone."""
    try:
        channel.send_error(exc)
    except OSError:
        if isinstance(exc, WherryError) and exc.reason == "init-vanished":
            return  # all that failed is that the parent is gone, which was told to end
        kind = "" if isinstance(exc, WherryError) else f"{type(exc).__name__}: "
        os.write(2, f"wherry: {kind}{exc}\n".encode(errors="replace"))


def _set_up(plan: InitPlan) -> Callable[[], None]:
    """Build the container around us; return what to do once the parent knows."""
    spec = plan.spec
    _enter_namespaces(plan)
    if plan.restore is None:  # the engine makes the sessions, this one among them, in its order
        with step("start a session"):
            os.setsid()
    os.umask(0)
    place_stdio(plan.stdio)
    root_fd = _attach_root(plan)
    devices = {} if plan.restore is None else plan.restore.devices
    mounter = Mounter(root_fd, plan.prepared, plan.hierarchies, devices)
    if not _joins_mounts(plan):
        mounter.mount_all(spec.mounts)
        make_devices(root_fd, devices_of(spec), plan.prepared.devices)
        if wants_devices(spec):
            make_links(root_fd)
    if spec.hostname:
        with step(f"set the host name to {spec.hostname!r} (hostname)"):
            sethostname(spec.hostname)
    if spec.domainname:
        with step(f"set the domain name to {spec.domainname!r} (domainname)"):
            setdomainname(spec.domainname)
    plan.channel.tell("mounted")
    plan.channel.expect("hooked")
    # After the hooks, which may have brought network interfaces with their own parameters
    write_sysctls(spec.linux.sysctl)
    plan.run_hooks("createContainer", plan.hook_state("creating"))
    slave = _open_terminal(plan, root_fd)
    # The host's /proc and /dev/null, while they can still be reached
    proc_fds = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _joins_mounts(plan):
        _close_down(plan, root_fd, mounter)
    _change_root(plan, root_fd)
    if plan.restore is not None:
        return lambda: _become_stub(plan, slave)
    if slave >= 0:
        terminal.take_terminal(slave)
    elif spec.process.user.uid != 0 or spec.linux.namespace("user") is not None:
        own_stdio(spec.process.user.uid)
    _check_program(plan, root_fd)
    return lambda: _start(plan, root_fd, proc_fds)


def _joins_mounts(plan: InitPlan) -> bool:
    return "mnt" in plan.prepared.namespaces


def _enter_namespaces(plan: InitPlan) -> None:
    joined = plan.prepared.namespaces
    # user: done where it has to come first, by the launcher; pid: took effect when we were made
    for kind in ("ipc", "uts", "net", "time", "cgroup", "mnt"):
        if kind in joined:
            with step(f"join the {kind} namespace (linux.namespaces)", reason="namespace"):
                setns(joined[kind], NAMESPACE_FLAGS[kind])
    if "pid" in joined:
        # Others can see us there; nobody may trace us or take our descriptors
        prctl.set_dumpable(False)
    if plan.spec.linux.namespace("user") is not None:
        become_root()
    if plan.spec.linux.makes_new("cgroup"):
        # Now, not in clone3: the namespace's root is the cgroup that we are in at this moment
        with step("make a cgroup namespace (linux.namespaces)", reason="namespace"):
            unshare(CLONE_NEWCGROUP)
    if plan.new_keyring:
        with step("make a session keyring"):
            try:
                new_session_keyring()
            except OSError as exc:
                if exc.errno != errno.ENOSYS:  # a kernel without keyrings has none to protect
                    raise
    if plan.spec.linux.makes_new("net"):
        bring_loopback_up()


def _attach_root(plan: InitPlan) -> int:
    """Put the root file system into our mount namespace; return a descriptor of it."""
    if _joins_mounts(plan):
        rootfs = plan.spec.rootfs
        with step(f"open {rootfs} in the joined mount namespace (root.path)"):
            return os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with step("make the host's mounts slaves"):
        # Nothing that we mount may reach the host; what the host mounts may still reach us
        mount(None, "/", None, MS_REC | MS_SLAVE)
    with step("attach the root file system (root.path)"):
        # On top of "/": that needs no path that leads to the bundle, which the root of a user
        # namespace may not even be allowed to walk. Our own root stays the one below.
        move_mount(plan.prepared.root, AT_FDCWD, "/")
    return plan.prepared.root


def _open_terminal(plan: InitPlan, root_fd: int) -> int:
    process = plan.spec.process
    if not process.terminal:
        return -1
    master, slave, name = terminal.open_terminal(root_fd, process)
    terminal.bind_console(root_fd, slave)
    assert plan.console is not None  # checked by the launcher
    terminal.send_master(plan.console, master, name)
    os.close(master)
    os.close(plan.console)
    return slave


def _close_down(plan: InitPlan, root_fd: int, mounter: Mounter) -> None:
    """Everything that takes something away: read-only mounts, masks."""
    spec = plan.spec
    if plan.restore is None:
        with step(f"make the working directory {spec.process.cwd} (process.cwd)", reason="cwd"):
            os.close(make_directories(root_fd, spec.process.cwd))
    mounter.finish()
    null_fd = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    make_readonly(root_fd, spec.linux.readonly_paths)
    mask_paths(root_fd, spec.linux.masked_paths, null_fd)
    os.close(null_fd)
    if spec.root_readonly:
        with step("make the root file system read-only (root.readonly)"):
            mount_setattr(root_fd, attr_set=MOUNT_ATTR_RDONLY)


def _change_root(plan: InitPlan, root_fd: int) -> None:
    with step("change the root", reason="pivot-root"):
        os.fchdir(root_fd)
        if _joins_mounts(plan):
            # The namespace has other users, whose root must stay where it is
            os.chroot(".")
            os.chdir("/")
            return
        # The old root lands on top of the new one, and goes from there
        pivot_root(".", ".")
        umount2(".", MNT_DETACH)
        os.chdir("/")
    propagation = plan.spec.linux.rootfs_propagation
    if propagation:
        with step("set the propagation of the root (linux.rootfsPropagation)"):
            mount(None, "/", None, propagation)


def _check_program(plan: InitPlan, root_fd: int) -> None:
    """Report a missing program at create already, as the last moment somebody listens for sure."""
    process = plan.spec.process
    try:
        os.chdir(process.cwd)
    except PermissionError:
        return  # the user may have more rights there than root, on a network file system
    try:
        find_program(process, environment_of(process, root_fd))
    finally:
        os.chdir("/")


def _become_stub(plan: InitPlan, slave: int) -> None:
    """Wait for the engine, then become its program, with all our privileges.

    Of our descriptors it keeps the engine's channel, and the terminal's slave, which would be hung
    up if nobody had it open until the engine takes it.
    """
    stub = plan.restore
    assert stub is not None
    plan.channel.expect("go")
    reset_signals()
    os.dup2(stub.channel_fd, CHANNEL_FD)
    if slave >= 0:
        os.dup2(slave, CONSOLE_FD)
        inherit_only(0, CHANNEL_FD, CONSOLE_FD)
    else:
        inherit_only(0, CHANNEL_FD)
    with step("execute the restore stub", reason="restore-stub"):
        os.execve(stub.elf_fd, ["wherry-restore"], {})


def _start(plan: InitPlan, root_fd: int, proc_fds: int) -> None:
    """Wait until somebody opens the start FIFO, then become the user's program."""
    spec, process = plan.spec, plan.spec.process
    with step("wait on the start FIFO", reason="start-fifo"):
        # Through /proc of the host, as the container's may be missing. Blocks until a reader comes.
        fifo = os.open(str(plan.prepared.fifo), os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fds)
        os.write(fifo, b"0")
        os.close(fifo)
    plan.run_hooks("startContainer", plan.hook_state("created"))
    become_process(
        process,
        root_fd,
        seccomp=plan.prepared.seccomp,
        personality=spec.linux.personality,
        last_cap=plan.last_cap,
        preserve_fds=plan.preserve_fds,
        launcher=plan.launcher,
        report_fd=plan.channel.write_fd,
    )


def become_process(
    process: Process,
    root_fd: int,
    *,
    seccomp: SeccompFilter | None,
    personality: int | None,
    last_cap: int,
    preserve_fds: int,
    launcher: int,
    report_fd: int,
) -> NoReturn:
    """Give up what we have beyond *process* and execute its program.

    Our root must be the container's already.

    Args:
        process: What to become.
        root_fd: The container's root.
        seccomp: The filter.
        personality: For personality(2).
        last_cap: The highest capability of this kernel.
        preserve_fds: How many descriptors from 3 on the program inherits.
        launcher: From ``make_launcher``, which has the filter in it when that comes last.
        report_fd: The channel's, for the launcher.

    Raises:
        ContainerError: Names what the kernel refused.
    """
    env = environment_of(process, root_fd)
    entered = try_enter(process.cwd)
    apply_process(process, seccomp=seccomp, personality=personality, last_cap=last_cap)
    if not entered:
        enter_directory(process.cwd)
    path = find_program(process, env)
    reset_signals()
    if launcher >= 0 and (
        seccomp is None or seccomp_comes_last(process) or seccomp.allows_execveat
    ):
        inherit_only(FIRST_FREE + preserve_fds, report_fd)
    else:
        launcher = -1
        inherit_only(FIRST_FREE + preserve_fds)
        if seccomp is not None and seccomp_comes_last(process):
            # The filter need not allow anything that we do, but execve
            install_seccomp(seccomp)
    execute(path, process, env, launcher)
