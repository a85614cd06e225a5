"""Images of every released format version stay readable for ever.

``golden/vX.Y.image`` was written by the version of that name and is never changed. For a new minor
or major version add a file with ``python -m tests.formats.test_golden`` and its root digest below.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from formats.header import MAJOR, MINOR
from formats.statefile import ImageReader, open_image, verify_file
from tests.formats.samples import image_bytes, small_chunks, small_records

GOLDEN = Path(__file__).parent / "golden"
ROOTS = {"v1.0": "ce99e36620b0ad63768dc0aecc106102eec249cbd831757697718002eb73e92e"}


def test_this_version_has_one() -> None:
    assert f"v{MAJOR}.{MINOR}" in ROOTS
    assert {path.stem for path in GOLDEN.iterdir()} == ROOTS.keys()


@pytest.mark.parametrize("version", ROOTS)
def test_it_reads_as_it_was_written(version: str) -> None:
    path = GOLDEN / f"{version}.image"
    assert verify_file(path).root.hex() == ROOTS[version]
    with open_image(path) as source:
        reader = ImageReader(source)
        assert reader.records() == small_records()
        assert [
            (chunk.object_id, chunk.offset, chunk.runs, bytes(chunk.unpack()))
            for chunk in reader.chunks()
        ] == small_chunks()
        reader.finish()


if __name__ == "__main__":
    target = GOLDEN / f"v{MAJOR}.{MINOR}.image"
    if target.exists():
        sys.exit(f"{target} exists; golden images are never rewritten")
    target.write_bytes(image_bytes())
    print(target, verify_file(target).root.hex())
