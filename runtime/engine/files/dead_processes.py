"""Files of /proc that belong to processes which are gone.

Such a file stays open, and says ESRCH or nothing. A restore makes a process with that id for the
moment in which the file is opened.
"""

from __future__ import annotations

import os
import re

from formats.records.files import RegularFile
from runtime.engine.files.kind import Look
from runtime.engine.files.mounts import DELETED
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.helpers import end_helper, make_helper
from runtime.errors import RestoreError


def is_of_dead(table: FileTable, mount_point: str, look: Look) -> bool:
    """Whether a file of the /proc on *mount_point* is a dead process's."""
    path = look.link.removesuffix(DELETED).removeprefix(mount_point.rstrip("/"))
    return bool(re.match(r"/\d+(/|$)", path)) and not table.mounts.reaches(
        look.link.removesuffix(DELETED), look.stat
    )


def open_of_dead(files: RestoredFiles, record: RegularFile) -> int:
    """Open a file of a process that exists for this moment only."""
    numbers = re.findall(r"/(\d+)(?=/|$)", record.path)
    if not numbers:
        raise RestoreError(f"{record.path} is of no process", reason="image-inconsistent")
    helper = make_helper(files, int(numbers[0]))
    try:
        return files.open(record, record.flags)
    except OSError as exc:
        raise RestoreError(
            f"{record.path}: {os.strerror(exc.errno or 0)} when it was opened again",
            reason="file-missing",
        ) from exc
    finally:
        end_helper(files, helper)
