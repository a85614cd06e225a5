"""Extended attributes that go into an image."""

from __future__ import annotations

import errno
import os

# Marks that point at the lower layer by file handle: on another host they would lie.
_LEFT_OUT = frozenset(
    f"{prefix}.overlay.{name}"
    for prefix in ("trusted", "user")
    for name in ("origin", "uuid", "nlink", "upper", "index")
)


def read_xattrs(path: str, *, follow_symlinks: bool = False) -> tuple[tuple[str, bytes], ...]:
    """Every extended attribute of a file that means something elsewhere too; man 7 xattr."""
    try:
        names = os.listxattr(path, follow_symlinks=follow_symlinks)
        return tuple(
            (name, os.getxattr(path, name, follow_symlinks=follow_symlinks))
            for name in names
            if name not in _LEFT_OUT
        )
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:  # a file system without extended attributes
            return ()
        raise
