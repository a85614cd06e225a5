"""Classic BPF programs attached to sockets that are not UNIX sockets."""

from __future__ import annotations

import socket

from runtime.engine.files.kind import Look
from runtime.engine.files.socket_options import SO_LOCK_FILTER
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel.socket_filter import get_filter, set_filter

REFUSED = (("socket-bpf", "an extended BPF program attached to a socket"),)


def read_filter(table: FileTable, look: Look, sock: socket.socket) -> tuple[bytes, bool] | None:
    """A socket's filter and whether it is locked; None after refusing it."""
    try:
        program = get_filter(sock.fileno())
    except PermissionError:
        table.refuse(look, "socket-bpf", "has an extended BPF program, which cannot be read")
        return None
    return program, bool(sock.getsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER))


def restore_filter(sock: socket.socket, program: bytes, *, locked: bool) -> None:
    """Attach a filter; afterwards the program itself may change it only if it could before.

    Raises:
        OSError: The kernel refused it.
        RestoreError: It is malformed.
    """
    if program:
        try:
            set_filter(sock.fileno(), program)
        except ValueError as exc:
            raise RestoreError(f"socket filter: {exc}", reason="image-inconsistent") from exc
    if locked:
        sock.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
