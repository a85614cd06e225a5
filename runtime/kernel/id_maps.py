"""/proc/PID/{uid_map,gid_map,setgroups}: which ids a user namespace has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.kernel.away import call_away
from runtime.kernel.procfs import read_bytes, read_text

Line = tuple[int, int, int]
"""First id inside, first id in the parent namespace, how many."""

NO_ID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class IdMaps:
    """What is mapped into a user namespace from its parent."""

    uids: tuple[Line, ...]
    gids: tuple[Line, ...]
    setgroups: bool


def read(fd: int) -> IdMaps:
    """The maps of the user namespace *fd*, which need not have any process.

    From inside it, ids outside are shown as its parent calls them; anybody else would be shown
    their own.

    Raises:
        PermissionError: No CAP_SYS_ADMIN over it.
    """
    answer = call_away([fd], _read_own)
    uids, gids, setgroups = answer.decode().split("\0")
    return IdMaps(_parse(uids), _parse(gids), setgroups.strip() != "deny")


def _read_own() -> bytes:
    names = ("uid_map", "gid_map", "setgroups")
    return b"\0".join(read_bytes(f"/proc/self/{name}") for name in names)


def of_process(pid: int, kind: str) -> tuple[Line, ...]:
    """A process's map ("uid" or "gid"), with the ids outside as we call them."""
    return _parse(read_text(f"/proc/{pid}/{kind}_map"))


def _parse(text: str) -> tuple[Line, ...]:
    lines = ([int(word) for word in line.split()] for line in text.splitlines())
    return tuple((inside, outside, count) for inside, outside, count in lines)


def write(pid: int, parent: int, maps: IdMaps) -> None:
    """Give the new user namespace of *pid* its maps, as somebody privileged in its parent.

    Args:
        pid: A process in it.
        parent: A descriptor of its parent.
        maps: What it gets; a namespace takes them once.

    Raises:
        OSError: The kernel refused: EPERM for ids that the parent does not have.
    """

    def act() -> bytes:
        # setgroups can only be denied before the groups are mapped, or by who has no privileges.
        if not maps.setgroups:
            _write(f"/proc/{pid}/setgroups", "deny")
        for kind, lines in (("uid", maps.uids), ("gid", maps.gids)):
            if lines:
                text = "".join(f"{a} {b} {count}\n" for a, b, count in lines)
                _write(f"/proc/{pid}/{kind}_map", text)
        return b""

    here = os.stat("/proc/self/ns/user")
    away = [] if os.path.samestat(here, os.fstat(parent)) else [parent]
    call_away(away, act)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # one write, or the kernel takes the first part only
    finally:
        os.close(fd)


def inside(lines: Iterable[Line], outside: int) -> int | None:
    """The id inside for one outside, or None where it has none."""
    for first, parent, count in lines:
        if parent <= outside < parent + count:
            return first + outside - parent
    return None


def outside(lines: Iterable[Line], within: int) -> int | None:
    """The id outside for one inside, or None where there is none."""
    for first, parent, count in lines:
        if first <= within < first + count:
            return parent + within - first
    return None


def is_complete(lines: Iterable[Line]) -> bool:
    """Whether a map is that of the first user namespace: every id is itself."""
    return tuple(lines) == ((0, 0, NO_ID),)
