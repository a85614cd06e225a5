"""A short-lived copy of ourselves in other namespaces, for what only somebody there may do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime.kernel.namespaces import setns


def call_away(fds: Sequence[int], action: Callable[[], bytes]) -> bytes:
    """Join namespaces in a forked process, and call *action* there.

    Args:
        fds: Namespace descriptors, joined in this order; user namespaces may be among them.
        action: Plain Python that starts nothing and imports nothing; at most 64 KiB of answer.

    Raises:
        OSError: What *action* or joining raised.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_away(fds, action, writer)
    os.close(writer)
    try:
        answer = b""
        while piece := os.read(reader, 65536):
            answer += piece
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    error = int.from_bytes(answer[:4], "little")
    if error or not answer:
        raise OSError(error, f"{os.strerror(error)}: {os.fsdecode(answer[4:])}")
    return answer[4:]


def _be_away(fds: Sequence[int], action: Callable[[], bytes], writer: int) -> NoReturn:
    try:
        for fd in fds:
            setns(fd, 0)
        os.write(writer, bytes(4) + action())
    except OSError as exc:
        os.write(writer, (exc.errno or 0).to_bytes(4, "little") + str(exc).encode())
    finally:
        os._exit(0)
