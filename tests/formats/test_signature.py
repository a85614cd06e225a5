"""Signed state files: found without reading contents, and bound to what is read afterwards."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from formats.errors import ImageCorruptError, ImageError
from formats.header import Header, pack_header
from formats.records.memory import SharedMemory
from formats.signature import SIGNATURE_FRAME, find_signature
from formats.statefile import ImageReader, ImageWriter, open_image, verify_file
from migrate.cli.image_upgrade import upgrade_file
from migrate.errors import StoreError
from migrate.store.signing import image_signer, judge_image, verify_key
from tests.formats.samples import copy_of, small_chunks


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, bytes]:
    """A private key's file, and the public key."""
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, verify_key(public)


def write(path: Path, private: Path | None, *, size: int = 4096) -> Path:
    sign = None if private is None else image_signer(private)
    with path.open("wb") as file, ImageWriter(file, workers=0, sign=sign) as writer:
        writer.add_record(SharedMemory(1, size))
        for object_id, offset, runs, plain in small_chunks():
            writer.add_chunk(object_id, offset, runs, copy_of(plain))
        writer.finish()
    return path


def judged_and_read(path: Path, key: bytes) -> None:
    with open_image(path) as source:
        signed = judge_image(source, [key])
        reader = ImageReader(source)
        reader.expect(signed)
        assert reader.records() == [SharedMemory(1, 4096)]
        reader.for_each_chunk(lambda chunk, plain: None)
        reader.finish()
        assert reader.signature == signed


def test_what_is_signed_is_read(tmp_path: Path, keys: tuple[Path, bytes]) -> None:
    path = write(tmp_path / "image", keys[0])
    judged_and_read(path, keys[1])
    verify_file(path)


def test_what_is_not_signed_or_by_somebody_else_is_not(
    tmp_path: Path, keys: tuple[Path, bytes]
) -> None:
    for private, key, reason in (
        (None, keys[1], "not-signed"),
        (keys[0], bytes(32), "bad-signature"),
    ):
        with pytest.raises(StoreError) as caught:
            judged_and_read(write(tmp_path / "image", private), key)
        assert caught.value.reason == reason


def test_every_changed_byte_is_found(tmp_path: Path, keys: tuple[Path, bytes]) -> None:
    path = write(tmp_path / "image", keys[0])
    original = path.read_bytes()
    for at in range(0, len(original), 7):
        data = bytearray(original)
        data[at] ^= 16
        path.write_bytes(data)
        with pytest.raises((ImageError, StoreError)):
            judged_and_read(path, keys[1])


def test_a_signature_of_another_image(tmp_path: Path, keys: tuple[Path, bytes]) -> None:
    """Right in every digest, and by the right key."""
    other = write(tmp_path / "other", keys[0], size=8192)
    with open_image(other) as source:
        borrowed = find_signature(source)
    assert borrowed is not None
    path = tmp_path / "image"
    with (
        path.open("wb") as file,
        ImageWriter(file, workers=0, sign=lambda _: borrowed.key + borrowed.signature) as writer,
    ):
        writer.add_record(SharedMemory(1, 4096))
        writer.finish()
    verify_file(path)
    with pytest.raises(StoreError, match="does not verify"):
        judged_and_read(path, keys[1])


@pytest.mark.parametrize("size", [4096, 8192])
def test_a_file_that_changes_after_it_was_judged(
    tmp_path: Path, keys: tuple[Path, bytes], size: int
) -> None:
    signed_one = write(tmp_path / "one", keys[0])
    with open_image(signed_one) as source:
        signed = judge_image(source, [keys[1]])
    reader = ImageReader(io.BytesIO(write(tmp_path / "two", None, size=size).read_bytes()))
    reader.expect(signed)
    if size != 4096:  # its records differ: they must not even be looked at
        with pytest.raises(ImageCorruptError, match="was changed after") as caught:
            reader.records()
    else:
        reader.records()
        with pytest.raises(ImageCorruptError, match="was changed after") as caught:
            reader.finish()
    assert caught.value.reason == "image-changed"


def test_a_signature_that_is_promised_and_missing_or_twice() -> None:
    for times in (0, 2):
        sink = io.BytesIO()
        with ImageWriter(sink, workers=0, sign=lambda _: bytes(96)) as writer:
            writer._sign = None
            for _ in range(times):
                writer._put_frame(SIGNATURE_FRAME, bytes(96), 96, 0)
            writer.finish()
        with pytest.raises(ImageCorruptError, match="signature"):
            ImageReader(io.BytesIO(sink.getvalue())).finish()
    assert sink.getvalue()[:64] == pack_header(Header(compatible=1))


def test_an_upgrade_keeps_no_signature_without_a_key(
    tmp_path: Path, keys: tuple[Path, bytes]
) -> None:
    path = write(tmp_path / "image", keys[0])
    before = path.read_bytes()
    with pytest.raises(ImageError, match="--sign-key") as caught:
        upgrade_file(path, None, force=True)
    assert caught.value.reason == "image-signed" and path.read_bytes() == before
    assert upgrade_file(path, keys[0], force=True).endswith("now, signed")
    judged_and_read(path, keys[1])


def test_an_upgrade_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "image", None)
    data = bytearray(path.read_bytes())
    data[-500] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError):
        upgrade_file(path, None, force=True)
    assert path.read_bytes() == data and set(tmp_path.iterdir()) == {path}
