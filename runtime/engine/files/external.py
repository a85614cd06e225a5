"""Descriptors that came from outside: the standard streams that a container was started with."""

from __future__ import annotations

import os

from formats.records.files import ExternalFile
from runtime.engine.files.given import duplicate, inherited
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable

STREAMS = ("stdin", "stdout", "stderr")


class External(Kind):
    """A standard stream of the container; a restore gives its own in its place."""

    name = "standard streams from outside"
    rank = 5
    record = ExternalFile
    own_flags = False

    def matches(self, table: FileTable, look: Look) -> bool:
        return stream_of(table, look) is not None

    def dump(self, table: FileTable, look: Look, file_id: int) -> ExternalFile | None:
        stream = stream_of(table, look)
        assert stream is not None
        return ExternalFile(
            file_id=file_id,
            name=STREAMS[stream],
            flags=look.flags,
            description=look.link,
        )

    def restore(self, files: RestoredFiles, record: ExternalFile) -> int:
        given = inherited(files, record.description)
        if given is not None:
            return duplicate(given, record)
        return os.dup(files.stdio[STREAMS.index(record.name)])


def stream_of(table: FileTable, look: Look) -> int | None:
    """Which standard stream of the container *look* is, if any."""
    if look.link.startswith("/") and table.mounts.holds(look.info.mount_id):
        return None
    same = [
        index
        for index, identity in enumerate(table.context.target.stdio)
        if identity is not None
        and (identity.device, identity.inode) == (look.stat.st_dev, look.stat.st_ino)
    ]
    if not same:
        return None
    return look.fd if look.fd in same else same[0]
