"""Descriptors that came from outside: the standard streams that a container was started with."""

from __future__ import annotations

import os
from collections.abc import Sequence

from formats.records.files import ExternalFile
from runtime.engine.api import StdioIdentity
from runtime.engine.files.given import duplicate, inherited
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable

SAVED = (
    (
        "standard streams",
        "those the container was given, which a restore gives anew; those of an `exec` session "
        "become /dev/null, for its caller does not come along",
    ),
)

STREAMS = ("stdin", "stdout", "stderr")
_GONE = "an exec session's caller does not come along: its standard streams become /dev/null"


class External(Kind):
    """A standard stream of the container; a restore gives its own in its place."""

    name = "standard streams from outside"
    rank = 5
    record = ExternalFile
    own_flags = False

    def matches(self, table: FileTable, look: Look) -> bool:
        return stream_of(table, look) is not None or session_stream_of(table, look) is not None

    def dump(self, table: FileTable, look: Look, file_id: int) -> ExternalFile | None:
        stream, session = stream_of(table, look), False
        if stream is None:
            stream, session = session_stream_of(table, look), True
            table.once("exec-stdio", lambda: table.context.warnings.append(_GONE))
        assert stream is not None
        return ExternalFile(
            file_id=file_id,
            name=STREAMS[stream],
            flags=look.flags,
            description=look.link,
            session=session,
        )

    def restore(self, files: RestoredFiles, record: ExternalFile) -> int:
        given = inherited(files, record.description)
        if given is not None:
            return duplicate(given, record)
        if record.session:
            return os.open(os.devnull, record.flags & os.O_ACCMODE | os.O_CLOEXEC)
        return os.dup(files.stdio[STREAMS.index(record.name)])


def stream_of(table: FileTable, look: Look) -> int | None:
    """Which standard stream of the container *look* is, if any."""
    return _index_in(table.context.target.stdio, table, look)


def session_stream_of(table: FileTable, look: Look) -> int | None:
    """Which standard stream of an exec session, if any."""
    found = (_index_in(stdio, table, look) for stdio in table.context.target.session_stdio)
    return next((stream for stream in found if stream is not None), None)


def _index_in(stdio: Sequence[StdioIdentity | None], table: FileTable, look: Look) -> int | None:
    if look.link.startswith("/") and table.mounts.holds(look.info.mount_id):
        return None
    same = [
        index
        for index, identity in enumerate(stdio)
        if identity is not None
        and (identity.device, identity.inode) == (look.stat.st_dev, look.stat.st_ino)
    ]
    if not same:
        return None
    return look.fd if look.fd in same else same[0]
