"""Device numbers of file systems without a block device: overlays, tmpfs and the like."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from runtime.kernel.mount import fsconfig_create, fsmount, fsopen

_MOST = 256  # file systems made to get at a number


@contextlib.contextmanager
def next_device(wanted: int) -> Iterator[None]:
    """Let the next file system that is made have a certain st_dev, if that can be.

    The kernel gives the lowest number that is free. So file systems that nobody sees have the lower
    ones for as long as this lasts. Nothing happens when the number is taken, or too far away.

    Args:
        wanted: An st_dev; 0, or that of a block device, is none to wish for.

    Source: get_anon_bdev in fs/super.c.
    """
    with contextlib.ExitStack() as held:
        if 0 < wanted < 1 << 32 and not os.major(wanted):
            with contextlib.suppress(OSError):
                _take_below(wanted, held)
        yield


def _take_below(wanted: int, held: contextlib.ExitStack) -> None:
    for _ in range(_MOST):
        fd = _file_system()
        device = os.fstat(fd).st_dev
        if device >= wanted:
            os.close(fd)  # the wanted one is free again, or was never
            return
        held.callback(os.close, fd)
    held.close()


def _file_system() -> int:
    context = fsopen("tmpfs")
    try:
        fsconfig_create(context)
        return fsmount(context)
    finally:
        os.close(context)
