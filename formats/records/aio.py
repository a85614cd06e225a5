"""Asynchronous I/O contexts, io_setup(2)."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import record


@record("aio-ring")
@dataclass(frozen=True, slots=True)
class AioRing:
    """The ring through which a context gives its events to the program.

    Attributes:
        object_id: Id, which a mapping names.
        content: All of its bytes: ``struct aio_ring`` and the events, fs/aio.c.
        live: Whether the process can use the context; a child of its owner has the memory only.
    """

    object_id: int
    content: bytes
    live: bool
