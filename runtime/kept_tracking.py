"""What a snapshot leaves at the monitor for the next one: armed write tracking, and known chunks.

The descriptors are the tracking (engine/tracking.py), so they must live somewhere between two
commands: in the container's monitor, which lives as long as the container and does nothing with
them. Whoever takes them from there owns them. What a snapshot learns from them is news only once,
so one that fails just lets go of them, and the next one reads all memory again.

The names of chunks that the memory had (formats.known_chunks) go along in a file without a name in
memory. They are good for one store only.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.external import ExternalImageWriter
from formats.known_chunks import KnownChunks
from runtime.engine.ranges import size_of
from runtime.engine.tracking import TrackedSpace, can_track
from runtime.monitor_client import MonitorClient, MonitorGoneError

if TYPE_CHECKING:
    from runtime.container import Container
    from runtime.engine.incremental import Incremental

log = logging.getLogger(__name__)

MAX_SPACES = 20
"""A message carries 64 descriptors. Further address spaces are tracked anew the next time."""
_FDS_OF_SPACE = 3


@dataclass(slots=True)
class Following:
    """A snapshot that follows an earlier one, or that others may follow.

    Attributes:
        incremental: Its rounds; None when it is taken without any.
        place: Names the store.
        since_last: Whether it has begun where an earlier snapshot had ended.
        why_not: Why it has not; empty when it has.
    """

    directory: Path
    place: str = ""
    incremental: Incremental | None = None
    since_last: bool = False
    why_not: str = ""

    def report(self) -> dict[str, Any]:
        """For the report of the snapshot; times in nanoseconds."""
        rounds = self.incremental.rounds if self.incremental is not None else []
        tracking = self.incremental.tracking if self.incremental is not None else None
        return {
            "since_last": self.since_last,
            "why_not": self.why_not,
            "rounds": len(rounds),
            "read_bytes": sum(done.memory_bytes for done in rounds),
            "freezes": tracking.freezes if tracking is not None else 0,
            "frozen_ns": tracking.frozen_ns if tracking is not None else 0,
        }

    def leave(self) -> None:
        """Leave tracking and known chunks at the monitor: the snapshot is complete."""
        if self.incremental is None:
            return
        if not self.incremental.used:
            why = "the last snapshot found its memory shared since a fork, or not to be tracked"
            with contextlib.suppress(MonitorGoneError), MonitorClient(self.directory) as client:
                client.request("keep", tracking=None, why=why)
            return
        known = self.incremental.known()
        spaces = sorted(self.incremental.used, key=lambda one: -size_of(known.runs(one.number)))
        for space in spaces[MAX_SPACES:]:
            known.forget(space.number)
        del spaces[MAX_SPACES:]
        names = os.memfd_create("wherry-known-chunks", os.MFD_CLOEXEC)
        try:
            rest = memoryview(known.pack())
            while rest:
                rest = rest[os.write(names, rest) :]
            tracking = {
                "place": self.place,
                "spaces": [[space.number, space.pid] for space in spaces],
            }
            fds = [names, *(fd for s in spaces for fd in (s.fd, s.page_map, s.memory))]
            with contextlib.suppress(MonitorGoneError), MonitorClient(self.directory) as client:
                client.request("keep", fds, tracking=tracking, why="")
        except OSError as exc:
            log.info("what is known of the memory is not kept: %s", exc)
        finally:
            os.close(names)


@contextlib.contextmanager
def following(container: Container, writer: ExternalImageWriter, place: str) -> Iterator[Following]:
    """Read a container's memory into *writer* while it runs, ahead of its snapshot.

    Args:
        container: Running. The caller holds the operation lock.
        writer: Of the snapshot.
        place: Names the store that *writer* writes to.

    Raises:
        ContainerError, StoreError: A round failed. The container goes on.
    """
    found = Following(container.directory, place)
    why_not = can_track()
    if why_not:
        found.why_not = f"this kernel cannot track writes: {why_not}"
        yield found
        return
    from runtime.checkpoint_container import freeze_lease
    from runtime.engine.dump import warm_up
    from runtime.engine.incremental import Incremental

    warm_up()
    incremental = found.incremental = Incremental(container.cgroups, container.id, writer)
    with contextlib.closing(incremental):
        found.why_not = _take(container.directory, incremental, place)
        found.since_last = not found.why_not
        # Tasks are frozen for a moment now and then; should we be killed in one, they are thawed.
        with freeze_lease(container.directory):
            incremental.run()
        if not incremental.tracking.spaces:
            found.since_last = False
            found.why_not = found.why_not or "no process is there any more that was tracked"
            found.incremental = None
        yield found


def _take(directory: Path, incremental: Incremental, place: str) -> str:
    """Take over what an earlier snapshot has left; why there is nothing, or an empty string."""
    try:
        client = MonitorClient(directory)
    except MonitorGoneError:
        return "the container has no monitor"
    with client:
        try:
            answer = client.request("take")
        except MonitorGoneError:
            return "the container has no monitor"
        fds = client.take_fds()
    tracking = answer["tracking"]
    if tracking is None:
        return str(answer["why"])
    places = tracking["spaces"]
    if len(fds) != 1 + _FDS_OF_SPACE * len(places):
        for fd in fds:
            os.close(fd)
        return "descriptors were lost on their way"
    of_space = iter(fds[1:])
    spaces = [
        TrackedSpace(number, pid, fd, page_map, memory)
        for (number, pid), fd, page_map, memory in zip(
            places, of_space, of_space, of_space, strict=True
        )
    ]
    with open(fds[0], "rb") as file:
        file.seek(0)
        raw = file.read()
    same = tracking["place"] == place
    incremental.adopt(spaces, KnownChunks.unpack(raw) if same else KnownChunks())
    return "" if same else "the last snapshot went to another store"
