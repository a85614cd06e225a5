"""docs/format.md: a reader made from it alone reads what we write, and it is up to date."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest

from formats import limits
from formats.records.codec import kind_of, pack_record, registered
from formats.statefile import ImageReader
from tests.formats import independent_reader
from tests.formats.samples import (
    half_compressible,
    image_bytes,
    samples_of,
    small_chunks,
    small_records,
)
from tests.support.sources import ROOT


def test_the_second_reader_shares_nothing_with_us() -> None:
    tree = ast.parse(Path(independent_reader.__file__).read_text())
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    theirs = {"msgpack", "zstandard", "blake3", "cryptography"}
    assert imported <= {*sys.stdlib_module_names, *theirs}


def test_it_reads_what_we_write() -> None:
    data = image_bytes()
    contents = independent_reader.read(data)
    assert contents.records == [(kind_of(rec), pack_record(rec)) for rec in small_records()]
    assert contents.chunks == [
        (object_id, offset, list(runs), plain) for object_id, offset, runs, plain in small_chunks()
    ]
    assert contents.root == ImageReader(io.BytesIO(data)).finish().root


def test_it_reads_records_of_every_kind_and_a_large_image() -> None:
    records = [sample for cls in registered().values() for sample in samples_of(cls)]
    chunks = [
        (1, number << 20, ((number << 20, 1 << 20),), half_compressible(1 << 20, number))
        for number in range(8)
    ]
    contents = independent_reader.read(image_bytes(records, chunks))
    assert contents.records == [(kind_of(rec), pack_record(rec)) for rec in records]
    assert [plain for *_, plain in contents.chunks] == [plain for *_, plain in chunks]


def test_it_refuses_every_flipped_bit() -> None:
    data = image_bytes(small_records()[2:4])
    for bit in range(0, len(data) * 8, 3):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(independent_reader.RefusedError):
            independent_reader.read(bytes(damaged))


def test_the_tables_of_the_page_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "format-doc", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_page_states_the_bounds() -> None:
    page = (ROOT / "docs" / "format.md").read_text()
    for bound in (
        limits.CHUNK_SIZE,
        limits.MAX_META_SIZE,
        limits.MAX_BLOCK_SIZE,
        limits.MAX_RECORDS,
        limits.MAX_RECORDS_SIZE,
        limits.MAX_ITEMS,
    ):
        assert f"{bound:,}".replace(",", " ") in page, bound
    assert f"1 to {limits.MAX_RUNS} runs" in page
    assert f"more than {limits.MAX_DEPTH} levels" in page
    assert (limits.MAX_TEXT_SIZE, limits.MAX_BLOB_SIZE) == (1 << 20, 8 << 20)
