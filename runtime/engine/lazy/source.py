"""Where the content of memory comes from while, or after, a program is restored lazily."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

Buffer = bytes | bytearray | memoryview
Range = tuple[int, int]  # start, end: byte addresses
FAR = 1 << 60
"""Added to an address of content that takes longer to come than what has no such mark, so that
nobody who waits for the one waits for the other; above all addresses of programs."""


class PageSource(Protocol):
    """Contents of address spaces, by address. Objects are address spaces: their ``mm_id``."""

    def runs(self, object_id: int) -> Sequence[Range]:
        """Which addresses of an address space have content here.

        Returns:
            Ascending but for `FAR`, which some may have, page-aligned, neither overlapping nor
            adjacent; empty for an object that is not known. All other memory of a private mapping
            reads as zeros.
        """

    def read(self, object_id: int, start: int, length: int) -> Buffer:
        """The content from address *start* on, all of it checked.

        Called in several threads at once; whoever asks for memory near to what was asked for before
        is answered faster. A writable view is best: it goes to the kernel without a copy.

        Args:
            object_id: Of the address space.
            start: Byte address, page-aligned, with `FAR` if its run has it.
            length: Bytes, whole pages; all within one run.

        Raises:
            WherryError, OSError: It cannot be had, or is not what it should be. The program that
                needs it cannot go on then.
        """

    def kept_fds(self) -> Iterable[int]:
        """The descriptors that `read` works with, in a process that has just been forked."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


@runtime_checkable
class FarSource(PageSource, Protocol):
    """Contents that are still where the program comes from."""

    def expect(self, runs: Mapping[int, Sequence[Range]]) -> None:
        """Told what the image leaves out, by address space, before anything else."""

    def open(self, directory: Path) -> None:
        """Get ready, in the process that builds the container in *directory*."""

    def leave(self) -> None:
        """Let go in that process, when it has built the container; `read` works in others."""

    def complete(self, faults: int, filled_bytes: int) -> None:
        """All of it is there, in the process that has called `read`.

        Args:
            faults: How often somebody had to wait.
            filled_bytes: What was handed in.
        """

    def lost(self, sentence: str) -> None:
        """It cannot be had, and the container is about to be killed; in another process still.

        Args:
            sentence: Why.
        """
