"""A store in a directory of this host, or of a file system mounted here.

An object is a file of the same name, 0600 in directories that are 0700. While it is written it
has no name (``O_TMPFILE``), or where the file system cannot do that a hidden one beside its place;
it is synced before it gets its name, and the directory after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from migrate.errors import StoreError
from migrate.store.backend import NAME, Entry

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
_LATER = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}


class LocalBackend:
    """Objects below one directory; see `migrate.store.backend.Backend`.

    Args:
        path: The directory; it need not exist before the first `put`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def url(self) -> str:
        return str(self._path)

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        target = self._file(name)
        with self._named(name):
            self._make_directories(target.parent)
            directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                made = _write_to(directory, target.name, data, replace)
                if made:
                    os.fsync(directory)
                return made
            finally:
                os.close(directory)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._named(name), open(self._file(name), "rb", buffering=0, opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{self.url}: {name} is no regular file", reason="store-damaged")
            size = status.st_size
            wanted = max(size - offset, 0) if length is None else length
            if offset + wanted > size:
                raise StoreError(
                    f"{self.url}: {name} has {size} bytes, {offset + wanted} are needed",
                    reason="object-short",
                )
            buffer = bytearray(wanted)
            done = 0
            while done < wanted:
                count = os.preadv(file.fileno(), [memoryview(buffer)[done:]], offset + done)
                if not count:
                    raise StoreError(f"{self.url}: {name} was cut short", reason="object-short")
                done += count
            return bytes(buffer)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        with self._named(prefix or "."):
            yield from self._below(prefix)

    def remove(self, name: str) -> None:
        with self._named(name), contextlib.suppress(FileNotFoundError):
            self._file(name).unlink()

    def close(self) -> None:
        pass  # nothing stays open

    def _below(self, prefix: str) -> Iterator[Entry]:
        try:
            found = list(os.scandir(self._path / prefix))
        except (FileNotFoundError, NotADirectoryError):
            return
        for one in found:
            name = f"{prefix}/{one.name}" if prefix else one.name
            if not NAME.fullmatch(name):
                continue  # a temporary file, or somebody else's
            try:
                status = one.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(name)
            elif stat.S_ISREG(status.st_mode):
                yield Entry(name, status.st_size)

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an object")
        return self._path / name

    def _make_directories(self, directory: Path) -> None:
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):
                one.mkdir(mode=0o700)
            _sync_directory(one.parent)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            raise StoreError(f"{self.url}: {name} is missing", reason="object-missing") from exc
        except OSError as exc:
            later = exc.errno in _LATER
            raise StoreError(
                f"{self.url}: {name}: {exc.strerror}",
                reason="store-unreachable" if later else "store-error",
            ) from exc


def _open(path: str, flags: int) -> int:
    # What stands in an object's place may be a fifo, which would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)


def _write_to(
    directory: int, name: str, data: bytes | bytearray | memoryview, replace: bool
) -> bool:
    hidden = f".{name}.{os.urandom(8).hex()}.tmp"
    unnamed = True
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in _NO_TMPFILE:
            raise
        unnamed = False
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(hidden, flags, 0o600, dir_fd=directory)
    try:
        _write_all(fd, data)
        os.fsync(fd)
        try:
            if unnamed:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory)
            else:
                os.link(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
            return True
        except FileExistsError:
            if not replace:
                return False
        if unnamed:
            os.link(f"/proc/self/fd/{fd}", hidden, dst_dir_fd=directory)
        os.rename(hidden, name, src_dir_fd=directory, dst_dir_fd=directory)
        return True
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden, dir_fd=directory)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_backend(url: str) -> LocalBackend:
    """The backend for a path or ``file://`` URL."""
    return LocalBackend(Path(url.removeprefix("file://")))
