"""Probes of the namespaces that a sandbox is made of, each tried in a child."""

from __future__ import annotations

from pathlib import Path

from runtime.kernel.features import Need, UnavailableError, probe
from runtime.kernel.probes.attempt import in_child, raw

_GROUP = "namespaces"

# <linux/sched.h>
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


def _unshare(flag: int) -> str:
    def attempt() -> str:
        raw("unshare", flag)
        return ""

    return in_child(attempt)


def _register(name: str, flag: int, used_for: str, need: Need, without_it: str) -> None:
    @probe(name, group=_GROUP, need=need, used_for=used_for, without_it=without_it)
    def _attempt() -> str:
        return _unshare(flag)


for _name, _flag, _used_for in (
    ("mount-namespace", CLONE_NEWNS, "a container's own mounts"),
    ("pid-namespace", CLONE_NEWPID, "a container's own process ids, also after a restore"),
    ("network-namespace", CLONE_NEWNET, "a container's own network"),
    ("uts-namespace", CLONE_NEWUTS, "a container's own host name"),
    ("ipc-namespace", CLONE_NEWIPC, "a container's own System V objects and message queues"),
):
    _register(_name, _flag, _used_for, Need.REQUIRED, "no container can be made")

_register(
    "cgroup-namespace",
    CLONE_NEWCGROUP,
    "hiding the host's cgroup paths",
    Need.OPTIONAL,
    "a configuration that asks for one is refused",
)


@probe(
    "time-namespace",
    group=_GROUP,
    need=Need.REQUIRED,
    used_for="monotonic clocks that go on where they were at the checkpoint",
    without_it="no restore, because clocks would jump",
)
def _time_namespace() -> str:
    def attempt() -> str:
        raw("unshare", CLONE_NEWTIME)
        # Linux writes the offsets of the namespace for children as long as it has none.
        Path("/proc/self/timens_offsets").write_text("monotonic 1 0\nboottime 1 0\n")
        return ""

    return in_child(attempt)


@probe(
    "user-namespace",
    group=_GROUP,
    used_for="linux.uidMappings and linux.gidMappings of the configuration",
    without_it="a configuration that asks for one is refused",
)
def _user_namespace() -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    if limit.exists() and limit.read_text().strip() == "0":
        raise UnavailableError("switched off (user.max_user_namespaces is 0)")
    return _unshare(CLONE_NEWUSER)
