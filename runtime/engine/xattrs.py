"""Extended attributes that go into an image."""

from __future__ import annotations

import errno
import os

# Marks of an index of hard links, which points at other inodes by file handle. The origin of a
# copied-up file, such a handle too, goes along: where the lower layer is another file system than
# it names, the kernel looks past it; where it is the same, the file keeps the lower one's number.
_LEFT_OUT = frozenset(
    f"{prefix}.overlay.{name}"
    for prefix in ("trusted", "user")
    for name in ("uuid", "nlink", "upper", "index")
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
