"""A state file that may come in several goes: what has come is kept, and the next one goes on.

Until it is complete it has a hidden name next to the target, made of the target's name and the
image's root digest. Whoever goes on reads what is there before anything is added, and checks it as
it checks what comes: the name promises nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time

from formats.statefile import StateFile

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PartialFile(StateFile):
    """As StateFile, but what has come may be kept.

    Args:
        path: Where the image is to appear.
        identity: The image's root digest.
        wait_s: How long to wait for another process that is at it, and about to give up.

    Attributes:
        size: Bytes that were there already; 0 when somebody else is at it, who then keeps it.
    """

    def __init__(
        self, path: str | os.PathLike[str], identity: bytes, *, wait_s: float = 0.0
    ) -> None:
        super().__init__(path)
        self._deadline = time.monotonic() + wait_s
        self.size = 0
        self._identity = identity.hex()[:32]
        self._keep = False

    def keep(self) -> None:
        """Leave what has come under its hidden name when the context ends without `commit`."""
        self._keep = True

    def begin_anew(self) -> None:
        """Drop what was there."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0

    def read_at(self, buffer: memoryview, offset: int) -> int:
        """Read what was there; the count of bytes, 0 at its end."""
        left = buffer[: max(0, self.size - offset)]
        return os.preadv(self._fd, [left], offset) if left else 0

    def _open(self) -> None:
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = f"{self._prefix()}{self._identity}.partial"
        fd = self._locked(own, wait=True)
        if fd is None:
            os.close(self._directory)
            super()._open()
            return
        self._fd, self._temporary = fd, own
        self.size = os.lseek(fd, 0, os.SEEK_END)
        self._remove_others(own)

    def _prefix(self) -> str:
        return f".{self.path.name[:60]}."

    def _locked(self, name: str, *, wait: bool = False) -> int | None:
        """The hidden file, ours alone; None when another process has it, or it is not ours."""
        while True:
            try:
                fd = os.open(name, _FLAGS, 0o600, dir_fd=self._directory)
            except OSError as exc:
                if exc.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES):
                    return None
                raise
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(fd)
                if status.st_nlink == 0:  # whoever had it has just finished with it
                    os.close(fd)
                    continue
                sound = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if sound and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                    if self._still_named(name, status):
                        return fd
                    os.close(fd)
                    continue
            except BlockingIOError:
                if wait and time.monotonic() < self._deadline:
                    os.close(fd)
                    time.sleep(0.05)
                    continue
            os.close(fd)
            return None

    def _still_named(self, name: str, status: os.stat_result) -> bool:
        try:
            there = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)

    def _remove_others(self, own: str) -> None:
        """What has come of other images under this name: nobody will go on with it."""
        pattern = re.compile(re.escape(self._prefix()) + r"[0-9a-f]{32}\.partial")
        for name in os.listdir(self._directory):
            if name != own and pattern.fullmatch(name):
                fd = self._locked(name)
                if fd is not None:
                    os.unlink(name, dir_fd=self._directory)
                    os.close(fd)

    def _discard(self) -> None:
        if self._keep:
            self._temporary = None
        super()._discard()
