"""Images of every format version stay readable for ever.

``golden/vX.Y.image`` was written by the version of that name and is never changed. For a new minor
or major version add a file with ``python -m tests.formats.test_golden`` and its root digest below.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from formats.header import MAJOR, MINOR
from formats.signature import find_signature
from formats.statefile import ImageReader, ImageWriter, open_image, verify_file
from tests.formats import independent_reader
from tests.formats.samples import copy_of, small_chunks, small_records

GOLDEN = Path(__file__).parent / "golden"
ROOTS = {
    "v1.0": "ce99e36620b0ad63768dc0aecc106102eec249cbd831757697718002eb73e92e",
    "v1.1": "37b38155fc3344acb2805b6ac2f8b260f06a4074da4fa7770ea7e948bef7add3",
}
SIGNED = ("v1.1",)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_this_version_has_one() -> None:
    assert f"v{MAJOR}.{MINOR}" in ROOTS
    assert {path.stem for path in GOLDEN.iterdir()} == ROOTS.keys()


def require_contents(path: Path) -> None:
    with open_image(path) as source:
        reader = ImageReader(source)
        assert reader.records() == small_records()
        assert [
            (chunk.object_id, chunk.offset, chunk.runs, bytes(chunk.unpack()))
            for chunk in reader.chunks()
        ] == small_chunks()
        reader.finish()


@pytest.mark.parametrize("version", ROOTS)
def test_it_reads_as_it_was_written(version: str) -> None:
    path = GOLDEN / f"{version}.image"
    assert verify_file(path).root.hex() == ROOTS[version]
    require_contents(path)
    assert independent_reader.read(path.read_bytes()).root.hex() == ROOTS[version]


@pytest.mark.parametrize("version", ROOTS)
def test_its_signature_verifies(version: str) -> None:
    with open_image(GOLDEN / f"{version}.image") as source:
        signed = find_signature(source)
    if version not in SIGNED:
        assert signed is None
        return
    assert signed is not None and signed.key == KEY.public_key().public_bytes_raw()
    KEY.public_key().verify(signed.signature, b"wherry image 1\n" + signed.digest)


@pytest.mark.parametrize("version", ROOTS)
def test_an_upgrade_says_the_same_in_the_newest_version(version: str, tmp_path: Path) -> None:
    from migrate.cli.image_upgrade import upgrade_file

    path = tmp_path / "image"
    shutil.copyfile(GOLDEN / f"{version}.image", path)
    if version in SIGNED:
        assert upgrade_file(path, None, force=False) == f"is of format {version[1:]} already"
        assert path.read_bytes() == (GOLDEN / f"{version}.image").read_bytes()
        return
    assert upgrade_file(path, None, force=False) == f"format {version[1:]} is {MAJOR}.{MINOR} now"
    with open_image(path) as source:
        header = ImageReader(source).header
    assert (header.major, header.minor, header.compatible) == (MAJOR, MINOR, 0)
    require_contents(path)


def _write(path: Path) -> None:
    public = KEY.public_key().public_bytes_raw()
    with (
        path.open("xb") as file,
        ImageWriter(
            file,
            workers=0,
            sign=lambda digest: public + KEY.sign(b"wherry image 1\n" + digest),
        ) as writer,
    ):
        for rec in small_records():
            writer.add_record(rec)
        for object_id, offset, runs, plain in small_chunks():
            writer.add_chunk(object_id, offset, runs, copy_of(plain))
        writer.finish()


if __name__ == "__main__":
    target = GOLDEN / f"v{MAJOR}.{MINOR}.image"
    if target.exists():
        sys.exit(f"{target} exists; golden images are never rewritten")
    _write(target)
    print(target, verify_file(target).root.hex())
