"""A tree of files goes over a real pair of sockets: all of it comes, and nothing gets out."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formats.header import HEADER_SIZE
from migrate.errors import MigrateError, ProtocolError
from migrate.protocol import DataSink, Peer
from migrate.rootfs.blocks import BlockWriter
from migrate.rootfs.contents import put_data
from migrate.rootfs.entries import Entry, write_entries
from migrate.rootfs.listing import Listing
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.place import Place
from migrate.rootfs.receiving import TakenTree, differences, take_listing
from migrate.rootfs.scan import Tree, scan
from migrate.rootfs.sending import SentTree
from migrate.transport import DescriptorChannel

# <linux/posix_acl_xattr.h>: version 2; user::rw-, user:1234:r--, group::r--, mask::r--, other::---
ACL = struct.pack("<I" + "HHI" * 5, 2, *(1, 6, 2**32 - 1), *(2, 4, 1234), *(4, 4, 2**32 - 1),
                  *(16, 4, 2**32 - 1), *(32, 0, 2**32 - 1))  # fmt: skip


@pytest.fixture
def ends() -> Iterator[tuple[Peer, Peer]]:
    """Two peers that talk with each other."""
    one, other = socket.socketpair()
    with one, other:
        channels = [
            DescriptorChannel(os.dup(end.fileno()), os.dup(end.fileno())) for end in (one, other)
        ]
        yield Peer(channels[0], timeout_s=20), Peer(channels[1], timeout_s=20)
        for channel in channels:
            channel.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that a file can be."""
    top = tmp_path / "source"
    (top / "etc/deep/er").mkdir(parents=True)
    (top / "bin").mkdir()
    (top / "etc/plain").write_text("content\n")
    (top / "etc/empty").touch()
    (top / "etc/acl").write_text("guarded")
    os.setxattr(top / "etc/acl", "system.posix_acl_access", ACL)
    os.setxattr(top / "etc", "user.note", b"of the directory")
    os.setxattr(top / "etc/plain", "user.note", b"\0\xff")
    (top / "bin/su").write_bytes(random.Random(1).randbytes(300_000))
    os.chown(top / "bin/su", 12, 34)
    (top / "bin/su").chmod(0o4755)
    (top / "bin/same").write_bytes((top / "bin/su").read_bytes())
    os.link(top / "bin/su", top / "etc/deep/hard")
    os.symlink("/etc/passwd", top / "etc/deep/away")
    os.chown(top / "etc/deep/away", 5, 6, follow_symlinks=False)
    os.utime(top / "etc/deep/away", ns=(10**18, 10**18 + 7), follow_symlinks=False)
    os.mknod(top / "bin/null", stat.S_IFCHR | 0o622, os.makedev(1, 3))
    os.mknod(top / "bin/disk", stat.S_IFBLK | 0o640, os.makedev(7, 200))
    os.mkfifo(top / "bin/fifo", 0o606)
    os.mknod(top / "bin/socket", stat.S_IFSOCK | 0o600)
    with (top / "etc/sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"in the middle")
        file.truncate(100 << 20)
    (top / os.fsdecode(b"etc/not\xffutf8")).write_text("bytes")
    for path in sorted(top.rglob("*"), reverse=True):
        if not path.is_symlink():
            os.utime(path, ns=(10**18 + 1, 10**18 + 2))
    (top / "etc").chmod(0o2750)
    os.utime(top, ns=(10**18, 10**18))
    return top


def _sent(top: Path, mode: RootfsMode = RootfsMode.ALL) -> SentTree:
    return SentTree(top, mode, still=False, pids=tuple, through=lambda write: write)


def _move(
    ends: tuple[Peer, Peer],
    tree: SentTree,
    target: Path,
    *bases: Path,
    fresh: bool = True,
    meanwhile: Callable[[], object] = lambda: None,
) -> SentTree:
    """Send a tree, let it change, send what has changed."""
    failures: list[BaseException] = []

    def take() -> None:
        try:
            taken = TakenTree(take_listing(ends[1]), target, bases, ends[1], fresh=fresh)
            taken.take(ends[1])
            taken.take_changes(ends[1])
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=take)
    thread.start()
    tree.offer(ends[0])
    tree.send(ends[0])
    meanwhile()
    frozen, write = tree.before_the_image(ends[0], lambda data: None)
    frozen()
    write(bytes(HEADER_SIZE + 1))
    thread.join(20)
    assert not thread.is_alive() and not failures, failures
    return tree


def _facts(top: Path) -> dict[str, object]:
    """All that one can know of a tree, found in another way than the product does."""
    found: dict[str, object] = {}
    groups: dict[tuple[int, int], str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(top))
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG:
            content = path.read_bytes()
        attributes = os.listxattr(path, follow_symlinks=False)
        found[name] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns),
            status.st_rdev,
            groups.setdefault((status.st_dev, status.st_ino), name),
            {key: os.getxattr(path, key, follow_symlinks=False) for key in attributes},
            content,
        )
    return found


def test_everything_comes(ends: tuple[Peer, Peer], source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    wanted = _facts(source)
    report = _move(ends, _sent(source), target).report
    assert _facts(target) == wanted
    assert (target / "etc/sparse").stat().st_blocks < 1000
    # The content of two files is the same and went once; a hole went not at all.
    assert report.sent_files == 5 and report.sent_bytes < 400_000
    assert report.late_files == 0


def test_what_is_known_does_not_travel(
    ends: tuple[Peer, Peer], source: Path, tmp_path: Path
) -> None:
    target, base = tmp_path / "target", tmp_path / "base"
    target.mkdir()
    base.mkdir()
    (base / "other name").write_bytes((source / "bin/su").read_bytes())
    (base / "link").symlink_to("/etc/passwd")
    wanted = _facts(source)
    report = _move(ends, _sent(source), target, base).report
    assert _facts(target) == wanted
    assert report.sent_bytes < 5_000


def test_only_what_differs_travels(ends: tuple[Peer, Peer], source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    _move(ends, _sent(source), target)
    (target / "etc/plain").write_text("CONTENT\n")
    (target / "bin/su").chmod(0o700)
    (target / "etc/deep/hard").unlink()
    (target / "etc/deep/hard").write_text("on its own")
    (target / "bin/fifo").unlink()
    (target / "bin/fifo").mkdir()
    (target / "bin/fifo/inside").touch()
    (target / "more/and").mkdir(parents=True)
    (target / "etc/deep/away").unlink()
    (target / "etc/deep/away").symlink_to("/tmp")
    os.removexattr(target / "etc", "user.note")
    os.setxattr(target / "etc/plain", "user.other", b"x")
    found = differences(_listing(ends, source), scan(target))
    assert {"etc/plain", "bin/su", "etc/deep/hard", "bin/fifo", "more", "more/and", "etc"} <= set(
        found
    )
    assert "bin/same" not in found and "etc/sparse" not in found
    wanted = _facts(source)
    report = _move(ends, _sent(source, RootfsMode.CHANGED), target, fresh=False).report
    assert _facts(target) == wanted
    assert differences(_listing(ends, source), scan(target)) == []
    assert report.sent_files == 1  # the content of bin/su is in bin/same


def _listing(ends: tuple[Peer, Peer], top: Path) -> Listing:
    _sent(top).offer(ends[0])
    return take_listing(ends[1])


def test_changes_until_the_freeze(ends: tuple[Peer, Peer], source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (source / "etc/large").write_bytes(random.Random(2).randbytes(8 << 20))

    def change() -> None:
        with (source / "etc/large").open("r+b") as file:
            file.seek(3 << 20)
            file.write(b"changed")
            file.seek(5 << 20)
            file.write(bytes(128 << 10))
            file.truncate((7 << 20) + 5)
        (source / "etc/plain").write_text("longer content\n")
        (source / "etc/deep/hard").unlink()
        os.link(source / "etc/empty", source / "bin/a link")
        (source / "bin/fifo").unlink()
        (source / "bin/fifo").write_text("a file by now")
        (source / "new/dir").mkdir(parents=True)
        (source / "new/dir/file").write_text("new")
        (source / "bin/same").rename(source / "new/moved")
        (source / "etc/deep/away").unlink()
        (source / "etc/deep/away").symlink_to("nowhere")
        (source / "etc/deep/er").rmdir()
        (source / "bin/null").chmod(0o600)
        os.setxattr(source / "etc/acl", "user.late", b"1")

    report = _move(ends, _sent(source), target, meanwhile=change).report
    assert _facts(target) == _facts(source)
    # Of the large file two pieces went, and not the zeros.
    assert report.late_files > 10 and report.late_sent_bytes < 1 << 20


def test_a_look_soon_after_a_change_is_not_trusted(source: Path) -> None:
    path = source / "etc/plain"
    path.write_text("one")
    first = scan(source)
    status = path.stat()
    path.write_text("two")
    # As if the kernel's clock had not moved on: nothing but the content tells.
    number = first.numbers["etc/plain"]
    first.looks[number] = replace(first.looks[number], ctime_ns=path.stat().st_ctime_ns)
    assert status.st_size == path.stat().st_size
    assert _digest(scan(source, first)) != _digest(first)


def test_a_mapped_file_is_not_trusted(source: Path) -> None:
    path = source / "etc/plain"
    first = scan(source)
    number = first.numbers["etc/plain"]
    path.write_text("CONTENT\n")
    status = path.stat()
    later = replace(first.looks[number], ctime_ns=status.st_ctime_ns, at_ns=2**62)
    first.looks[number] = later
    assert _digest(scan(source, first)) == _digest(first)  # nothing tells
    inode = (status.st_dev, status.st_ino)
    assert _digest(scan(source, first, {inode})) != _digest(first)


def _digest(tree: Tree) -> bytes:
    return tree.entries[tree.numbers["etc/plain"]].digest


# Hostile lists


def _top(**changes: object) -> Entry:
    return replace(Entry(0, -1, "", stat.S_IFDIR | 0o755, 0, 0, 0, 0), **changes)  # type: ignore[arg-type]


def _file(number: int, name: str, **changes: object) -> Entry:
    empty = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    entry = Entry(number, 0, name, stat.S_IFREG | 0o644, 0, 0, 0, 0, digest=empty)
    return replace(entry, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([], id="nothing"),
        pytest.param([_file(0, "x")], id="no top"),
        pytest.param([_top(mode=stat.S_IFREG | 0o644, digest=bytes(32))], id="top is a file"),
        pytest.param([_top(), _file(1, "..")], id="upwards"),
        pytest.param([_top(), _file(1, ".")], id="dot"),
        pytest.param([_top(), _file(1, "")], id="no name"),
        pytest.param([_top(), _file(1, "/etc/passwd")], id="absolute"),
        pytest.param([_top(), _file(1, "a/b")], id="a path"),
        pytest.param([_top(), _file(1, "a\0b")], id="a zero byte"),
        pytest.param([_top(), _file(1, "n" * 256)], id="a long name"),
        pytest.param([_top(), _file(1, "x"), _file(2, "x")], id="twice"),
        pytest.param([_top(), _file(1, "x"), _file(2, "y", parent=1)], id="in a file"),
        pytest.param([_top(), _file(1, "x", parent=7)], id="in nothing"),
        pytest.param([_top(), _file(1, "x", parent=1)], id="in itself"),
        pytest.param([_top(), _file(1, "x", link=9, digest=b"")], id="link to nothing"),
        pytest.param([_top(), _file(1, "x", link=0, digest=b"")], id="link to a directory"),
        pytest.param([_top(), _file(1, "x", size=-1)], id="negative"),
        pytest.param([_top(), _file(1, "x", digest=b"short")], id="no digest"),
        pytest.param([_top(), _file(1, "x", mode=0o644)], id="no type"),
        pytest.param([_top(), _file(1, "x", uid=-1)], id="no owner"),
        pytest.param([_top(), _file(2**30, "x")], id="a huge number"),
        pytest.param([_top(), *[replace(_top(), number=n, parent=n - 1, name="d" * 250)
                                for n in range(1, 40)]], id="a long path"),
    ],
)  # fmt: skip
def test_hostile_lists(ends: tuple[Peer, Peer], entries: list[Entry]) -> None:
    sink = DataSink(ends[0])
    write_entries(sink, entries)
    sink.finish()
    with pytest.raises(ProtocolError):
        take_listing(ends[1])


@pytest.mark.parametrize(
    "data", [b"", b"\1\0\0\0\1\0\0\0\x93", b"\xff" * 64, b"\1\0\0\0\2\0\0\0zz"]
)
def test_noise_instead_of_a_list(ends: tuple[Peer, Peer], data: bytes) -> None:
    sink = DataSink(ends[0])
    sink.write(data)
    sink.finish()
    with pytest.raises(ProtocolError):
        take_listing(ends[1])


def test_a_link_on_the_way_leads_nowhere(
    ends: tuple[Peer, Peer], source: Path, tmp_path: Path
) -> None:
    """Somebody swaps a directory for a link while the tree is made."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    taken = TakenTree(_listing(ends, source), target, (), ends[1], fresh=True)
    (target / "etc").symlink_to(outside)
    with pytest.raises(FileExistsError):
        taken.take(ends[1])
    with Place(target) as place:
        for attempt in (
            lambda: place.create("etc/x"),
            lambda: place.open("etc/x"),
            lambda: place.make("etc/x", _top(name="x")),
            lambda: place.adorn("etc/x", _top(name="x")),
            lambda: place.link("etc/x", "etc/x"),
            lambda: place.create("../outside/x"),
            lambda: place.create("/etc/x"),
        ):
            with pytest.raises((OSError, MigrateError)):
                attempt()
    assert list(outside.iterdir()) == []


def test_nothing_may_change_what_was_compared(ends: tuple[Peer, Peer], source: Path) -> None:
    tree = _sent(source, RootfsMode.PRESENT)
    tree.send_changes(ends[0])
    (source / "etc/plain").write_text("else")
    with pytest.raises(MigrateError, match=r"rootfs changed") as caught:
        tree.send_changes(ends[0])
    assert caught.value.reason == "rootfs-changed"


def test_more_than_was_asked_for_is_refused(ends: tuple[Peer, Peer], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    sink = DataSink(ends[0])
    write_entries(sink, [_top(), _file(1, "x", size=3), _file(2, "y")])
    sink.finish()
    taken = TakenTree(take_listing(ends[1]), target, (), ends[1], fresh=True)
    sink = DataSink(ends[0])
    with BlockWriter(sink) as blocks:
        put_data(blocks, 2, 0, b"not wanted")
    sink.finish()
    with pytest.raises(ProtocolError, match="not wanted"):
        taken.take(ends[1])
    assert sorted(path.name for path in target.iterdir()) == []


def test_content_that_goes_away_is_asked_for(
    ends: tuple[Peer, Peer], source: Path, tmp_path: Path
) -> None:
    """Of two files with one content the first is written to while it is sent."""
    target = tmp_path / "target"
    target.mkdir()
    tree = _sent(source)
    (source / "bin/same").write_text("other content")
    wanted = _facts(source)
    assert _move(ends, tree, target).report.sent_files == 6
    assert _facts(target) == wanted
