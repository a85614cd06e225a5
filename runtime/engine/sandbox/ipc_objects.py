"""What System V objects of all three kinds have in common: ids, owners, and who acts for whom."""

from __future__ import annotations

import os
from pathlib import Path

from formats.records.ipc import IpcPermissions
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.remote import Batch, Tracee
from runtime.engine.sandbox.kind import Place, Scope
from runtime.errors import RestoreError
from runtime.kernel import sysvipc
from runtime.kernel.prctl import PR_SET_SECUREBITS
from runtime.kernel.visit import visiting_path

REFUSED = (
    ("ipc-id", "an id of a System V object that the new container cannot have"),
    ("ipc-outside", "IPC objects that belong to another container or to the host"),
)
SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h
_SAME = 2**32 - 1  # of setresuid(2): leave as it is
_NOBODY = 65534  # what an id outside of the map shows as, user_namespaces(7)


def permissions(scope: Scope, row: dict[str, int], id_column: str) -> IpcPermissions:
    """The permissions of an object, from its line in /proc/sysvipc."""
    uid, gid = owner_inside(scope, row["uid"], row["gid"])
    creator_uid, creator_gid = owner_inside(scope, row["cuid"], row["cgid"])
    return IpcPermissions(
        number=row[id_column],
        key=row["key"],
        mode=row["perms"] & 0o777,
        uid=uid,
        gid=gid,
        creator_uid=creator_uid,
        creator_gid=creator_gid,
    )


def owner_inside(scope: Scope, uid: int, gid: int) -> tuple[int, int]:
    """A user and a group as those in the namespace see them."""
    uids, gids = (_id_map(scope.pid, which) for which in ("uid", "gid"))
    return _inside(uids, uid), _inside(gids, gid)


def _id_map(pid: int, which: str) -> list[tuple[int, int, int]]:
    """(first inside, first outside, count) of a task's user namespace, as ours sees it."""
    if not pid:  # nobody is in the namespace
        return [(0, 0, 2**32)]
    text = Path(f"/proc/{pid}/{which}_map").read_text()
    lines = ([int(word) for word in line.split()] for line in text.splitlines())
    return [(inside, outside, count) for inside, outside, count in lines]


def _inside(ranges: list[tuple[int, int, int]], number: int) -> int:
    for inside, outside, count in ranges:
        if outside <= number < outside + count:
            return inside + number - outside
    return _NOBODY


def inside_pid(context: DumpContext, pid: int) -> int:
    """A pid that an object remembers, as the container sees it; 0 for one that has ended."""
    return context.ns_pids.get(pid, 0)


def actor(files: RestoredFiles, place: Place, ns_pid: int) -> Tracee:
    """The process with the pid *ns_pid* inside if it is in the namespace, else any that is."""
    home = os.stat(f"/proc/{place.task.tid}/ns/ipc").st_ino
    for pid, tracee in files.tracees.items():
        if ns_pid and files.ns_pids.get(pid) == ns_pid:
            if os.stat(f"/proc/{pid}/ns/ipc").st_ino == home:
                return tracee
            break
    return place.task


def create(
    files: RestoredFiles,
    place: Place,
    kind: str,
    wanted: IpcPermissions,
    creator: int,
    size: tuple[int, ...] = (),
    extra_flags: int = 0,
) -> None:
    """Make an object under its old id and key, with its creator, owner and mode.

    Args:
        kind: "shm", "sem" or "msg".
        size: What the kind's call takes between key and flags.
        extra_flags: Flags of the kind.

    Raises:
        RestoreError: The id or the key is taken.
    """
    _check(kind, wanted)
    task = actor(files, place, creator)
    with visiting_path(place.path, "ipc"):
        sysvipc.choose_next_id(kind, wanted.number)
    batch = Batch()
    foreign = bool(wanted.creator_uid or wanted.creator_gid)
    if foreign:
        # The creator is whoever calls; without the fixup that leaves all capabilities alone.
        batch.call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        batch.call("setresgid", _SAME, wanted.creator_gid, _SAME)
        batch.call("setresuid", _SAME, wanted.creator_uid, _SAME)
    flags = sysvipc.IPC_CREAT | sysvipc.IPC_EXCL | wanted.mode | extra_flags
    made = batch.call(f"{kind}get", wanted.key, *size, flags, may_fail=True)
    if foreign:
        batch.call("setresuid", _SAME, 0, _SAME)
        batch.call("setresgid", _SAME, 0, _SAME)
        batch.call("prctl", PR_SET_SECUREBITS, 0)
    number = task.run(batch)[made]
    if number != wanted.number:
        what = os.strerror(-number) if number < 0 else f"got {number}"
        raise RestoreError(
            f"cannot make {kind} object {wanted.number} with key {wanted.key:#x}: {what}",
            reason="ipc-id",
        )


def _check(kind: str, wanted: IpcPermissions) -> None:
    owners = (wanted.uid, wanted.gid, wanted.creator_uid, wanted.creator_gid)
    numbers = 0 <= wanted.number < 2**31 and -(2**31) <= wanted.key < 2**31
    if not numbers or not all(0 <= owner < 2**32 for owner in owners) or wanted.mode & ~0o777:
        raise RestoreError(
            f"the image describes {kind} object {wanted.number} as there can be none: {wanted}",
            reason="image-inconsistent",
        )


def set_owner(
    batch: Batch, kind: str, wanted: IpcPermissions, max_bytes: int = 0, *, always: bool = False
) -> None:
    """Add the call that changes an object's owner, where that is not its creator."""
    owner = (wanted.uid, wanted.gid)
    if not always and owner == (wanted.creator_uid, wanted.creator_gid):
        return
    settings = sysvipc.packed_settings(*owner, wanted.mode, max_bytes)
    where = (wanted.number, 0) if kind == "sem" else (wanted.number,)
    batch.call(f"{kind}ctl", *where, sysvipc.IPC_SET, settings)
