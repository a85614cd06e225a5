"""From one image into another: records as they are, chunks packed anew."""

from __future__ import annotations

from collections.abc import Callable

from formats.chunks import Chunk
from formats.manifest import ImageSummary
from formats.reader import ImageReader
from formats.writer import ImageWriter


def copy_image(
    reader: ImageReader,
    writer: ImageWriter,
    *,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> ImageSummary:
    """Copy a whole image, records of unknown kinds included, and check all of it on the way.

    Args:
        reader: At its start.
        writer: Finished here.
        on_bytes: Told how many plain bytes were taken.

    Returns:
        The writer's summary.

    Raises:
        ImageError: What was read is damaged, or the writer cannot write.
    """
    for kind, fields in reader.for_each_raw_record():
        writer.add_raw_record(kind, fields)
    done = 0
    for chunk in reader.chunks():
        writer.add_chunk(chunk.object_id, chunk.offset, chunk.runs, _filler(chunk))
        done += chunk.plain_size
        on_bytes(done)
    reader.finish()
    return writer.finish()


def _filler(chunk: Chunk) -> Callable[[memoryview], None]:
    """Unpacks the chunk, in a thread of the writer's."""

    def fill(view: memoryview) -> None:
        plain = chunk.unpack_into(view)
        chunk.check_id(plain)
        if plain.obj is not view.obj:  # it was stored as it is
            view[:] = plain

    return fill
