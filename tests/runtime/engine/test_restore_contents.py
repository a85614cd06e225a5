"""Images that leave memory out which must be there, or which nobody has."""

from __future__ import annotations

import io

import pytest

from formats.elsewhere import LateImageReader, LateImageWriter, elsewhere_records
from formats.errors import ImageError
from formats.statefile import ImageReader, ImageWriter
from runtime.engine.api import RestoreReport
from runtime.engine.image_records import Records
from runtime.engine.restore_contents import ContentRestore
from runtime.engine.restore_stream import ChunkStream
from runtime.errors import RestoreError


def _image(writer: type[ImageWriter]) -> io.BytesIO:
    image = io.BytesIO()
    with writer(image, workers=0) as out:
        for record in elsewhere_records(1, [(0x1000, 0x3000)]):
            out.add_record(record)
        out.finish()
    image.seek(0)
    return image


def test_nobody_has_what_is_left_out() -> None:
    reader = ImageReader(_image(ImageWriter))
    with pytest.raises(RestoreError) as caught:
        ContentRestore(Records(reader.records()), ChunkStream(reader), None, None, RestoreReport())
    assert caught.value.reason == "image-inconsistent"


def test_the_header_says_that_something_is_left_out() -> None:
    with pytest.raises(ImageError):
        ImageReader(_image(LateImageWriter))
    assert LateImageReader(_image(LateImageWriter)).records()
