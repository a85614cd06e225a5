"""Zombies: stubs that end the way a process of the image has ended."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path

from formats.records.task import Process
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.engine.restore_threads import restore_ids
from runtime.engine.restore_tree import end_task
from runtime.kernel.prctl import PR_SET_DUMPABLE, PR_SET_NAME

log = logging.getLogger(__name__)

SAVED = (("processes", "zombies with their user, name and status, also that they dumped core"),)

CORE_DUMPED = 0x80  # in a wait status, man 2 wait
RLIMIT_CORE = 4
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def end_zombie(task: NewTask, record: Process, channel: socket.socket) -> None:
    """Let a stub end as its record says; its parent is told as for any child."""
    if record.credentials is not None:
        restore_ids(task, record.credentials)
    task.call("prctl", PR_SET_NAME, record.comm + b"\0")
    if not record.exit_status & CORE_DUMPED or not record.exit_status & 0x7F:
        end_task(task, record.exit_status)
        return
    # Only a program that really dumps core gets the bit: an empty one, where nobody sees it.
    directory = tempfile.mkdtemp(prefix="wherry-core-")
    try:
        if _goes_to_working_directory():
            _prepare_core(task, channel, directory)
        else:
            log.warning("process %d: cannot be said to have dumped core again", record.pid)
        end_task(task, record.exit_status & ~CORE_DUMPED)
    finally:
        shutil.rmtree(directory)


def _goes_to_working_directory() -> bool:
    """Whether the kernel writes core files where a program is, and calls nobody."""
    pattern = _CORE_PATTERN.read_text().strip()
    return bool(pattern) and pattern[0] not in "|@/" and "/" not in pattern


def _prepare_core(task: NewTask, channel: socket.socket, directory: str) -> None:
    Path(f"/proc/{task.pid}/coredump_filter").write_text("0")
    os.chmod(directory, 0o777)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (number,) = task.receive(channel, [fd])
    finally:
        os.close(fd)
    batch = Batch()
    batch.call("fchdir", number)
    limits = batch.out(16)
    batch.call("prlimit64", 0, RLIMIT_CORE, 0, limits)
    hard = struct.unpack("<QQ", task.do(batch).read(limits))[1]
    batch = Batch()
    batch.call("prlimit64", 0, RLIMIT_CORE, struct.pack("<QQ", hard, hard), 0)
    batch.call("prctl", PR_SET_DUMPABLE, 1)
    task.do(batch)
