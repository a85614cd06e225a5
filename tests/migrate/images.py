"""State files for the tests of shipping."""

from __future__ import annotations

from pathlib import Path

from formats.records.image import Image
from formats.statefile import CHUNK_SIZE, ImageWriter, StateFile


def write_image(path: Path, mebibytes: int = 3) -> int:
    """Write an intact state file with so many chunks that do not compress; returns its size."""
    import random

    block = random.Random(5).randbytes(CHUNK_SIZE)
    with StateFile(path) as file, ImageWriter(file) as writer:
        writer.add_record(Image("job", 1, "0.1", {}, {}))
        for number in range(mebibytes):

            def fill(view: memoryview, number: int = number) -> None:
                view[:] = block
                view[:8] = number.to_bytes(8, "little")

            start = number * CHUNK_SIZE
            writer.add_chunk(1, start, [(start, CHUNK_SIZE)], fill)
        size = writer.finish().file_size
        file.commit()
    return size
