"""Reading an image from its end: what it holds, without reading what it holds.

For a file that can seek. The end frame says where the index is; the index says where every chunk
is and what its bytes must be.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from io import BufferedReader, BytesIO, FileIO

from formats.errors import ImageCorruptError
from formats.frames import FrameReader, FrameType, Head, unpack_head
from formats.limits import MAX_INDEX_SIZE
from formats.manifest import (
    END_SIZE,
    ImageSummary,
    IndexEntry,
    for_each_entry,
    for_each_raw_entry,
    unpack_end,
)


class ImageIndex:
    """The end of an image.

    Args:
        source: A file that can seek, open for reading; its position is changed.

    Attributes:
        summary: The end frame's counts and root digest. `ImageReader.finish` compares them with
            the whole image; here only the file's size is compared.

    Raises:
        ImageCorruptError: The file does not end as an image does: truncated, followed by other
            bytes, or damaged.
    """

    def __init__(self, source: FileIO | BufferedReader | BytesIO) -> None:
        self._source = source
        size = source.seek(0, io.SEEK_END)
        if size < END_SIZE:
            raise _no_end(size)
        end, meta = self._read_end(size)
        self.summary: ImageSummary = unpack_end(meta)
        if self.summary.file_size != size or self.summary.index_frames > end.sequence:
            raise _no_end(size)
        self._first_sequence = end.sequence - self.summary.index_frames

    def for_each_entry(self) -> Iterator[IndexEntry]:
        """The chunks in stream order; ImageCorruptError when the index is damaged."""
        for plain in self._for_each_block():
            yield from for_each_entry(plain)

    def for_each_raw_entry(self) -> Iterator[tuple[int, bytes]]:
        """The same as file offset, and head with meta, unchecked.

        The blocks are read at once: what happens to the source's position later does not matter.
        """
        blocks, size = [], 0
        for plain in self._for_each_block():
            size += len(plain)
            if size > MAX_INDEX_SIZE:
                raise ImageCorruptError(f"an index of more than {MAX_INDEX_SIZE} bytes")
            blocks.append(plain)
        return itertools.chain.from_iterable(map(for_each_raw_entry, blocks))

    def _for_each_block(self) -> Iterator[bytes | bytearray]:
        self._source.seek(self.summary.index_position)
        frames = FrameReader(
            self._source, self.summary.index_position, sequence=self._first_sequence
        )
        for _ in range(self.summary.index_frames):
            frame = frames.next_frame()
            if frame.head.type != FrameType.INDEX:
                raise ImageCorruptError(f"frame {frame.head.sequence} is no index")
            yield frames.read_plain(frame)

    def _read_end(self, size: int) -> tuple[Head, bytes]:
        position = self._source.seek(size - END_SIZE)
        raw = bytearray(END_SIZE)
        FrameReader(self._source, position).read_into(memoryview(raw))
        try:
            head, meta = unpack_head(bytes(raw))
        except ImageCorruptError as exc:
            raise _no_end(size) from exc
        if head.type != FrameType.END:
            raise _no_end(size)
        return head, meta


def _no_end(size: int) -> ImageCorruptError:
    return ImageCorruptError(
        f"no image ends at byte {size}, where the file does; copy the image again",
        reason="image-truncated",
    )
