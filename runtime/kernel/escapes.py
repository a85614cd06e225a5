"""The octal escapes that /proc uses for white space and backslashes in paths."""

from __future__ import annotations

import os

_ESCAPED = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\043", b"#"))


def unescape(path: bytes) -> str:
    """The path behind its escaped form in /proc/PID/maps and mountinfo.

    Source: fs/seq_file.c, mangle_path(), and its callers' lists of characters.
    """
    if b"\\" in path:
        for escaped, plain in _ESCAPED:
            path = path.replace(escaped, plain)
        # Last, for a backslash that stands for itself must not begin an escape.
        path = path.replace(b"\\134", b"\\")
    return os.fsdecode(path)
