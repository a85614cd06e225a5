"""Parse the ``process`` object (config.md, "Process" and "POSIX process")."""

from __future__ import annotations

import posixpath

from runtime.kernel.capabilities import CAPABILITY_NUMBERS
from runtime.kernel.rlimits import RLIMIT_NUMBERS
from runtime.kernel.sched import IOPRIO_CLASSES, SCHED_FLAGS, SCHED_POLICIES
from runtime.spec.model import (
    Capabilities,
    IoPriority,
    Process,
    Rlimit,
    Scheduler,
    User,
)
from runtime.spec.reader import Node, invalid

_ID_MAX = (1 << 32) - 2  # 2**32 - 1 is "no change" to the kernel


def parse_process(node: Node) -> Process:
    """Parse ``process`` of a configuration, or the same object given to ``exec``.

    Raises:
        SpecError: With the path of what is wrong, unsupported or unknown.
    """
    args = node.strings("args")
    if not args or not args[0]:
        raise invalid(f"{node.path}.args", "needs at least the program")
    cwd = node.need("cwd").text()
    if not posixpath.isabs(cwd):
        raise invalid(f"{node.path}.cwd", f"{cwd!r} is not an absolute path")
    process = Process(
        args=args,
        cwd=cwd,
        env=_parse_env(node),
        terminal=node.bool_of("terminal"),
        console_size=_parse_console_size(node),
        user=_parse_user(node),
        capabilities=_parse_capabilities(node),
        rlimits=_parse_rlimits(node),
        no_new_privileges=node.bool_of("noNewPrivileges"),
        oom_score_adj=node.int_of("oomScoreAdj", -1000, 1000),
        scheduler=_parse_scheduler(node),
        io_priority=_parse_io_priority(node),
        cpu_affinity=_parse_affinity(node),
    )
    node.refuse("apparmorProfile", "AppArmor is not supported; remove it")
    node.refuse("selinuxLabel", "SELinux is not supported; remove it")
    node.refuse("commandLine", "is for Windows")
    node.done()
    return process


def _parse_env(node: Node) -> tuple[str, ...]:
    entries = node.list_of("env")
    for entry in entries:
        name, equals, _ = entry.text().partition("=")
        if not equals or not name:
            raise invalid(entry.path, f"{entry.text()!r} is not NAME=VALUE")
    return tuple(entry.text() for entry in entries)


def _parse_console_size(node: Node) -> tuple[int, int] | None:
    size = node.get("consoleSize")
    if size is None:
        return None
    height = size.need("height").integer(0, 65535)
    width = size.need("width").integer(0, 65535)
    size.done()
    return height, width


def _parse_user(node: Node) -> User:
    user = node.get("user")
    if user is None:
        return User()
    parsed = User(
        uid=user.int_of("uid", 0, _ID_MAX) or 0,
        gid=user.int_of("gid", 0, _ID_MAX) or 0,
        umask=user.int_of("umask", 0, 0o777),
        additional_gids=tuple(gid.integer(0, _ID_MAX) for gid in user.list_of("additionalGids")),
    )
    user.refuse("username", "is for Windows; give uid and gid")
    user.done()
    return parsed


def _parse_capabilities(node: Node) -> Capabilities | None:
    sets = node.get("capabilities")
    if sets is None:
        return None
    parsed = Capabilities(
        **{
            name: tuple(cap.choice(CAPABILITY_NUMBERS) for cap in sets.list_of(name))
            for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
        }
    )
    sets.done()
    return parsed


def _parse_rlimits(node: Node) -> tuple[Rlimit, ...]:
    limits: dict[str, Rlimit] = {}
    for entry in node.list_of("rlimits"):
        kind = entry.need("type").choice(RLIMIT_NUMBERS)
        if kind in limits:
            raise invalid(entry.path, f"{kind} is given twice")
        limit = Rlimit(
            kind,
            soft=entry.need("soft").integer(0),
            hard=entry.need("hard").integer(0),
        )
        if limit.soft > limit.hard:
            why = f"{kind}: soft limit {limit.soft} is above hard limit {limit.hard}"
            raise invalid(entry.path, why)
        entry.done()
        limits[kind] = limit
    return tuple(limits.values())


def _parse_scheduler(node: Node) -> Scheduler | None:
    entry = node.get("scheduler")
    if entry is None:
        return None
    parsed = Scheduler(
        policy=entry.need("policy").choice(SCHED_POLICIES),
        nice=entry.int_of("nice", -20, 19) or 0,
        priority=entry.int_of("priority", 0, 99) or 0,
        flags=tuple(flag.choice(SCHED_FLAGS) for flag in entry.list_of("flags")),
        runtime_ns=entry.int_of("runtime", 0) or 0,
        deadline_ns=entry.int_of("deadline", 0) or 0,
        period_ns=entry.int_of("period", 0) or 0,
    )
    entry.done()
    return parsed


def _parse_io_priority(node: Node) -> IoPriority | None:
    entry = node.get("ioPriority")
    if entry is None:
        return None
    io_class = entry.need("class").choice(IOPRIO_CLASSES)
    parsed = IoPriority(io_class, entry.int_of("priority", 0, 7) or 0)
    entry.done()
    return parsed


def _parse_affinity(node: Node) -> tuple[int, ...]:
    entry = node.get("execCPUAffinity")
    if entry is None:
        return ()
    entry.refuse("initial", "an affinity before joining the cgroup is not supported; use final")
    final = entry.get("final")
    entry.done()
    return () if final is None or not final.text() else parse_cpu_list(final)


def parse_cpu_list(node: Node) -> tuple[int, ...]:
    """Parse a list of CPUs such as ``0-3,7``."""
    cpus: set[int] = set()
    for part in node.text().split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise invalid(node.path, f"{node.text()!r} is not a CPU list such as 0-3,7")
        if int(last or first) > 65535 or int(last or first) < int(first):
            raise invalid(node.path, f"{part!r} is not a range of CPUs")
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))
