"""Encrypted state files: opened by each of their secrets, in any order, and by nobody else."""

from __future__ import annotations

import io
import os
import random
import threading
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from formats import wire
from formats.errors import ImageCorruptError, ImageError, ImageVersionError, WherryError
from formats.header import HEADER_SIZE
from formats.random_access import RandomAccessReader
from formats.sealed_file import BLOCK_SIZE, SealedFile, SealedSink, is_sealed
from formats.statefile import ImageReader, ImageWriter, open_image, verify_file
from migrate.errors import StoreError
from migrate.file_encryption import FileSealer, unlock_table
from migrate.store import crypto
from migrate.store.crypto import FileCipher, Secret
from tests.formats import independent_reader
from tests.formats.samples import image_bytes, small_chunks, write_image

PASSWORD = Secret("password", b"correct horse")
KEY_FILE = Secret("key-file", b"k" * 40)
FULL = BLOCK_SIZE + 16


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt is made to be slow."""
    monkeypatch.setattr(crypto, "SCRYPT_N", 1 << 4)


def seal(path: Path, plain: bytes, *secrets: Secret, step: int = 0) -> Path:
    """Write *plain*, whatever it is, as an encrypted file; *step* bytes at once."""
    sealer = FileSealer(secrets or (PASSWORD,))
    with path.open("wb", buffering=0) as file:
        sink = sealer.seal(file)
        for at in range(0, len(plain), step or len(plain) or 1):
            assert sink.write(memoryview(plain)[at : at + (step or len(plain))])
        sink.finish()
    return path


def opened(path: Path, secret: Secret = PASSWORD) -> SealedFile:
    return SealedFile(path, lambda table: unlock_table(table, secret))


@pytest.mark.parametrize("step", [0, 1000, BLOCK_SIZE, 3 * BLOCK_SIZE + 1])
@pytest.mark.parametrize(
    "size",
    [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 16 * BLOCK_SIZE, 40 * BLOCK_SIZE + 7],
)
def test_it_reads_as_what_was_written(size: int, step: int, tmp_path: Path) -> None:
    plain = random.Random(size).randbytes(size)
    path = seal(tmp_path / "file", plain, step=step)
    with opened(path) as file:
        assert file.size == size and file.read() == plain and file.read() == b""
        assert file.seek(-5, io.SEEK_END) == max(0, size - 5)
        assert file.read(100) == plain[-5:]
        for at in (0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, size // 2, size, size + 9):
            file.seek(at)
            assert file.read(BLOCK_SIZE + 3) == plain[at : at + BLOCK_SIZE + 3]
            assert file.tell() == max(at, min(size, at + BLOCK_SIZE + 3)) or at > size


def test_threads_read_at_once(tmp_path: Path) -> None:
    plain = os.urandom(30 * BLOCK_SIZE + 11)
    wrong: list[int] = []
    with opened(seal(tmp_path / "file", plain)) as file:

        def read(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(50):
                at, length = dice.randrange(len(plain)), dice.randrange(1, 300_000)
                view = memoryview(bytearray(length))
                count = file.pread(view, at)
                if bytes(view[:count]) != plain[at : at + length]:
                    wrong.append(at)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_any_chunk_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "image"
    sealer = FileSealer([PASSWORD])
    with path.open("wb", buffering=0) as file:
        sink = sealer.seal(file)
        write_image(sink)
        sink.finish()
    assert verify_file(path, unlock=sealer.unlock).chunks == len(small_chunks())
    with open_image(path, sealer.unlock) as source:
        reader = RandomAccessReader(source)
        chunks = list(reader.references())
        for chunk, (*_, plain) in reversed(list(zip(chunks, small_chunks(), strict=True))):
            assert bytes(chunk.unpack()) == plain
        reader.finish()


def test_every_secret_opens_it_and_no_other(tmp_path: Path) -> None:
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    recipient = Secret("recipient", public=public)
    path = seal(tmp_path / "file", b"some bytes", PASSWORD, KEY_FILE, recipient)
    for secret in (PASSWORD, KEY_FILE, Secret("recipient", private=private, public=public)):
        with opened(path, secret) as file:
            assert file.read() == b"some bytes"
    other = X25519PrivateKey.generate()
    for secret in (
        Secret("password", b"wrong"),
        Secret("key-file", b"correct horse"),
        recipient,
        Secret("recipient", private=other, public=other.public_key().public_bytes_raw()),
    ):
        with pytest.raises(StoreError, match="opens none of the file's keys"):
            opened(path, secret)


def test_the_page_is_enough_to_read_it(tmp_path: Path) -> None:
    """An independent reader refuses it for its feature, and opens it with a key."""
    plain = image_bytes()
    data = seal(tmp_path / "file", plain, PASSWORD, KEY_FILE, step=777).read_bytes()
    with pytest.raises(independent_reader.RefusedError, match="incompatible features"):
        independent_reader.read(data)
    assert independent_reader.read_sealed(data, b"correct horse", "password") == plain
    image = independent_reader.read_sealed(data, b"k" * 40)
    assert independent_reader.read(image).chunks
    with pytest.raises(InvalidTag):
        independent_reader.read_sealed(data, b"another" * 9)


def test_without_a_key_it_is_refused_by_name(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", image_bytes())
    with open_image(path) as source:
        assert is_sealed(source)
        with pytest.raises(ImageVersionError, match=r"encryption.*no key") as caught:
            ImageReader(source)
    assert caught.value.reason == "image-encrypted"
    plain = tmp_path / "plain"
    plain.write_bytes(image_bytes())
    with open_image(plain, lambda table: pytest.fail("asked for a key")) as source:
        assert not is_sealed(source)
        ImageReader(source).finish()


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", os.urandom(2 * BLOCK_SIZE + 100))
    data = path.read_bytes()
    begin = len(data) - (2 * FULL + 116)
    dice = random.Random(4)
    places = [*range(begin), *(dice.randrange(begin, len(data)) for _ in range(200))]
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(WherryError), opened(path) as file:
            file.read()


def test_cut_extended_and_reordered(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", os.urandom(3 * BLOCK_SIZE))
    data = path.read_bytes()
    begin = len(data) - 3 * FULL
    blocks = [data[begin + at * FULL : begin + (at + 1) * FULL] for at in range(3)]
    before = data[:begin]
    for wrong in (
        *(data[:size] for size in (0, 7, 63, 64, 67, 68, 90, begin - 1, begin, begin + 15)),
        before + blocks[0],
        before + blocks[0] + blocks[1],
        before + blocks[1] + blocks[0] + blocks[2],
        before + b"".join(blocks) + blocks[2],
        data + bytes(3),
        data[:-1],
        data[: begin + FULL + 10],
    ):
        path.write_bytes(wrong)
        with pytest.raises(ImageError), opened(path) as file:
            file.read()


def test_blocks_of_another_file_do_not_fit(tmp_path: Path) -> None:
    one = seal(tmp_path / "one", os.urandom(100)).read_bytes()
    two = seal(tmp_path / "two", os.urandom(100)).read_bytes()
    mixed = tmp_path / "mixed"
    mixed.write_bytes(one[:-116] + two[-116:])
    with pytest.raises(ImageCorruptError, match="does not open"), opened(mixed) as file:
        file.read()


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\xc1",
        wire.pack([1]),
        wire.pack({"id": bytes(15), "keys": []}),
        wire.pack({"id": bytes(16), "keys": {}}),
        wire.pack({"id": bytes(16), "keys": [1]}),
        wire.pack({"id": bytes(16), "keys": [{"method": "password"}] * 3}),
        wire.pack({"id": bytes(16), "keys": [{}] * 65}),
    ],
)
def test_hostile_key_tables(table: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        SealedSink(file, table, FileCipher(bytes(32))).finish()
    with pytest.raises(WherryError):
        opened(path)


def test_a_key_table_that_claims_to_be_long(tmp_path: Path) -> None:
    path = seal(tmp_path / "file", b"x")
    data = bytearray(path.read_bytes())
    data[HEADER_SIZE : HEADER_SIZE + 4] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageCorruptError, match="header that none has"):
        opened(path)


def test_a_sink_that_fails() -> None:
    class Full:
        def write(self, data: bytes | bytearray | memoryview, /) -> int:
            raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        FileSealer([PASSWORD]).seal(Full())
    with pytest.raises(StoreError, match="0 secrets"):
        FileSealer([])


def test_nothing_of_it_can_be_read(tmp_path: Path) -> None:
    """Neither contents nor the names in records."""
    path = tmp_path / "image"
    with path.open("wb", buffering=0) as file:
        sink = FileSealer([PASSWORD]).seal(file)
        with ImageWriter(sink) as writer:

            def fill(view: memoryview) -> None:
                view[:] = b"the secret of a program " * (len(view) // 24)

            writer.add_chunk(1, 0, [(0, 24 << 10)], fill)
            writer.finish()
        sink.finish()
    data = path.read_bytes()
    assert b"secret" not in data and b"WHERRY" not in data[8:]
