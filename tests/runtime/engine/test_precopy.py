"""Memory that travels in rounds while the program writes to it: all of it is right at the end."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.errors import ImageError
from formats.records.codec import Record
from formats.records.memory import Staged, Staging
from formats.staged import StagedImageReader, StagedImageWriter, staged_records
from formats.statefile import ImageReader, ImageWriter
from runtime.checkpoint_container import dump_target
from runtime.container import Container
from runtime.creation import CreateRequest
from runtime.engine.api import RestoreOptions
from runtime.engine.dump import dumped
from runtime.engine.freeze import frozen
from runtime.engine.precopy import PreCopy, Round
from runtime.engine.staging import StagedMemory
from runtime.engine.tracking import can_track
from runtime.errors import RefusedError, RestoreError
from runtime.restore_container import plan_from_reader
from runtime.sandbox.descriptors import Stdio
from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import Stage, stage

pytestmark = pytest.mark.skipif(bool(can_track()), reason=can_track() or "can")
LIMIT = 256 << 20


@contextlib.contextmanager
def _rounds(container: Container) -> Iterator[PreCopy]:
    precopy = PreCopy(container.cgroups, container.id)
    try:
        yield precopy
    finally:
        precopy.close()


def _send(precopy: PreCopy, staged: StagedMemory) -> Round:
    """A round, as the other side takes it in."""
    image = io.BytesIO()
    with ImageWriter(image) as writer:
        done = precopy.round(writer)
    image.seek(0)
    staged.take(ImageReader(image, name="round"))
    assert staged.roots == precopy.roots
    return done


def _finish(
    wherry: Wherry,
    container: Container,
    precopy: PreCopy,
    staged: StagedMemory,
    *,
    lazy: bool = True,
) -> int:
    """Save what is left, end the container, and rebuild it under the id ``there``; staged bytes."""
    image = io.BytesIO()
    target = dump_target(container)
    with (
        StagedImageWriter(image) as writer,
        dumped(target, writer, precopy=precopy) as report,
    ):
        container.cgroups.kill_all()
    wait_until(lambda: container.status == "stopped")
    container.destroy(force=True)
    image.seek(0)
    reader = StagedImageReader(image, name="rest")
    plan = plan_from_reader(
        reader,
        image,
        None,
        spec=None,
        name="there",
        options=RestoreOptions(lazy=lazy),
        fds=[staged.fileno()],
        staged=staged,
    )
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = CreateRequest(
            cid="there",
            spec=plan.spec,
            bundle=plan.bundle,
            stdio=Stdio(null, null, null),
            overlay=plan.overlay,
            restore=plan,
        )
        Container.create(wherry.root, request).start()
    finally:
        os.close(null)
        staged.close()
    return report.staged_bytes


def _touch(wherry: Wherry, play: Stage, cid: str, name: str) -> Path:
    pid = json.loads(wherry("state", cid).stdout)["pid"]
    (Path(f"/proc/{pid}/root{play.control}") / name).touch()
    return wherry.root / cid / "overlay" / "upper" / play.control.relative_to("/")


def _step(wherry: Wherry, play: Stage, number: int) -> None:
    upper = _touch(wherry, play, "box", f"step-{number}")
    result = upper / "result"
    wait_until(lambda: (upper / f"stepped-{number}").exists() or result.exists(), 30, "a step")
    assert not result.exists(), result.read_text()


def _traces(container: Container) -> list[str]:
    """What tracking would leave behind in the processes of a container."""
    found = []
    for pid in container.cgroups.pids():
        maps = Path(f"/proc/{pid}/smaps").read_text()
        found += re.findall(r"VmFlags:.* u[mwi] .*", maps)
        for link in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{link}")
                found += [target] * ("userfaultfd" in target)
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("last", ["round", "step"])
def test_all_of_it_is_right(last: str, lazy: bool, wherry: Wherry, scratch: Path) -> None:
    """With the last changes in a round, and with the last changes behind it."""
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        staged = StagedMemory(LIMIT)
        with _rounds(container) as precopy:
            first = _send(precopy, staged)
            assert first.memory_bytes > 16 << 20 and first.settled
            for number in range(1, 5):
                _step(wherry, play, number)
                done = _send(precopy, staged)
                assert done.memory_bytes < first.memory_bytes * 2
            if last == "step":
                _step(wherry, play, 5)
            kept = _finish(wherry, container, precopy, staged, lazy=lazy)
        play.alive[:] = ["there"]
        assert kept > 8 << 20
        assert play.finish("there") == "ok"


@pytest.mark.parametrize(
    "name",
    [
        "memory.c",
        "copy_on_write.c",
        "copy_on_write_shared.c",
        "special_memory.c",
        "posix_shm.c",
        "sysv_shm.c",
        "memfd.c",
        "aio.c",
        "share_memory.c",
        "threads.c",
        "leader_exited.c",
    ],
)
def test_other_memory(name: str, wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, name) as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        staged = StagedMemory(LIMIT)
        with _rounds(container) as precopy:
            for _ in range(3):
                _send(precopy, staged)
            _finish(wherry, container, precopy, staged)
        play.alive[:] = ["there"]
        assert play.finish("there") == "ok"


@pytest.mark.parametrize("rounds", [1, 3])
def test_no_trace_when_it_is_given_up(rounds: int, wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        with contextlib.closing(StagedMemory(LIMIT)) as staged, _rounds(container) as precopy:
            for _ in range(rounds):
                _send(precopy, staged)
            assert any(" uw " in flags for flags in _traces(container))
            assert not [trace for trace in _traces(container) if "userfaultfd" in trace]
        assert _traces(container) == []
        assert play.finish("box") == "ok"


def test_no_trace_of_one_that_is_killed(wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        child = os.fork()
        if child == 0:
            try:
                precopy = PreCopy(container.cgroups, container.id)
                with ImageWriter(io.BytesIO()) as writer:
                    precopy.round(writer)
                os.kill(os.getpid(), 9)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        assert _traces(container) == []
        assert play.finish("box") == "ok"


def test_a_round_that_cannot_be_sent(wherry: Wherry, scratch: Path) -> None:
    class Full:
        def write(self, data: bytes | bytearray | memoryview, /) -> int:
            raise OSError(errno.EPIPE, "nobody there")

    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        with (
            _rounds(container) as precopy,
            pytest.raises(OSError, match="nobody there"),
            ImageWriter(Full()) as writer,
        ):
            precopy.round(writer)
        assert _traces(container) == []
        assert play.finish("box") == "ok"


def test_a_program_with_its_own_userfaultfd_is_refused(wherry: Wherry, scratch: Path) -> None:
    with stage(wherry, scratch, "refused/userfaultfd.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        with _rounds(container) as precopy, ImageWriter(io.BytesIO()) as writer:
            precopy.round(writer)
            with (
                pytest.raises(RefusedError, match="userfaultfd"),
                StagedImageWriter(io.BytesIO()) as rest,
                dumped(dump_target(container), rest, precopy=precopy),
            ):
                pass
        assert wherry.status("box") == "running"


def test_one_image_for_each_address_space_is_looked_at(wherry: Wherry, scratch: Path) -> None:
    """Processes that share one are tracked once: a scan takes the news away from others."""
    with stage(wherry, scratch, "precopy.c") as play:
        play.start("box")
        container = Container.load(wherry.root, "box")
        with _rounds(container) as precopy:
            with ImageWriter(io.BytesIO()) as writer:
                precopy.round(writer)
            before = dict(precopy.tracking.spaces)
            with ImageWriter(io.BytesIO()) as writer:
                precopy.round(writer)
            assert precopy.tracking.spaces == before and len(before) == 1
            with frozen(container.cgroups, container.id) as state:
                assert set(before) <= set(state.pids)


# What the other side must not believe


def _round_of(*pieces: tuple[int, int, bytes]) -> io.BytesIO:
    image = io.BytesIO()
    with ImageWriter(image, workers=0) as writer:
        for object_id, offset, content in pieces:

            def fill(buffer: memoryview, content: bytes = content) -> None:
                buffer[:] = content

            writer.add_chunk(object_id, offset, [(offset, len(content))], fill)
        writer.finish()
    image.seek(0)
    return image


def test_more_than_was_agreed_upon() -> None:
    with contextlib.closing(StagedMemory(2 << 20)) as staged:
        pieces = [(1, at << 20, bytes([at + 1]) * (1 << 20)) for at in range(4)]
        with pytest.raises(RestoreError) as caught:
            staged.take(ImageReader(_round_of(*pieces)))
        assert caught.value.reason == "staging-limit"


def test_content_beyond_any_address() -> None:
    with contextlib.closing(StagedMemory(2 << 20)) as staged, pytest.raises(ImageError):
        staged.take(ImageReader(_round_of((1, 1 << 50, b"x" * 4096))))


def _claims(roots: tuple[bytes, ...], *staged: Staged) -> list[Record]:
    return [Staging(roots), *staged]


def test_what_an_image_may_take() -> None:
    with contextlib.closing(StagedMemory(8 << 20)) as held:
        content = os.urandom(8192)
        held.take(ImageReader(_round_of((7, 0x10000, content))))
        roots = tuple(held.roots)

        def taken(*ranges: tuple[int, int], staged_id: int = 7) -> list[Record]:
            return _claims(roots, *staged_records(3, staged_id, ranges))

        source = held.for_image(taken((0x10000, 0x12000)))
        assert source is not None and source.runs(3) == [(0x10000, 0x12000)]
        assert bytes(source.read(3, 0x10000, 8192)) == content
        assert held.for_image([]) is None
        bad = [
            taken((0x10000, 0x13000)),
            taken((0xF000, 0x11000)),
            taken((0x10000, 0x11000), staged_id=8),
            [*taken((0x10000, 0x11000)), *taken((0x10000, 0x11000))[1:]],
            taken((0x10000, 0x11000))[1:],
            _claims((), *staged_records(3, 7, [(0x10000, 0x11000)])),
            _claims((*roots, b"x" * 32)),
            _claims(roots, Staged(3, 7, bytes(16))),
            _claims(roots, Staged(3, 7, b"x")),
            taken((0x10001, 0x11000)),
            [*taken((0x10000, 0x11000)), *staged_records(3, 8, [(0x11000, 0x12000)])],
        ]
        for records in bad:
            with pytest.raises((RestoreError, ImageError)):
                held.for_image(records)


def test_a_cut_round() -> None:
    image = _round_of((1, 0, os.urandom(1 << 20)))
    for size in (10, 1000, len(image.getvalue()) - 1):
        with contextlib.closing(StagedMemory(2 << 20)) as staged, pytest.raises(ImageError):
            staged.take(ImageReader(io.BytesIO(image.getvalue()[:size])))
