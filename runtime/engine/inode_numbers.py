"""Inode numbers that a restored tree gets: those that its files had, where the file system lets us.

``aim`` says which number the file to be made next had; what it gets is up to the file system:

* An ext4 that is the container's own takes any number, in any order.
* A tmpfs hands out one number after the other, and never one again. So files are made in the order
  of their numbers, and what lies between two of them is used up by files that nobody sees.
* Any other gives what it gives.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Protocol

from runtime.kernel.ext4 import goal_file

log = logging.getLogger(__name__)

# How many numbers of one tmpfs are used up at most; each takes some microseconds.
_MAX_GAPS = 1 << 18
# How many follow the last file's before a new file gets one: the program may remember numbers of
# files that it has removed.
_SPARE = 256


class Numbers(Protocol):
    """Chooses the numbers of what is made in one file system.

    Attributes:
        ascending: Whether it can only go upwards.
    """

    ascending: bool

    def aim(self, number: int) -> None:
        """The next file to be made had this number; 0 if that is not known."""

    def made(self, number: int) -> None:
        """The number that the file has got."""

    def close(self) -> None:
        """From now on the file system chooses."""


class AnyNumbers:
    """Those that the file system gives."""

    ascending = False

    def aim(self, number: int) -> None:
        """Nothing can be done."""

    def made(self, number: int) -> None:
        """As good as any."""

    def close(self) -> None:
        """Nothing was changed."""


class Ext4Numbers:
    """The goal of an ext4 that nobody else makes files in meanwhile.

    Args:
        device: The st_dev of a file in it.

    Raises:
        OSError: It is no ext4.
    """

    ascending = False

    def __init__(self, device: int) -> None:
        self._goal = os.open(goal_file(device), os.O_WRONLY | os.O_CLOEXEC)

    def aim(self, number: int) -> None:
        """Let the next file have this number."""
        # A number beyond the end of this file system, or one of its own, is no goal.
        if 0 <= number < 1 << 32:
            os.pwrite(self._goal, b"%d" % number, 0)

    def made(self, number: int) -> None:
        """Nothing follows from it."""

    def close(self) -> None:
        """Leave it to the kernel again."""
        os.pwrite(self._goal, b"0", 0)
        os.close(self._goal)


class TmpfsNumbers:
    """The counter of a tmpfs that nobody else makes files in meanwhile.

    Args:
        top: A descriptor of a directory in it.

    Source: shmem_reserve_inode in mm/shmem.c.
    """

    ascending = True

    def __init__(self, top: int) -> None:
        self._top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
        self._left = _MAX_GAPS
        # Asking the counter would take a number: the youngest file tells it too.
        self._last = max(_numbers_below(self._top))

    def aim(self, number: int) -> None:
        """Use up what lies before this number, unless that is too much."""
        gap = number - self._last - 1
        if gap > self._left:
            log.warning("inode numbers of a tmpfs up to %d are too many to repeat", number)
            self._left = 0  # further ones are higher still
            return
        self._left -= max(gap, 0)
        self._use_up(gap)

    def made(self, number: int) -> None:
        """What was made has got this number."""
        self._last = number

    def close(self) -> None:
        """Leave some room behind the last file."""
        self._use_up(_SPARE)
        os.close(self._top)

    def _use_up(self, count: int) -> None:
        """Make files that have no name, and drop them."""
        flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
        # A tmpfs may be full: a number is not worth a failure.
        with contextlib.suppress(OSError):
            for _ in range(count):
                os.close(os.open(".", flags, 0o600, dir_fd=self._top))


def _numbers_below(top: int, depth: int = 16) -> Iterator[int]:
    """The numbers of a directory and of what is in it, also of what is mounted over.

    Args:
        top: The directory.
        depth: How deep to look: deeper than what a sandbox makes, not deeper than Python recurses.
    """
    status = os.fstat(top)
    yield status.st_ino
    with os.scandir(top) as entries:
        for entry in entries:
            yield entry.inode()
            if depth and entry.is_dir(follow_symlinks=False):
                below = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    if os.fstat(below).st_dev == status.st_dev:
                        yield from _numbers_below(below, depth - 1)
                finally:
                    os.close(below)
