"""Inode numbers that a restored tree gets: those that its files had, where the file system lets us.

``aim`` says which number the file to be made next had; what it gets is up to the file system:

* An ext4 that is the container's own takes any number, in any order.
* Any other gives what it gives.
"""

from __future__ import annotations

import os
from typing import Protocol

from runtime.kernel.ext4 import goal_file


class Numbers(Protocol):
    """Chooses the numbers of what is made in one file system."""

    def aim(self, number: int) -> None:
        """The next file to be made had this number; 0 if that is not known."""

    def close(self) -> None:
        """From now on the file system chooses."""


class AnyNumbers:
    """Those that the file system gives."""

    def aim(self, number: int) -> None:
        """Nothing can be done."""

    def close(self) -> None:
        """Nothing was changed."""


class Ext4Numbers:
    """The goal of an ext4 that nobody else makes files in meanwhile.

    Args:
        device: The st_dev of a file in it.

    Raises:
        OSError: It is no ext4.
    """

    def __init__(self, device: int) -> None:
        self._goal = os.open(goal_file(device), os.O_WRONLY | os.O_CLOEXEC)

    def aim(self, number: int) -> None:
        """Let the next file have this number."""
        # A number beyond the end of this file system, or one of its own, is no goal.
        if 0 <= number < 1 << 32:
            os.pwrite(self._goal, b"%d" % number, 0)

    def close(self) -> None:
        """Leave it to the kernel again."""
        os.pwrite(self._goal, b"0", 0)
        os.close(self._goal)
