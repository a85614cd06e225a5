"""``wherry image inspect`` and ``wherry image verify``."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from formats.records.codec import Record
from formats.records.files import (
    DeletedFile,
    EventFd,
    ExternalFile,
    Inode,
    Pipe,
    PipeEnd,
    RegularFile,
    Tree,
)
from formats.records.image import Host, Image
from formats.records.memory import AddressSpace, Backing, Layout, SharedMemory, Vma
from formats.records.task import (
    AltStack,
    Capabilities,
    Credentials,
    Descriptor,
    Process,
    Scheduling,
    Thread,
)
from formats.records.unix import Link, UnixSocket
from formats.statefile import StateFile
from tests.formats.samples import PAGE, Content, half_compressible, write_image
from tests.support.command import Wherry

LAYOUT = Layout(*[0] * 11)
SPEC = {"process": {"args": ["python3", "job.py", "two words"]}, "hostname": "w"}


def thread(tid: int) -> Thread:
    return Thread(
        tid=tid,
        comm=b"worker",
        registers=b"",
        xstate=b"",
        sigmask=0,
        pending=(),
        altstack=AltStack(0, 0, 0),
        robust_list=(0, 0),
        clear_child_tid=0,
        rseq=None,
        credentials=Credentials(
            (0, 1000, 0, 0), (0, 0, 0, 0), (), Capabilities(0, 0, 0, 0, 0), 0, False
        ),
        scheduling=Scheduling(0, 0, 0, 0, 0, 0, 0, (), 0),
        parent_death_signal=0,
        timer_slack_ns=0,
    )


def process(pid: int, ppid: int, comm: bytes, **rest: Any) -> Process:
    return Process(pid, ppid, 1, 1, 17, False, 0, comm, **rest)


def _listener() -> UnixSocket:
    return UnixSocket(
        file_id=5,
        inode=1,
        kind=1,
        flags=0,
        listening=True,
        backlog=5,
        name=b"\0name",
        path="",
        holds_name=True,
        link=Link.NONE,
        peer=0,
        peer_name=b"",
        credentials=None,
        pending=(),
        queue=(),
        shutdown=0,
        failed=False,
        options=(),
    )


def container_records() -> list[Record]:
    vma = Vma(1 << 20, (1 << 20) + 64 * PAGE, 3, 2, Backing.ANONYMOUS)
    return [
        Image("web", time.time_ns() - 200 * 10**9, "9.8.7", SPEC, {}),
        Host("x86_64", "6.18.5", "alpha", PAGE, ("fpu",), 2696, b"\1" * 32, 1, 2),
        Tree(50, "overlay", "/"),
        Inode(50, "srv", 0o040755, 0, 0, 0),
        Inode(50, "srv/data", 0o100644, 0, 0, 0, size=PAGE, object_id=60),
        DeletedFile(61, "/tmp/gone", PAGE, 0o100600, 0, 0, 0, 0),
        SharedMemory(40, 1 << 20),
        RegularFile(1, "/tmp/\x1b[31mlog", 1, 5, "file"),
        Pipe(3, 65536, b"abc"),
        PipeEnd(2, 3, 0),
        EventFd(4, 0, 1, False),
        _listener(),
        ExternalFile(6, "stdin", 0, "/dev/null"),
        AddressSpace(100, LAYOUT, b"", 1, (vma,)),
        process(
            1,
            0,
            b"python3",
            mm_id=100,
            threads=(thread(1), thread(5)),
            descriptors=(Descriptor(0, 6, False), Descriptor(3, 1, True), Descriptor(4, 2, False)),
        ),
        process(7, 1, b"sh", mm_id=101, threads=(thread(7),), stopped=19),
        Process(9, 7, 1, 1, 17, True, 0, b"true"),
    ]


CHUNKS: list[Content] = [
    (100, 1 << 20, ((1 << 20, 64 * PAGE),), half_compressible(64 * PAGE)),
    (40, 0, ((0, PAGE),), bytes(PAGE)),
    (60, 0, ((0, PAGE),), bytes(PAGE)),
    (61, 0, ((0, PAGE),), bytes(PAGE)),
]


def make_image(path: Path, records: list[Record] | None = None) -> Path:
    with StateFile(path) as file:
        write_image(file, container_records() if records is None else records, CHUNKS)
        file.commit()
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "web.wherry")


def inspect(wherry: Wherry, path: Path) -> str:
    return wherry("image", "inspect", path).stdout


def test_inspect_says_what_a_person_asks(wherry: Wherry, image: Path) -> None:
    shown = inspect(wherry, image)
    for words in [
        r"container +web\n",
        r"made .* UTC \(3 minutes ago\), by wherry 9\.8\.7\n",
        r"program +python3 job\.py 'two words'\n",
        r"on +alpha, Linux 6\.18\.5, x86_64\n",
        r"tasks: 3 processes, 3 threads\n",
        r"1 python3, 2 threads, uid 1000, 3 descriptors\n",
        r"7 sh, stopped, uid 1000\n",
        r"9 true, zombie\n",
        r"1 python3 +1 +256 KiB +256 KiB +129 KiB +2\.0\n",
        r"shared 40 +1\.0 MiB +4\.0 KiB",
        r"regular +1:3 +/tmp/\\x1b\[31mlog\n",
        r"pipe +1:4 +pipe 3, 3 bytes in it\n",
        r"unix +mapped +\\x00name\n",
        r"external +1:0 +stdin of the container: /dev/null\n",
        r"overlay at / +1 +4\.0 KiB",
        r"deleted but open +1 +4\.0 KiB",
    ]:
        assert re.search(words, shown), f"{words} in\n{shown}"
    assert "\x1b" not in shown, "an image must not speak to the terminal"


def test_inspect_as_json(wherry: Wherry, image: Path) -> None:
    report = json.loads(wherry("image", "inspect", "--json", image).stdout)
    assert report["container_id"] == "web"
    assert report["wherry_version"] == "9.8.7"
    assert report["spec"] == SPEC
    assert report["host"]["hostname"] == "alpha"
    assert report["file_size"] == image.stat().st_size
    assert report["plain_bytes"] == sum(len(plain) for *_, plain in CHUNKS)
    assert [entry["pid"] for entry in report["processes"]] == [1, 7, 9]
    assert report["processes"][0]["descriptors"][1] == {
        "fd": 3,
        "file_id": 1,
        "text": "/tmp/\x1b[31mlog",
    }
    (memory,) = report["memory"]
    assert (memory["pids"], memory["plain_bytes"]) == ([1], 64 * PAGE)
    assert report["trees"][0]["plain_bytes"] == PAGE
    assert report["records_by_kind"]["process"] == 3
    assert report["format"] == {"major": 1, "minor": 1, "features": []}


def test_inspect_without_a_container(wherry: Wherry, tmp_path: Path) -> None:
    path = make_image(tmp_path / "odd.wherry", [SharedMemory(40, PAGE), SharedMemory(41, PAGE)])
    assert re.search(r"shared-memory +2\n", inspect(wherry, path))
    report = json.loads(wherry("image", "inspect", "--json", path).stdout)
    assert report["container_id"] is None


def test_inspect_of_relations_that_cannot_be(wherry: Wherry, tmp_path: Path) -> None:
    """Circles, strangers and odd configurations: whatever passes the types is shown."""
    records: list[Record] = [
        Image("web", (1 << 64) - 1, "1", ["no", "object"], None),
        process(1, 2, b"one", descriptors=(Descriptor(0, 99, False),)),
        process(2, 1, b"two"),
        process(3, 3, b"own parent"),
        process(4, 77, b"\xff\n"),
        PipeEnd(5, 99, 0),
    ]
    shown = inspect(wherry, make_image(tmp_path / "odd.wherry", records))
    for words in ["1 one", "2 two", "3 own parent", "\\n", "program      unknown"]:
        assert words in shown
    assert json.loads(wherry("image", "inspect", "--json", tmp_path / "odd.wherry").stdout)


def test_verify_of_an_intact_image(wherry: Wherry, image: Path) -> None:
    shown = wherry("image", "verify", image).stdout
    assert f"{image}: intact: 17 records and 4 chunks" in shown
    report = json.loads(wherry("image", "verify", "--json", image).stdout)
    assert report["ok"] is True
    assert report["root"] in shown
    assert report["file_size"] == image.stat().st_size


@pytest.mark.parametrize(
    ("damage", "code", "reason"),
    [
        (lambda data: data[:-1], 12, "image-truncated"),
        (lambda data: b"", 12, "image-truncated"),
        (lambda data: data + b"x", 12, "image-trailing-bytes"),
        (lambda data: b"#!/bin/sh\n" + data, 12, "not-an-image"),
        (lambda data: data[:50_000] + b"????" + data[50_004:], 12, "image-corrupt"),
    ],
    ids=["cut", "empty", "longer", "foreign", "changed"],
)
def test_verify_of_a_damaged_image(
    wherry: Wherry, image: Path, damage: Any, code: int, reason: str
) -> None:
    image.write_bytes(damage(image.read_bytes()))
    result = wherry("image", "verify", image, check=False)
    assert result.returncode == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("wherry: web.wherry: ")
    assert line.endswith(f"[{reason}]")
    result = wherry("image", "verify", "--json", image, check=False)
    assert result.returncode == code
    report = json.loads(result.stdout)
    assert (report["ok"], report["reason"]) == (False, reason)


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_files_that_are_not_there(wherry: Wherry, tmp_path: Path, verb: str) -> None:
    result = wherry("image", verb, tmp_path / "missing.wherry", check=False)
    assert result.returncode == 10
    assert result.stderr.splitlines() == [
        f"wherry: {tmp_path}/missing.wherry: cannot open the image: No such file or directory "
        "[image-unreadable]"
    ]


def test_inspect_names_the_damaged_file(wherry: Wherry, image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-1])
    result = wherry("image", "inspect", image, check=False)
    assert result.returncode == 12
    assert result.stderr.startswith("wherry: web.wherry: no image ends at byte")
