"""A store in a directory of another host, over SFTP: ``sftp://[user@]host[:port]/path``.

Hosts, keys and known hosts are those of ``ssh`` (`migrate.ssh`). Each object is a file; it gets its
name when it is complete. Names that begin with a dot belong to writers that are at work or have
died, and are no objects.

A session of the SFTP library is for one thread at a time, so calls borrow one of a few.

Source: draft-ietf-secsh-filexfer-02 (version 3, which OpenSSH speaks), and OpenSSH's PROTOCOL,
section 4, for its extensions.
"""

from __future__ import annotations

import contextlib
import secrets
import stat
import threading
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import paramiko
from paramiko.sftp import CMD_EXTENDED

from migrate.destination import Destination
from migrate.errors import HostKeyError, LoginError, StoreError, TransportError
from migrate.ssh import SshConnection, connect
from migrate.ssh_config import SshOptions
from migrate.store.backend import Entry
from migrate.store.object_names import (
    begins_with,
    believed,
    missing,
    require_name,
    require_prefix,
    require_writable_size,
    short,
    wanted_length,
)

MAX_SESSIONS = 6  # sshd's MaxSessions is 10 unless the host says otherwise
ANSWER_TIMEOUT_S = 60.0
_PIECE = 256 << 10  # bytes
_LAST_WRITE = 32 << 10  # bytes; one request of the library


def open_backend(url: str) -> SftpBackend:
    """Log in where a store is, or shall be.

    Args:
        url: ``sftp://[user@]host[:port]/path``; the path is absolute. *host* may be an alias of
            ``~/.ssh/config``.

    Raises:
        StoreError: reason ``bad-store-url`` or ``store-unreachable``.
        HostKeyError: The host's key is not known or has changed.
        LoginError: No key was accepted.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise StoreError(f"{url!r}: {exc}", reason="bad-store-url") from exc
    if parts.scheme != "sftp" or not parts.hostname or parts.path in ("", "/"):
        raise StoreError(f"{url!r} is not sftp://[user@]host[:port]/path", reason="bad-store-url")
    if parts.password is not None or parts.query or parts.fragment:
        raise StoreError(
            "a store's URL holds no password, query or fragment; use a key or the agent",
            reason="bad-store-url",
        )
    # urlsplit makes the host lower-case, an alias of the configuration may not be.
    host = parts.netloc.rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    user = unquote(parts.username) if parts.username else None
    if host.startswith("-") or (user or "").startswith("-"):
        raise StoreError(f"{url!r}: host and user may not begin with -", reason="bad-store-url")
    return SftpBackend(Destination(host, user), port, unquote(parts.path).rstrip("/"))


class SftpBackend:
    """Objects as files below a directory of another host; a `Backend`."""

    def __init__(self, destination: Destination, port: int | None, root: str) -> None:
        shown = f"{destination}:{port}" if port is not None else str(destination)
        self._url = f"sftp://{shown}{root}"
        self._root = root
        self._sessions = _Sessions(destination, SshOptions(port=port), self._url)

    @property
    def url(self) -> str:
        """See `Backend`."""
        return self._url

    def put(self, name: str, data: bytes | bytearray | memoryview, *, replace: bool = True) -> bool:
        """See `Backend`. Durable as far as the server's ``fsync@openssh.com`` goes."""
        require_name(name)
        view = memoryview(data).cast("B")
        require_writable_size(name, view.nbytes)
        path = self._path(name)
        folder, _, last = path.rpartition("/")
        temporary = f"{folder}/.{last[:100]}.{secrets.token_hex(8)}"
        with self._sessions.borrowed(name) as sftp:
            if not replace and _exists(sftp, path):
                return False
            _write_file(sftp, temporary, view)
            try:
                if replace:
                    sftp.posix_rename(temporary, path)
                    return True
                # Version 3 says that a rename does not replace; OpenSSH makes a hard link for it,
                # so that of two writers one wins.
                sftp.rename(temporary, path)
            except OSError:
                taken = not replace and _exists(sftp, path)
                with contextlib.suppress(OSError):
                    sftp.remove(temporary)
                if not taken:
                    raise
                return False
        return True

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Backend`."""
        require_name(name)
        with self._sessions.borrowed(name) as sftp:
            try:
                file = sftp.open(self._path(name), "rb")
            except FileNotFoundError:
                raise missing(name) from None
            with file:
                size = file.stat().st_size
                wanted = wanted_length(name, -1 if size is None else size, offset, length)
                if not wanted:
                    return b""
                try:
                    # All pieces are asked for at once; they are small because the library puts
                    # each one together by copying what it has with each answer.
                    end = offset + wanted
                    pieces = range(offset, end, _PIECE)
                    data = b"".join(file.readv([(at, min(_PIECE, end - at)) for at in pieces]))
                except EOFError:
                    data = b""
        if len(data) != wanted:
            raise short(name, offset, wanted, offset + len(data))
        return data

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Backend`."""
        require_prefix(prefix)
        # Collected first: a session is not kept while the caller thinks about each.
        with self._sessions.borrowed(prefix or "/") as sftp:
            found = list(self._walk(sftp, "", prefix, 3))
        yield from found

    def _walk(
        self, sftp: paramiko.SFTPClient, folder: str, prefix: str, depth: int
    ) -> Iterator[Entry]:
        try:
            listing = sftp.listdir_attr(self._path(folder))
        except FileNotFoundError:
            return
        for item in listing:
            if "/" in item.filename:
                believed(f"/{item.filename}", 0, self._url)
            name = f"{folder}/{item.filename}" if folder else item.filename
            kind = item.st_mode or 0
            # Neither above what is wanted nor below it: somebody else's, or another part.
            if not believed(name, item.st_size, self._url) or not (
                begins_with(name, prefix) or begins_with(prefix, name)
            ):
                continue
            if stat.S_ISDIR(kind) and depth > 1:
                yield from self._walk(sftp, name, prefix, depth - 1)
            elif stat.S_ISREG(kind) and begins_with(name, prefix):
                yield Entry(name, item.st_size or 0)

    def remove(self, name: str) -> None:
        """See `Backend`."""
        require_name(name)
        with (
            self._sessions.borrowed(name) as sftp,
            contextlib.suppress(FileNotFoundError),
        ):
            sftp.remove(self._path(name))

    def close(self) -> None:
        """See `Backend`."""
        self._sessions.close()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _exists(sftp: paramiko.SFTPClient, path: str) -> bool:
    try:
        sftp.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _write_file(sftp: paramiko.SFTPClient, path: str, view: memoryview) -> None:
    """Make a new file with these bytes; when that fails there is none."""
    try:
        file = sftp.open(path, "wx")
    except FileNotFoundError:
        _make_folders(sftp, path.rpartition("/")[0])
        file = sftp.open(path, "wx")
    try:
        with file:
            file.chmod(0o600)
            # Many requests under way; the last one waits for the answers to all of them, so that
            # none that reports a full disk goes unread.
            file.set_pipelined(True)
            for at in range(0, len(view) - _LAST_WRITE, _PIECE):
                file.write(bytes(view[at : min(at + _PIECE, len(view) - _LAST_WRITE)]))
            file.set_pipelined(False)
            file.write(bytes(view[-_LAST_WRITE:]))
            _sync(sftp, file)
            written = file.stat().st_size
        if written != view.nbytes:
            raise StoreError(
                f"{path}: {view.nbytes} bytes were written, the server kept {written}",
                reason="store-protocol",
            )
    except BaseException:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            sftp.remove(path)
        raise


def _sync(sftp: paramiko.SFTPClient, file: paramiko.SFTPFile) -> None:
    """``fsync@openssh.com``; the library has no method for it."""
    try:
        cast(Any, sftp)._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)
    except OSError as exc:
        # The library knows no error number for SSH_FX_OP_UNSUPPORTED: the server has no such call.
        if exc.errno is not None or "unsupported" not in str(exc).lower():
            raise


def _make_folders(sftp: paramiko.SFTPClient, path: str) -> None:
    """Like ``mkdir -p``. Another writer may do the same at the same time."""
    above = path.rpartition("/")[0]
    if above and not _exists(sftp, above):
        _make_folders(sftp, above)
    try:
        sftp.mkdir(path, 0o700)
    except OSError:
        if not _exists(sftp, path):
            raise


class _Sessions:
    """A few SFTP sessions over one connection, made as needed and again after it broke."""

    def __init__(self, destination: Destination, options: SshOptions, url: str) -> None:
        self._destination, self._options, self._url = destination, options, url
        self._places = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lock = threading.Lock()
        self._closed = False
        self._connection: SshConnection | None = None
        self._idle: list[tuple[SshConnection, paramiko.SFTPClient]] = []
        self._connected()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._idle.clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def borrowed(self, what: str) -> Iterator[paramiko.SFTPClient]:
        """A session for this thread. Failures become `StoreError`, named after *what*."""
        with self._places, _explained(f"{self._url}: {what}"):
            connection, sftp = self._take()
            try:
                yield sftp
            except BaseException as exc:
                if _is_broken(exc):
                    self._drop(connection)
                elif _was_answered(exc):
                    self._give_back(connection, sftp)
                else:
                    sftp.close()
                raise
            else:
                self._give_back(connection, sftp)

    def _take(self) -> tuple[SshConnection, paramiko.SFTPClient]:
        connection = self._connected()
        with self._lock:
            while self._idle:
                of, sftp = self._idle.pop()
                if of is connection:
                    return of, sftp
        try:
            return connection, connection.sftp(ANSWER_TIMEOUT_S)
        except TransportError:
            self._drop(connection)
            raise

    def _give_back(self, connection: SshConnection, sftp: paramiko.SFTPClient) -> None:
        with self._lock:
            if connection is self._connection:
                self._idle.append((connection, sftp))

    def _drop(self, connection: SshConnection) -> None:
        connection.close()
        with self._lock:
            if connection is self._connection:
                self._connection = None
                self._idle.clear()

    def _connected(self) -> SshConnection:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._url} is closed")
            if self._connection is not None and self._connection.is_alive():
                return self._connection
            self._idle.clear()
            try:
                self._connection = connect(self._destination, self._options)
            except (HostKeyError, LoginError):
                raise
            except TransportError as exc:
                raise StoreError(f"{self._url}: {exc}", reason="store-unreachable") from exc
            return self._connection


def _is_broken(exc: BaseException) -> bool:
    """Whether the whole connection is gone."""
    if isinstance(exc, paramiko.SSHException | EOFError | ConnectionError):
        return True
    # paramiko's "Socket is closed" has no error number, as all that servers refuse.
    return isinstance(exc, OSError) and exc.errno is None and "is closed" in str(exc)


def _was_answered(exc: BaseException) -> bool:
    """Whether the session can be asked again: each request had its answer, and it made sense."""
    if isinstance(exc, StoreError):
        return exc.reason != "store-protocol"
    return isinstance(exc, OSError) and not isinstance(exc, TimeoutError)


@contextlib.contextmanager
def _explained(subject: str) -> Iterator[None]:
    try:
        yield
    except TransportError as exc:
        if isinstance(exc, HostKeyError | LoginError):
            raise
        raise StoreError(f"{subject}: {exc}", reason="store-unreachable") from exc
    except TimeoutError as exc:
        raise StoreError(
            f"{subject}: no answer for {ANSWER_TIMEOUT_S:g} s", reason="store-unreachable"
        ) from exc
    except paramiko.SFTPError as exc:
        raise StoreError(f"{subject}: {exc}", reason="store-protocol") from exc
    except PermissionError as exc:
        raise StoreError(f"{subject}: permission denied there", reason="store-denied") from exc
    except FileNotFoundError as exc:
        raise StoreError(f"{subject}: no such file or directory there") from exc
    except (paramiko.SSHException, EOFError, OSError) as exc:
        if _is_broken(exc):
            raise StoreError(
                f"{subject}: connection lost: {exc or 'the server hung up'}",
                reason="store-unreachable",
            ) from exc
        raise StoreError(f"{subject}: {exc}") from exc
