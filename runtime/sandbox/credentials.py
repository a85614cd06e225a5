"""The last steps before execve: from a privileged helper to the process of the configuration.

The order matters. Limits and scheduling still need privileges; dropping capabilities from the
bounding set needs CAP_SETPCAP; changing ids clears capabilities unless they are kept; a seccomp
filter needs CAP_SYS_ADMIN or no_new_privs, and once it is there it may forbid all the other calls.
"""

from __future__ import annotations

import os

from runtime.errors import ContainerError
from runtime.kernel import prctl
from runtime.kernel.capabilities import (
    CapabilitySets,
    get_capabilities,
    mask_of,
    set_capabilities,
)
from runtime.kernel.personality import set_personality
from runtime.kernel.rlimits import set_rlimit
from runtime.kernel.sched import (
    IOPRIO_CLASSES,
    SCHED_FLAGS,
    SCHED_POLICIES,
    set_io_priority,
    set_scheduler,
)
from runtime.kernel.seccomp import install_filter
from runtime.sandbox.seccomp import SeccompFilter
from runtime.sandbox.steps import step
from runtime.spec.model import Capabilities, Process, Scheduler

DEFAULT_UMASK = 0o022


def apply_process(
    process: Process, *, seccomp: SeccompFilter | None, personality: int | None, last_cap: int
) -> None:
    """Turn ourselves into *process*, up to its execve.

    Args:
        process: The configuration's process.
        seccomp: Filter to install here, while we may; with no_new_privs it can wait for the end,
            and the caller installs it.
        personality: For personality(2), or None.
        last_cap: The highest capability of this kernel.

    Raises:
        ContainerError: Names the part of the configuration that the kernel refused.
    """
    _apply_limits(process, personality)
    if seccomp is not None and not seccomp_comes_last(process):
        install_seccomp(seccomp)
    _apply_ids(process, last_cap)
    os.umask(DEFAULT_UMASK if process.user.umask is None else process.user.umask)
    if process.no_new_privileges:
        with step("set no_new_privs (process.noNewPrivileges)"):
            prctl.set_no_new_privs()


def seccomp_comes_last(process: Process) -> bool:
    """Whether the filter can wait for the end: with no_new_privs, no capability is needed."""
    return process.no_new_privileges


def install_seccomp(seccomp: SeccompFilter) -> None:
    """Install the filter of the configuration."""
    with step("install the seccomp filter (linux.seccomp)", reason="seccomp"):
        install_filter(seccomp.program, seccomp.flags)


def _apply_limits(process: Process, personality: int | None) -> None:
    if process.scheduler is not None:
        _apply_scheduler(process.scheduler)
    if process.io_priority is not None:
        with step("set the I/O priority (process.ioPriority)"):
            entry = process.io_priority
            set_io_priority(IOPRIO_CLASSES[entry.io_class], entry.priority)
    if process.cpu_affinity:
        with step("set the CPU affinity (process.execCPUAffinity.final)"):
            os.sched_setaffinity(0, process.cpu_affinity)
    if personality is not None:
        with step("set the personality (linux.personality)"):
            set_personality(personality)
    for index, limit in enumerate(process.rlimits):
        what = f"set {limit.kind} to {limit.soft}:{limit.hard} (process.rlimits[{index}])"
        with step(what, reason="rlimit"):
            set_rlimit(limit.kind, limit.soft, limit.hard)


def _apply_scheduler(scheduler: Scheduler) -> None:
    flags = 0
    for flag in scheduler.flags:
        flags |= SCHED_FLAGS[flag]
    with step(f"set the scheduler {scheduler.policy} (process.scheduler)"):
        set_scheduler(
            SCHED_POLICIES[scheduler.policy],
            nice=scheduler.nice,
            priority=scheduler.priority,
            flags=flags,
            runtime_ns=scheduler.runtime_ns,
            deadline_ns=scheduler.deadline_ns,
            period_ns=scheduler.period_ns,
        )


def _apply_ids(process: Process, last_cap: int) -> None:
    wanted = process.capabilities or Capabilities()
    # What cannot be granted was warned of beforehand (runtime.spec.rules)
    ours = get_capabilities().permitted
    permitted = mask_of(wanted.permitted) & ours
    sets = CapabilitySets(
        effective=mask_of(wanted.effective) & permitted,
        permitted=permitted,
        inheritable=mask_of(wanted.inheritable) & ours,
    )
    ambient = mask_of(wanted.ambient) & sets.permitted & sets.inheritable
    bounding = mask_of(wanted.bounding)
    with step("drop capabilities from the bounding set (process.capabilities.bounding)"):
        for number in range(last_cap + 1):
            if not bounding >> number & 1:
                prctl.drop_from_bounding_set(number)
    user = process.user
    prctl.set_keep_caps(True)
    with step(f"set groups {list(user.additional_gids)} (process.user.additionalGids)"):
        os.setgroups(list(user.additional_gids))
    with step(f"become gid {user.gid} (process.user.gid)"):
        os.setresgid(user.gid, user.gid, user.gid)
    with step(f"become uid {user.uid} (process.user.uid)"):
        os.setresuid(user.uid, user.uid, user.uid)
    prctl.set_keep_caps(False)
    with step("set the capabilities (process.capabilities)", reason="capabilities"):
        set_capabilities(sets)
        prctl.clear_ambient()
        for number in range(last_cap + 1):
            if ambient >> number & 1:
                prctl.raise_ambient(number)


def enter_directory(cwd: str) -> None:
    """Change to the working directory as the final user.

    Raises:
        ContainerError: It cannot be entered, or leads out of the container.
    """
    with step(f"change to the working directory {cwd} (process.cwd)", reason="cwd"):
        os.chdir(cwd)
        # A leaked descriptor of the host (/proc/self/fd/N) as cwd would be an escape; the kernel
        # shows such a directory as unreachable
        inside = os.getcwd().startswith("/")
    if not inside:
        raise ContainerError(f"process.cwd: {cwd} leads out of the container", reason="cwd")


def try_enter(cwd: str) -> bool:
    """Enter the working directory with root's rights; False leaves it to the final user's."""
    try:
        enter_directory(cwd)
    except ContainerError as exc:
        if isinstance(exc.__cause__, PermissionError):
            return False
        raise
    return True


def set_oom_score(pid: int, score: int | None) -> None:
    """Set how readily the kernel kills a process when memory runs out; None changes nothing."""
    if score is None:
        return
    with step(f"set the out-of-memory score to {score} (process.oomScoreAdj)", reason="oom-score"):
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(score).encode())
        finally:
            os.close(fd)
