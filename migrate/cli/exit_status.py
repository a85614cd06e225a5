"""Wait statuses as exit statuses, the way a shell reports them."""

from __future__ import annotations

import os


def shell_status(wait_status: int) -> int:
    """The exit status for a wait status: the program's own, or 128 plus the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code
