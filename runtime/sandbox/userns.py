"""Id mappings of a new user namespace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runtime.kernel.clone import CLONE_NEWUSER, clone3
from runtime.sandbox.steps import step
from runtime.spec.model import IdMapping


def write_mappings(pid: int, uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> None:
    """Give the new user namespace of *pid* its mappings; a namespace takes them once.

    ``setgroups`` stays allowed: we are privileged outside, so nobody can drop a group through the
    namespace that we could not have dropped for them.

    Raises:
        ContainerError: The kernel refused, for instance overlapping ranges.
    """
    for kind, mappings in (("uid", uids), ("gid", gids)):
        with step(f"write the {kind} mapping (linux.{kind}Mappings)", reason="user-namespace"):
            _write(Path(f"/proc/{pid}/{kind}_map"), mappings)


def _write(path: Path, mappings: Sequence[IdMapping]) -> None:
    lines = (f"{entry.container_id} {entry.host_id} {entry.size}\n" for entry in mappings)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(lines).encode())  # one write, or the kernel takes the first part only
    finally:
        os.close(fd)


def namespace_with(uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> int:
    """A user namespace with these mappings and no process; the caller closes the descriptor.

    Raises:
        ContainerError: The kernel refused.
    """
    reader, writer = os.pipe()
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)  # end of file is our end
        finally:
            os._exit(0)
    try:
        write_mappings(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(pid, 0)
        os.close(pidfd)


def host_id(mappings: Sequence[IdMapping], container_id: int) -> int | None:
    """The id outside that is *container_id* inside; itself when nothing is mapped."""
    if not mappings:
        return container_id
    for entry in mappings:
        if 0 <= container_id - entry.container_id < entry.size:
            return entry.host_id + container_id - entry.container_id
    return None


def become_root() -> None:
    """Become uid and gid 0 of our user namespace, with no supplementary groups."""
    with step("become root of the user namespace", reason="user-namespace"):
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
