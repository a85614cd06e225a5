"""What is damaged: the image of a real job, and stores that hold it."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from formats.copying import copy_image
from formats.frames import FrameType
from formats.reader import ImageReader
from migrate.store.crypto import Secret
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store, init_store
from migrate.store.writer import writing
from scripts.benchmark.tool import Tool
from scripts.fuzzing.mutations import Original, assemble

_READY_WITHIN_S = 30.0
_KEPT_CHUNKS = 12  # of the real image, for the mutants that are only read
# A little of everything that images have records of.
JOB = r"""
import ctypes, mmap, os, select, signal, socket, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 3600, 3600)
pipe = os.pipe()
os.write(pipe[1], b"in the pipe")
one, two = socket.socketpair()
one.send(b"in the socket")
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
client.send(b"in the connection")
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
event = os.eventfd(7)
poll = select.epoll()
poll.register(event, select.EPOLLIN)
os.makedirs("/tmp/a/b", exist_ok=True)
open("/tmp/a/b/file", "w").write("a file")
os.symlink("../file", "/tmp/a/link")
os.mkfifo("/tmp/a/fifo")
gone = open("/tmp/gone", "w+")
gone.write("without a name")
gone.flush()
os.unlink("/tmp/gone")
memory = os.memfd_create("memory")
os.ftruncate(memory, 8192)
mapped = mmap.mmap(memory, 8192)
shared = mmap.mmap(-1, 16384)
shared[:6] = b"shared"
private = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
private[5000:5010] = b"0123456789"
libc = ctypes.CDLL(None)
segment = libc.shmget(0, 4096, 0o1600)
libc.semget(0, 2, 0o1600)
libc.msgget(0, 0o1600)
if os.fork() == 0:
    while True:
        signal.pause()
threading.Thread(target=lambda: time.sleep(10**6), daemon=True).start()
open("/tmp/ready", "w").write("yes")
while True:
    time.sleep(1)
"""


@dataclass(frozen=True)
class Subject:
    """What mutants are made of.

    Attributes:
        image: The real image, for mutants that are restored.
        small: The same with a few chunks, for mutants that are read.
        small_digest: `digest_of_contents` of it.
    """

    image: Original
    small: Original
    small_digest: bytes


@contextmanager
def real_image(tool: Tool, scratch: Path) -> Iterator[Subject]:
    """Checkpoint a real job."""
    path = scratch / "job.wherry"
    tool.run("do", "--detach", "--id", "job", "--", _python(), "-c", JOB)
    try:
        pid = tool.pid("job")
        deadline = time.monotonic() + _READY_WITHIN_S
        while not Path(f"/proc/{pid}/root/tmp/ready").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the job is not ready")
            time.sleep(0.01)
        tool.run("checkpoint", "--image-path", path, "job")
    finally:
        tool.run("delete", "--force", "job")
    image = Original(path.read_bytes())
    records = [one for one in image.frames if one[0] == FrameType.RECORDS]
    # The smallest ones: damage is the same in few bytes, and reading them is quick.
    kept = sorted(image.chunks, key=lambda one: len(one[2]))[:_KEPT_CHUNKS]
    small = Original(assemble([*records, *kept]))
    yield Subject(image, small, digest_of_contents(small.data))


def _python() -> str:
    return str(Path(sys.executable).resolve())


def digest_of_contents(data: bytes) -> bytes:
    """A digest of all that an image says, read as everybody reads it."""
    reader = ImageReader(io.BytesIO(data))
    found = blake3(repr(reader.records()).encode(errors="surrogateescape"))
    for chunk in reader.chunks():
        found.update(repr((chunk.object_id, chunk.offset, chunk.runs)).encode())
        plain = chunk.unpack()
        chunk.check_id(plain)
        found.update(plain)
    reader.finish()
    return found.digest()


@dataclass(frozen=True)
class StoreSubject:
    """A store that holds two snapshots.

    Attributes:
        path: Its directory.
        store: It, open.
        secret: Unlocks it; None when it is not encrypted.
        snapshots: What it holds.
        contents: A digest of each by id.
    """

    path: Path
    store: Store
    secret: Secret | None
    snapshots: list[Snapshot]
    contents: dict[bytes, bytes]


def make_store(path: Path, subject: Subject, *, encrypted: bool) -> StoreSubject:
    """A store with two snapshots that share most of their chunks."""
    from scripts.fuzzing.stores import read_contents

    secret = None
    if encrypted:
        key = X25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        secret = Secret("recipient", private=key, public=public)
    store = init_store(str(path), secret)
    records = [one for one in subject.small.frames if one[0] == FrameType.RECORDS]
    chunks = subject.small.chunks
    snapshots = []
    for kept in (chunks[:-2], chunks[2:]):
        with writing(store, workers=0) as writer:
            copy_image(ImageReader(io.BytesIO(assemble([*records, *kept]))), writer)
            snapshots.append(writer.publish(tags=("tag",)))
    contents = {one.snapshot_id: read_contents(store, one.snapshot_id) for one in snapshots}
    return StoreSubject(path, store, secret, snapshots, contents)
