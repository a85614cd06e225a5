"""State files: an image as a single file, which appears under its name only when complete.

Secrets live in memory images, so a state file is 0600 from its first byte. While it is written it
has no name at all (``O_TMPFILE``): a killed writer leaves nothing behind. File systems without
that get a hidden temporary file next to the target, which `StateFile` removes unless it is
committed.

The writer and the reader of the bytes are `ImageWriter` and `ImageReader`, here for convenience.
"""

from __future__ import annotations

import contextlib
import errno
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from formats.chunks import Chunk
from formats.errors import ImageError, ImageWriteError
from formats.frames import Source
from formats.limits import CHUNK_SIZE
from formats.manifest import ImageSummary
from formats.reader import ImageReader
from formats.sealed_file import SealedFile, Unlock, is_sealed
from formats.writer import ImageWriter, Sink

__all__ = [
    "CHUNK_SIZE",
    "Chunk",
    "ImageReader",
    "ImageSummary",
    "ImageWriter",
    "Sink",
    "Source",
    "StateFile",
    "is_sealed",
    "open_image",
    "verify_file",
    "verify_image",
]

_MODE = 0o600
# What open(2) answers where O_TMPFILE is not to be had; EISDIR comes from kernels that predate it.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


class StateFile:
    """A state file being written; a `Sink`, and a context manager.

    Leaving the context without `commit` leaves no trace of the file; an older file under the same
    name stays as it was.

    Args:
        path: Where the image is to appear. An existing file is replaced, atomically, by `commit`.

    Raises:
        ImageWriteError: The directory is missing or not writable, *path* is a directory, or the
            disk is full. The sentence names the path.

    Source: man 2 open (O_TMPFILE), man 2 linkat, man 2 rename.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1
        self._directory = -1
        self._temporary: str | None = None  # its name, when it has one

    def __enter__(self) -> Self:
        try:
            self._open()
        except OSError as exc:
            self._discard()
            raise self._failure("create", exc) from exc
        return self

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append bytes; the count written, as write(2)."""
        try:
            return os.write(self._fd, data)
        except OSError as exc:
            raise self._failure("write", exc) from exc

    def fileno(self) -> int:
        """The descriptor, open for writing."""
        return self._fd

    def commit(self) -> None:
        """Make the file durable, then give it its name, then make the name durable.

        Raises:
            ImageWriteError: Nothing has appeared under the name, or, when only the last step
                failed, the name may not survive a power cut.
        """
        try:
            os.fsync(self._fd)
            self._publish()
            os.fsync(self._directory)
        except OSError as exc:
            raise self._failure("complete", exc) from exc
        finally:
            self._discard()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def _open(self) -> None:
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Opened through the descriptor, so that a directory renamed meanwhile changes nothing.
            self._fd = os.open(
                ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, _MODE, dir_fd=self._directory
            )
        except OSError as exc:
            if exc.errno not in _NO_TMPFILE:
                raise
            self._open_named()

    def _open_named(self) -> None:
        name = self._hidden_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        self._fd = os.open(name, flags, _MODE, dir_fd=self._directory)
        self._temporary = name

    def _publish(self) -> None:
        if self._temporary is None:
            # linkat(2) never replaces, rename(2) does: so the file gets a hidden name first.
            name = self._hidden_name()
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=self._directory)
            self._temporary = name
        os.rename(
            self._temporary,
            self.path.name,
            src_dir_fd=self._directory,
            dst_dir_fd=self._directory,
        )
        self._temporary = None

    def _hidden_name(self) -> str:
        # The name is cut so that a long one cannot pass NAME_MAX with what is added to it.
        return f".{self.path.name[:60]}.{os.urandom(8).hex()}.tmp"

    def _discard(self) -> None:
        """Close everything and remove the temporary name. Idempotent."""
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._directory)
            self._temporary = None
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1

    def _failure(self, step: str, exc: OSError) -> ImageWriteError:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "disk-full" if full else "image-write"
        return ImageWriteError(
            f"{self.path}: cannot {step} the image: {exc.strerror}", reason=reason
        )


def open_image(path: str | os.PathLike[str], unlock: Unlock | None = None) -> FileIO:
    """Open an image for reading, unbuffered: `ImageReader` asks for whole frames.

    Args:
        path: The state file.
        unlock: Finds the key of an encrypted one. Without it, its reader refuses it by name.

    Raises:
        ImageError: It cannot be opened (reason ``image-unreadable``); names the path.
    """
    try:
        if unlock is not None:
            with open(path, "rb", buffering=0) as source:
                sealed = is_sealed(source)
            if sealed:
                return SealedFile(path, unlock)
        return open(path, "rb", buffering=0)
    except ImageError as exc:
        name = Path(path).name
        raise type(exc)(f"{name}: {exc}", reason=exc.reason) from exc.__cause__
    except OSError as exc:
        raise ImageError(
            f"{os.fspath(path)}: cannot open the image: {exc.strerror}", reason="image-unreadable"
        ) from exc


def verify_image(
    source: Source, *, name: str | None = None, workers: int = 2, decode: bool = True
) -> ImageSummary:
    """Read a whole image and check all of it.

    Checked are every head, every body's digest, every chunk's name after decompression, every
    record's types, the index and the root digest.

    Args:
        source: The image, at its start.
        name: What errors call it.
        workers: Threads that unpack chunks.
        decode: Check the types of records. Who has packed them a moment ago knows these: that the
            digests are right is enough.

    Raises:
        ImageError: What is wrong, with the image's name.
    """
    reader = ImageReader(source, name=name)
    if decode:
        reader.records()
    reader.for_each_chunk(lambda chunk, plain: None, workers=workers, check_ids=True)
    return reader.finish()


def verify_file(
    path: str | os.PathLike[str],
    *,
    workers: int = 2,
    decode: bool = True,
    unlock: Unlock | None = None,
) -> ImageSummary:
    """`verify_image` of a file; *unlock* as for `open_image`."""
    with open_image(path, unlock) as source:
        return verify_image(source, workers=workers, decode=decode)
