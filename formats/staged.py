"""Images that build upon others which the reader has taken in before: the rounds of a migration.

Such an image has the incompatible feature ``staged-memory``. It is a state file in all else; its
records `Staged` say which content is not in its chunks because a round has brought it, and
`Staging` names all rounds by their root digests. A round is an image without records.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator, Sequence

from formats.errors import ImageCorruptError
from formats.header import STAGED_MEMORY
from formats.limits import MAX_BLOB_SIZE
from formats.reader import ImageReader
from formats.records.memory import Staged
from formats.writer import ImageWriter

Range = tuple[int, int]  # start, end: byte addresses

PAGE_SIZE = 4096
MAX_ADDRESS = 1 << 57  # with five levels of page tables
_MAX_RANGES = MAX_BLOB_SIZE // 16


class StagedImageWriter(ImageWriter):
    """As ImageWriter, for an image that builds upon rounds."""

    _incompatible = STAGED_MEMORY


class StagedImageReader(ImageReader):
    """As ImageReader, for whoever has taken in the rounds that an image may build upon."""

    _understood = STAGED_MEMORY


def staged_records(object_id: int, staged_id: int, ranges: Sequence[Range]) -> Iterator[Staged]:
    """The records for the staged content of an object; none when there is none."""
    for packed in pack_ranges(ranges):
        yield Staged(object_id, staged_id, packed)


def ranges_of(record: Staged) -> list[Range]:
    """The ranges of a record.

    Raises:
        ImageCorruptError: They are not as they have to be.
    """
    return unpack_ranges(record.ranges, record.object_id)


def pack_ranges(ranges: Sequence[Range]) -> Iterator[bytes]:
    """Ranges as records carry them, each piece small enough for one; none when there is none."""
    for first in range(0, len(ranges), _MAX_RANGES):
        part = ranges[first : first + _MAX_RANGES]
        words = array.array("Q", [word for pair in part for word in pair])
        if sys.byteorder == "big":
            words.byteswap()
        yield words.tobytes()


def unpack_ranges(packed: bytes, object_id: int) -> list[Range]:
    """The reverse of `pack_ranges`, for one piece.

    Args:
        packed: From a record or a message.
        object_id: For the message.

    Raises:
        ImageCorruptError: They are not as they have to be.
    """
    words = array.array("Q")
    if len(packed) % 16:
        raise _bad(object_id)
    words.frombytes(packed)
    if sys.byteorder == "big":
        words.byteswap()
    found = list(zip(words[::2], words[1::2], strict=True))
    last = 0
    for start, end in found:
        if start < last or end <= start or (start | end) % PAGE_SIZE:
            raise _bad(object_id)
        last = end
    if last > MAX_ADDRESS:
        raise _bad(object_id)
    return found


def _bad(object_id: int) -> ImageCorruptError:
    return ImageCorruptError(f"the ranges of object {object_id} are malformed")
