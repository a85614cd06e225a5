"""Create a container's init, and start further processes beside it.

``create_init`` is the outside of ``runtime.sandbox.init``: it prepares what comes from the host,
makes the process, does for it what only the host may do, and waits until it reports that it is
ready. Any failure kills and reaps it; its mounts were never anywhere but in its own namespace.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from formats.errors import WherryError
from runtime.errors import ContainerError, SpecError
from runtime.kernel.capabilities import last_capability
from runtime.kernel.ptrace import WALL
from runtime.kernel.rlimits import get_rlimit, set_rlimit
from runtime.sandbox.cgroups import Cgroups
from runtime.sandbox.cgroups.ahead import moving_soon
from runtime.sandbox.cgroups.hierarchy import find_hierarchies
from runtime.sandbox.channel import Channel, channel_pair
from runtime.sandbox.credentials import set_oom_score
from runtime.sandbox.descriptors import Stdio
from runtime.sandbox.devices import devices_of
from runtime.sandbox.enter import exec_process
from runtime.sandbox.hook_runner import SpecHooks
from runtime.sandbox.init import InitPlan, run_init
from runtime.sandbox.launcher import check_report, launcher_for
from runtime.sandbox.overlay import Overlay
from runtime.sandbox.prepare import prepare
from runtime.sandbox.restore_stub import RestoreStub
from runtime.sandbox.spawn import new_namespaces, spawn, time_offsets
from runtime.sandbox.steps import step
from runtime.sandbox.userns import host_id, write_mappings
from runtime.spec.model import Spec
from runtime.spec.reader import invalid

__all__ = ["InitProcess", "RestoreStub", "Stdio", "create_init", "exec_process"]


class Hooks(Protocol):
    """Runs hooks by name; ``SpecHooks`` runs those of the configuration."""

    def run(self, name: str, state: dict[str, Any]) -> None:
        """Run all hooks *name* with an OCI state."""


class InitProcess:
    """A container's init, our child.

    Attributes:
        pid: In our own pid namespace.
        pidfd: For polling and signals, close-on-exec; the receiver's to close.
        companions: Further children of ours in its pid namespace, which die with it.
    """

    def __init__(self, pid: int, pidfd: int, channel: Channel, program: str) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.companions: list[int] = []
        self._channel = channel
        self._program = program

    @property
    def report_fd(self) -> int:
        """Readable as soon as ``wait_executed`` would not block."""
        return self._channel.read_fd

    def go(self) -> None:
        """Let a restored container's init execute the engine's stub; does not wait for it.

        Raises:
            ContainerError: The init is gone.
        """
        with step(f"release the init, pid {self.pid}", reason="init-vanished"):
            self._channel.tell("go")

    def wait_executed(self) -> None:
        """Wait until the init has become its program (or has ended).

        Raises:
            ContainerError: It could not; ``exec-not-found``, ``exec-permission`` and so on.
            HookError: A startContainer hook failed.
        """
        if self._channel.receive() is None:
            check_report(self._channel.rest(), self._program)

    def kill(self) -> None:
        """Kill and reap the init. Idempotent."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._reap()
        self._channel.close()

    def _reap(self) -> None:
        # A failed restore still traces the tasks. The kernel does not let an init end before the
        # last task of its namespace is reaped.
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        try:
            while os.waitpid(self.pid, os.WNOHANG | WALL)[0] == 0:
                for pid in self.companions:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG | WALL)
                _reap_what_holds_it()
                poll.poll(1)  # ms; wakes up at once when the init has ended
        except ChildProcessError:
            pass  # somebody has reaped it already


def _reap_what_holds_it() -> None:
    """Reap the ended tasks that an init waits for and that only we can reap.

    Those are what we trace, and children of ours in its pid namespace, whose waiter may have been
    interrupted. Our other children are left to who waits for them.
    """
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
        if found is None:
            return
        if not _may_hold_an_init(Path(f"/proc/{found.si_pid}/status")):
            break  # it hides what comes after it until somebody takes it
        os.waitpid(found.si_pid, os.WNOHANG | WALL)
    for status in Path("/proc").glob("[0-9]*/task/[0-9]*/status"):
        with suppress(OSError):  # gone meanwhile, or not ours
            if _may_hold_an_init(status):
                os.waitpid(int(status.parent.name), os.WNOHANG | WALL)


def _may_hold_an_init(status: Path) -> bool:
    fields = _status_fields(status)
    own = str(os.getpid())
    if fields["TracerPid"] == own:
        return True
    if fields["PPid"] != own:
        return False
    # A thread of the init has our pid as its parent too, but only its tracer can reap it.
    if fields["Tgid"] != fields["Pid"]:
        return True
    levels = len(_status_fields(Path("/proc/self/status"))["NSpid"].split())
    return len(fields["NSpid"].split()) > levels


def _status_fields(status: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in status.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def create_init(
    spec: Spec,
    *,
    cid: str,
    bundle: Path,
    cgroups: Cgroups | None,
    overlay: Overlay | None = None,
    stdio: Stdio,
    console: int | None = None,
    exec_fifo: Path | None = None,
    restore: RestoreStub | None = None,
    hooks: Hooks | None = None,
    preserve_fds: int = 0,
    new_keyring: bool = True,
) -> InitProcess:
    """Build a container around a new process.

    We must be single-threaded, and become the process's parent.

    Args:
        spec: The configuration, parsed and checked (``check_host``).
        cid: The container's id, for hooks and messages.
        bundle: Its directory, for hooks.
        cgroups: Its cgroups. Limited here; made here too, unless ``cgroups.create()`` was called
            before, and then removed again when this fails.
        overlay: Goes over the root file system.
        stdio: Our descriptors that become 0, 1 and 2, unless the process gets a terminal.
        console: Connected UNIX socket that the terminal's master is sent to, for
            ``process.terminal``; see ``runtime.sandbox.terminal.connect_console``.
        exec_fifo: FIFO that the init opens for writing when everything is there. It goes on, to the
            startContainer hooks and the program, as soon as anybody opens it for reading.
        restore: Execute this instead of the program, once ``go()`` is called. User, capabilities,
            limits, session, working directory, seccomp and out-of-memory score are then left to
            the engine.
        hooks: Who runs the hooks, normally ``SpecHooks``.
        preserve_fds: How many descriptors from 3 on the program inherits.
        new_keyring: Give it a session keyring of its own, instead of ours.

    Returns:
        The init, waiting for *exec_fifo* or for ``go()``.

    Raises:
        ContainerError: A step failed; the init is gone, and the cgroups if they were made here.
        SpecError: Something of the configuration cannot be had here.
        HookError: A prestart, createRuntime or createContainer hook failed.
    """
    if spec.process.terminal and console is None:
        raise invalid("process.terminal", "needs a console socket (--console-socket)")
    if restore is None and exec_fifo is None:
        raise ValueError("create_init: needs exec_fifo or restore")
    runner = hooks or SpecHooks(spec)
    made_cgroups = False
    try:
        if cgroups is not None and not cgroups.made:
            cgroups.create()
            made_cgroups = True
        if cgroups is not None:
            cgroups.apply(spec.linux.resources)
        if exec_fifo is not None:
            _give_fifo(exec_fifo, spec)
        with (
            moving_soon() if cgroups is not None else nullcontext(),
            prepare(
                spec,
                overlay=overlay,
                cgroups=cgroups,
                exec_fifo=exec_fifo if restore is None else None,
                root_device=0 if restore is None else restore.devices.get("/", 0),
                host_devices=devices_of(spec) if spec.linux.namespace("user") is not None else (),
            ) as prepared,
        ):
            near, far = channel_pair()
            plan = InitPlan(
                spec=spec,
                cid=cid,
                prepared=prepared,
                channel=far,
                stdio=stdio,
                console=console,
                hierarchies=find_hierarchies(),
                run_hooks=runner.run,
                restore=restore,
                preserve_fds=preserve_fds,
                new_keyring=new_keyring,
                last_cap=last_capability(),
                launcher=(
                    -1 if restore else launcher_for(spec.process, prepared.seccomp, far.write_fd)
                ),
            )
            try:
                return _launch(plan, near, runner, cgroups, bundle)
            finally:
                if plan.launcher >= 0:
                    os.close(plan.launcher)
    except ContainerError as exc:
        _undo_cgroups(cgroups if made_cgroups else None, exc)
        if not isinstance(exc, SpecError):
            exc.args = (f"{cid}: {exc}",)
        raise
    except BaseException as exc:
        _undo_cgroups(cgroups if made_cgroups else None, exc)
        raise


def _undo_cgroups(cgroups: Cgroups | None, exc: BaseException) -> None:
    if cgroups is None:
        return
    try:
        cgroups.kill_all()
        cgroups.destroy()
    except WherryError as second:
        exc.add_note(f"removing the cgroups also failed: {second}")


def _launch(
    plan: InitPlan, near: Channel, runner: Hooks, cgroups: Cgroups | None, bundle: Path
) -> InitProcess:
    spec = plan.spec

    def body() -> NoReturn:
        near.close()
        run_init(plan)

    try:
        pid, pidfd = spawn(
            body,
            flags=new_namespaces(spec.linux),
            joined=plan.prepared.namespaces,
            offsets=time_offsets(spec.linux, plan.restore),
        )
    except BaseException:
        near.close()
        plan.channel.close()
        raise
    plan.channel.close()
    init = InitProcess(pid, pidfd, near, spec.process.args[0])
    try:
        _place(plan, pid, cgroups)
        _converse(plan, near, runner, pid, bundle)
    except BaseException as exc:
        # A broken pipe only says that the init is gone; it may have said why before
        if isinstance(exc, BrokenPipeError):
            try:
                near.receive()
            except WherryError as reason:
                init.kill()
                os.close(pidfd)
                raise reason from None
        init.kill()
        os.close(pidfd)
        raise
    return init


def _place(plan: InitPlan, pid: int, cgroups: Cgroups | None) -> None:
    """What the host does for a process that cannot do it itself."""
    spec = plan.spec
    if spec.linux.makes_new("user"):
        write_mappings(pid, spec.linux.uid_mappings, spec.linux.gid_mappings)
    if plan.restore is None:
        if spec.linux.namespace("user") is not None:
            _raise_hard_limits(spec, pid)
        set_oom_score(pid, spec.process.oom_score_adj)
    if cgroups is not None:
        cgroups.add(pid)


def _raise_hard_limits(spec: Spec, pid: int) -> None:
    """Hard limits go up only with a capability in the first user namespace, which the init lacks.

    The soft limits, and hard ones that go down, are the init's own last step.
    """
    for index, limit in enumerate(spec.process.rlimits):
        soft, hard = get_rlimit(limit.kind, pid)
        if limit.hard > hard:
            with step(f"raise {limit.kind} to {limit.hard} (process.rlimits[{index}])"):
                set_rlimit(limit.kind, soft, limit.hard, pid)


def _converse(plan: InitPlan, near: Channel, runner: Hooks, pid: int, bundle: Path) -> None:
    spec = plan.spec
    near.tell("placed")
    near.expect("mounted")
    if plan.restore is not None:
        plan.restore.before_hooks(pid)
    state = {
        "ociVersion": spec.oci_version,
        "id": plan.cid,
        "status": "creating",
        "pid": pid,
        "bundle": str(bundle.absolute()),
        "annotations": spec.annotations,
    }
    for name in ("prestart", "createRuntime"):
        runner.run(name, state)
    near.tell("hooked")
    near.expect("ready")


def _give_fifo(exec_fifo: Path, spec: Spec) -> None:
    """Let the root of the container's user namespace open the FIFO for writing."""
    linux = spec.linux
    if linux.namespace("user") is None:
        return
    with step(f"give {exec_fifo} to the container's root"):
        uid, gid = host_id(linux.uid_mappings, 0), host_id(linux.gid_mappings, 0)
        if linux.makes_new("user") and uid is not None and gid is not None:
            os.chown(exec_fifo, uid, gid)
        else:
            # Who is root in a namespace that we join is not ours to know; writing to it does no
            # more than saying "ready"
            exec_fifo.chmod(0o622)
