"""Descriptors that a checkpoint calls external and a restore gives anew.

``--external file[MNT:INODE]`` (both hexadecimal, as in fdinfo's ``mnt_id`` and in stat(2)) and
``pipe[INODE]`` name them; ``--inherit-fd fd[N]:KEY`` gives a descriptor for the same key. A colon
before the bracket, as the kernel writes it in ``pipe:[123]``, makes no difference.
"""

from __future__ import annotations

import fcntl
import os
import stat

from formats.records.files import ExternalFile, GivenFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError

SAVED = (
    (
        "descriptors from outside",
        "files and pipes that `--external` names; `--inherit-fd` gives them at a restore",
    ),
)


def inherited(files: RestoredFiles, key: str) -> int | None:
    """The descriptor of ours that the caller gives for *key*."""
    given: dict[str, int] = files.once(
        "inherited", lambda: {_plain(name): fd for name, fd in files.options.inherit_fds.items()}
    )
    return given.get(_plain(key))


def _plain(key: str) -> str:
    return key.replace(":[", "[", 1)


class Given(Kind):
    """A file or pipe of the outside."""

    name = "descriptors from outside"
    rank = 3
    record = GivenFile
    own_flags = False

    def matches(self, table: FileTable, look: Look) -> bool:
        return _key(table, look) is not None

    def dump(self, table: FileTable, look: Look, file_id: int) -> GivenFile | None:
        key = _key(table, look)
        assert key is not None
        return GivenFile(file_id=file_id, key=key, flags=look.flags, description=look.link)

    def restore(self, files: RestoredFiles, record: GivenFile) -> int:
        fd = inherited(files, record.key)
        if fd is None:
            raise RestoreError(
                f"{record.description} comes from outside; give a descriptor for it: "
                f"--inherit-fd fd[N]:{record.key}",
                reason="external-missing",
            )
        return duplicate(fd, record)


def duplicate(fd: int, record: GivenFile | ExternalFile) -> int:
    """A descriptor of ours for the description behind *fd*, which must take the same access.

    Raises:
        RestoreError: It was not opened for what the program does with it, or is closed.
    """
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as exc:
        raise RestoreError(
            f"descriptor {fd}, given for {record.description}, is not open",
            reason="external-missing",
        ) from exc
    if mode not in (os.O_RDWR, record.flags & os.O_ACCMODE):
        raise RestoreError(
            f"descriptor {fd}, given for {record.description}, was opened for other access",
            reason="external-mode",
        )
    return os.dup(fd)


def _key(table: FileTable, look: Look) -> str | None:
    names: dict[str, str] = table.once(
        "external-names",
        lambda: {_plain(name): name for name in table.context.target.options.external},
    )
    if not names:
        return None
    mode = look.stat.st_mode
    key = f"file[{look.info.mount_id:x}:{look.stat.st_ino:x}]"
    if stat.S_ISFIFO(mode) and look.link.startswith("pipe:"):
        key = f"pipe[{look.stat.st_ino}]"
    return names.get(key)
