"""Images of which a part is still where they come from: those of a post-copy migration.

Such an image has the incompatible feature ``pages-elsewhere``. It is a state file in all else; its
records `Elsewhere` say which content of which address spaces is not in its chunks, since whoever
reads it will ask for it later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from formats.errors import ImageCorruptError
from formats.header import PAGES_ELSEWHERE, STAGED_MEMORY
from formats.reader import ImageReader
from formats.records.codec import Record
from formats.records.memory import Elsewhere
from formats.staged import Range, pack_ranges, unpack_ranges
from formats.writer import ImageWriter


class ElsewhereImageWriter(ImageWriter):
    """As ImageWriter, for an image of which a part is asked for later."""

    _incompatible = PAGES_ELSEWHERE


class ElsewhereImageReader(ImageReader):
    """As ImageReader, for whoever can ask for the missing part."""

    _understood = PAGES_ELSEWHERE


class LateImageWriter(ImageWriter):
    """As ImageWriter, for an image that builds upon rounds and leaves a part for later."""

    _incompatible = STAGED_MEMORY | PAGES_ELSEWHERE


class LateImageReader(ImageReader):
    """As ImageReader, for whoever has taken rounds in and can ask for what is missing."""

    _understood = STAGED_MEMORY | PAGES_ELSEWHERE


def elsewhere_records(mm_id: int, ranges: Sequence[Range]) -> Iterator[Elsewhere]:
    """The records for what of an address space is asked for later; none when there is none."""
    for packed in pack_ranges(ranges):
        yield Elsewhere(mm_id, packed)


def elsewhere_in(records: Iterable[Record]) -> dict[int, list[Range]]:
    """What an image leaves out, by address space; adjacent ranges as one.

    Raises:
        ImageCorruptError: The ranges are not as they have to be.
    """
    found: dict[int, list[Range]] = {}
    for record in records:
        if not isinstance(record, Elsewhere):
            continue
        known = found.setdefault(record.mm_id, [])
        for start, end in unpack_ranges(record.ranges, record.mm_id):
            if known and start < known[-1][1]:
                raise ImageCorruptError(f"the ranges of object {record.mm_id} are malformed")
            if known and start == known[-1][1]:
                known[-1] = (known[-1][0], end)
            else:
                known.append((start, end))
    return found
