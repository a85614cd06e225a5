"""The process that dumps a container for a migration and keeps it frozen until told otherwise.

It is forked before the connection is made, leaves the terminal's session, and writes the image
into a pipe; the command carries the bytes on to the other host. So dumping and encrypting run side
by side, and neither a Ctrl-C nor the death of the command can hurt the workload: when the command
is gone, the worker looks into the container's record. If that says that the container was given
away (handover.py), it stays frozen; else it is thawed. Should the worker itself be killed, the
monitor does the same (its lease, monitor.py).

Before that it may be asked for rounds of pre-copy, for which the container is not frozen but for a
moment. What tracks the writes is held by the worker alone, so it ends with it, whatever happens.

Conversation over a socket pair, as JSON lines: the command says ``round`` or ``left`` as often as
it likes, then ``dump``, and hangs up; the worker says ``progress``, ``taps`` (with the descriptors
of what takes down frames for the container), and ``done`` or ``error``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import importlib
import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from formats.adaptive import AdaptiveLevel
from formats.elsewhere import ElsewhereImageWriter, LateImageWriter
from formats.staged import StagedImageWriter
from formats.statefile import ImageWriter
from runtime.checkpoint_container import dumping, freeze_lease
from runtime.container import Container
from runtime.engine.api import CheckpointOptions, Progress, no_progress
from runtime.engine.dump import PASSING
from runtime.engine.network_hold import NetworkHold, owns_network
from runtime.error_report import error_from_json, error_to_json
from runtime.errors import ContainerError, RefusedError
from runtime.interrupt import Interrupted, raise_on_signals
from runtime.kernel import prctl
from runtime.kernel.frames import FrameTap
from runtime.line_socket import LineSocket
from runtime.metadata import HANDOVER, NETWORK_HOLD, update_metadata
from runtime.outlets import outlets
from runtime.sandbox.cgroups.throttle import Setting, throttle, unthrottle

if TYPE_CHECKING:
    from runtime.engine.precopy import PreCopy

log = logging.getLogger(__name__)

F_SETPIPE_SZ = 1031  # include/uapi/linux/fcntl.h
PIPE_SIZE = 1 << 20
SMALL = 1 << 20
WORKERS = 2  # threads that read, hash and compress
GATHER_BYTES, GATHER_S = 64 << 10, 0.002
_PROGRESS_INTERVAL_S = 0.1
_WRITERS: dict[tuple[bool, bool], type[ImageWriter]] = {
    (False, False): ImageWriter,
    (True, False): StagedImageWriter,
    (False, True): ElsewhereImageWriter,
    (True, True): LateImageWriter,
}
"""By whether there were rounds before, and whether something is asked for later."""


class DumpWorker:
    """The worker as the command sees it; a context manager that never leaves it behind.

    Leaving the context tells it to end: the container is thawed unless its record says that it was
    given away.
    """

    def __init__(self, container: Container, options: CheckpointOptions) -> None:
        """Fork it; call this before any thread exists."""
        ours, theirs = (LineSocket(end) for end in socket.socketpair())
        self._data, data_in = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(data_in, F_SETPIPE_SZ, PIPE_SIZE)
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()
        command = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                ours.close()
                os.close(self._data)
                _live(container, theirs, data_in, command, options)
            finally:
                os._exit(1)
        gc.unfreeze()
        theirs.close()
        os.close(data_in)
        self._line = ours
        self.taps: list[FrameTap] = []
        """What takes down frames that come for the frozen container; closed at our end."""
        self._before: list[Setting] = []  # to end a throttling by

    def __enter__(self) -> DumpWorker:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.end()
        for tap in self.taps:
            tap.close()

    def require_alive(self) -> None:
        """See that it keeps the container frozen.

        Raises:
            ContainerError: It was killed.
        """
        poll = select.poll()
        poll.register(self._line, 0)  # a hangup is told without being asked for
        if poll.poll(0):
            raise _killed()

    def end(self) -> None:
        """Let it finish: thaw, or keep frozen what was given away. Idempotent."""
        if self._pid == 0:
            return
        # Its writes fail from now on, and the end of the conversation tells it to unwind.
        if self._data >= 0:
            os.close(self._data)
            self._data = -1
        self._line.close()
        while True:
            try:
                os.waitpid(self._pid, 0)
                break
            except Interrupted:
                continue  # it is on its way; without it the workload might stay frozen
        self._pid = 0
        unthrottle(self._before)  # in case that it was killed

    def dump(
        self,
        send: Callable[[bytes], object],
        progress: Progress,
        idle: Callable[[], object],
        frozen: Callable[[], object],
        *,
        postcopy: bool = False,
    ) -> dict[str, Any]:
        """Freeze and dump; returns when the image's last byte has been passed to *send*.

        The container stays frozen.

        Args:
            send: Gets the image piece by piece.
            progress: As the engine reports it.
            idle: Called when there is nothing to send for the moment.
            frozen: Called when the container is frozen and before the first byte, again if it had
                to go on for a moment.
            postcopy: Leave out what can be asked for later.

        Returns:
            What `runtime.engine.api.DumpReport` holds, and ``began_ns``: CLOCK_MONOTONIC when the
            freeze began.

        Raises:
            RefusedError, CheckpointError: The container cannot be dumped, and goes on.
            MigrateError: What *send* raises.
        """
        self._frozen = frozen
        return self._do("dump", send, progress, idle, postcopy=postcopy)

    def round(
        self, send: Callable[[bytes], object], progress: Progress, idle: Callable[[], object]
    ) -> dict[str, Any]:
        """A round of pre-copy; returns when the last byte has been passed to *send*.

        Args:
            send: Gets the round's image piece by piece.
            progress: As the engine reports it.
            idle: Called when there is nothing to send for the moment.

        Returns:
            What `runtime.engine.precopy.Round` holds, and ``root``: the image's digest.

        Raises:
            RefusedError, CheckpointError: It could not be done; the container goes on.
            MigrateError: What *send* raises.
        """
        return self._do("round", send, progress, idle)

    def left(self) -> int:
        """About how many bytes of memory would have to be sent now."""
        return int(self._do("left", _no_data, no_progress, _nothing)["bytes"])

    def throttle(self, share: float) -> None:
        """Allow the container a part of all processors until the worker ends.

        Raises:
            ContainerError: Its cgroups cannot do that.
        """
        done = self._do("throttle", _no_data, no_progress, _nothing, share=share)
        if not self._before:
            self._before = [(str(path), str(value)) for path, value in done["before"]]

    def _do(
        self,
        what: str,
        send: Callable[[bytes], object],
        progress: Progress,
        idle: Callable[[], object],
        **details: object,
    ) -> dict[str, Any]:
        try:
            self._line.send({"op": what, **details})
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise _killed() from exc
        report: dict[str, Any] | None = None
        came = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._data, selectors.EVENT_READ)
            selector.register(self._line, selectors.EVENT_READ)
            while report is None or came < report["data_bytes"]:
                ready = selector.select(0)
                if not ready:
                    idle()
                    ready = selector.select()
                # What the worker says comes before the data that it is about.
                for key, _events in sorted(ready, key=lambda pair: pair[0].fd == self._data):
                    if key.fd == self._data:
                        data = os.read(self._data, PIPE_SIZE)
                        if not data:  # what is wrong, the line says
                            selector.unregister(self._data)
                        came += len(data)
                        send(data)
                    else:
                        report = self._listen(progress) or report
        return report

    def _listen(self, progress: Progress) -> dict[str, Any] | None:
        """Take in what the worker says; its report when that is among it."""
        report = None
        going_on = self._line.fill()
        while (message := self._line.next_message()) is not None:
            if "error" in message:
                raise error_from_json(message["error"])
            if "progress" in message:
                progress(*message["progress"])
            elif "taps" in message:
                fds = self._line.take_fds()
                for tap in self.taps:  # of an attempt that was refused
                    tap.close()
                pairs = zip(fds, message["taps"], strict=True)
                self.taps = [FrameTap.of_descriptor(fd, index) for fd, index in pairs]
            elif "frozen" in message:
                self._frozen()
            elif "done" in message:
                report = message["done"]
        if not going_on:
            raise _killed()
        return report


def _nothing() -> None:
    pass


def _no_data(data: bytes) -> None:
    assert not data


def _killed() -> ContainerError:
    return ContainerError("the dumping process was killed", reason="worker-killed")


# In the worker


def _live(
    container: Container, line: LineSocket, data: int, command: int, options: CheckpointOptions
) -> None:
    """The worker's whole life."""
    os.setsid()
    raise_on_signals(signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl.set_parent_death_signal(signal.SIGTERM)
    status = 1
    try:
        if os.getppid() != command:
            raise Interrupted(signal.SIGTERM)  # the command died before we asked to be told
        with contextlib.ExitStack() as held:
            _Worker(container, line, Gathered(data), options, held).serve()
        status = 0
    except Interrupted as exc:
        status = 128 + exc.signum
    except BaseException as exc:
        try:
            line.send({"error": error_to_json(exc)})
        except OSError:
            pass  # nobody listens any more
    finally:
        os._exit(status)


class Gathered:
    """A pipe that small pieces go into together, so that its reader does not wake for each of them.

    Attributes:
        total: Bytes so far.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._pending = bytearray()
        self._since = time.monotonic()
        self.total = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take all of *data*."""
        self.total += len(data)
        self._pending += data
        if len(self._pending) >= GATHER_BYTES or time.monotonic() - self._since > GATHER_S:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write all that was collected."""
        rest = memoryview(self._pending)
        while rest:
            rest = rest[os.write(self._pipe, rest) :]
        self._pending = bytearray()
        self._since = time.monotonic()


class _Worker:
    """Does what the command asks for, until it has dumped."""

    def __init__(
        self,
        container: Container,
        line: LineSocket,
        sink: Gathered,
        options: CheckpointOptions,
        held: contextlib.ExitStack,
    ) -> None:
        self._container = container
        self._line = line
        self._sink = sink
        self._options = options
        self._held = held
        self._precopy: PreCopy | None = None
        self._throttled = False
        self._left = SMALL  # bytes, at the last look
        self._postcopy = False
        self._level = AdaptiveLevel(WORKERS)

    def serve(self) -> None:
        while (request := self._line.receive()) is not None:
            sent = self._sink.total
            match request["op"]:
                case "dump":
                    self._postcopy = bool(request["postcopy"])
                    self._dump_and_hold()
                    return
                case "round":
                    done = self._round()
                case "left":
                    assert self._precopy is not None
                    self._left = self._precopy.left()
                    done = {"bytes": self._left}
                case "throttle":
                    done = {"before": self._throttle(float(request["share"]))}
                case other:
                    raise AssertionError(other)
            self._line.send({"done": {**done, "data_bytes": self._sink.total - sent}})

    def _round(self) -> dict[str, Any]:
        container = self._container
        if self._precopy is None:
            from runtime.engine.precopy import PreCopy

            container.reload()
            self._warm_up()
            self._precopy = PreCopy(container.cgroups, container.id)
            self._held.callback(self._precopy.close)
        adaptive = self._level
        with (
            freeze_lease(container.directory),
            ImageWriter(self._sink, workers=WORKERS, adaptive=adaptive) as writer,
        ):
            done = self._precopy.round(writer)
            self._sink.flush()
        if not container.cgroups.pids():
            raise ContainerError(
                f"{container.id}: it has ended while its memory was on its way",
                reason="ended-meanwhile",
            )
        root = self._precopy.roots[-1].hex()
        return {**dataclasses.asdict(done), "root": root, "level": adaptive.level}

    def _warm_up(self) -> None:
        """Do all that a dump begins with and that can be done before anything is frozen."""
        from runtime.engine import dump

        dump.warm_up()
        if self._postcopy:
            importlib.import_module("runtime.engine.lazy.deferral")
        dump.load_probes(self._container.cgroups)

    def _throttle(self, share: float) -> list[Setting]:
        before = throttle(self._container.cgroups, share)
        if not self._throttled:
            self._throttled = True
            self._held.callback(unthrottle, before)
        return before

    def _dump_and_hold(self) -> None:
        container = self._container
        container.reload()
        self._warm_up()
        with freeze_lease(container.directory), NetworkHold() as hold:
            try:
                sent = self._sink.total
                report = self._dump(hold)
                self._sink.flush()
                self._line.send({"done": {**report, "data_bytes": self._sink.total - sent}})
                self._line.receive()  # until the command says so, or is gone
            finally:
                if not _thawed(container, hold):
                    _leave_behind(container.directory, hold)

    def _dump(self, hold: NetworkHold) -> dict[str, Any]:
        """Freeze and dump, again if what stands in the way is gone when the program goes on."""
        deadline = time.monotonic() + self._options.timeout_s
        writer_class = _WRITERS[self._precopy is not None, self._postcopy]
        # For little memory, threads take longer than the work.
        workers = 0 if self._left < SMALL else WORKERS
        with writer_class(self._sink, workers=workers, adaptive=self._level) as writer:
            while True:
                try:
                    return self._try_to_dump(writer, hold)
                except RefusedError as exc:
                    passing = {refusal.reason for refusal in exc.refusals} <= PASSING
                    if time.monotonic() > deadline or not passing:
                        raise
                hold.release()
                self._container.cgroups.thaw()
                time.sleep(0.01)

    def _try_to_dump(self, writer: ImageWriter, hold: NetworkHold) -> dict[str, Any]:
        container, options = self._container, self._options
        began_ns = time.monotonic_ns()
        _freeze(container, options.timeout_s)
        freeze_ns = time.monotonic_ns() - began_ns
        self._line.send({"frozen": True})
        _hold_network(container, self._line, hold)
        with dumping(
            container,
            writer,
            _reporter(self._line),
            options,
            hold,
            precopy=self._precopy,
            postcopy=self._postcopy,
        ) as report:
            pass  # the image is complete, and the container is still frozen when the block is left
        report.freeze_ns += freeze_ns
        compression = {
            "level": self._level.main_level,
            "link_bytes_per_s": self._level.link_bytes_per_s,
            "compress_bytes_per_s": self._level.compress_bytes_per_s,
        }
        return {**dataclasses.asdict(report), "began_ns": began_ns, "compression": compression}


def _hold_network(container: Container, line: LineSocket, hold: NetworkHold) -> None:
    """Let no packet in any more, and take down what comes: it goes where the container goes."""
    if not owns_network(container.metadata.spec):
        return
    with contextlib.ExitStack() as opened:
        path = f"/proc/{container.pid}/ns/net"
        taps = [
            opened.enter_context(contextlib.closing(FrameTap(path, link.ifindex)))
            for link in outlets(container.pid)
        ]
        if taps:
            try:
                hold.shut(container.pid)
            except OSError as exc:
                log.info("packets for %s cannot be held: %s", container.id, exc)
            else:
                line.send({"taps": [tap.index for tap in taps]}, [tap.fileno() for tap in taps])


def _freeze(container: Container, timeout_s: float) -> None:
    """Freeze the cgroup, patiently: a task in vfork cannot freeze until its child has gone on.

    The engine finds the container frozen, as if it had been paused, and so leaves it frozen.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            container.cgroups.freeze(timeout_s=1.0)
            return
        except ContainerError:
            container.cgroups.thaw()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _thawed(container: Container, hold: NetworkHold) -> bool:
    """Let the container go on, unless its record says that it was given away."""
    try:
        with update_metadata(container.directory) as metadata:
            # Under the lock: nobody can give it away in between.
            if HANDOVER in metadata.extra:
                return False
            hold.release()
            container.cgroups.thaw()
    except ContainerError:
        return False  # destroyed, or its record: there is nothing to thaw
    return True


def _leave_behind(directory: Path, hold: NetworkHold) -> None:
    """Hold its peers off for as long as it stays frozen, which may be longer than we live."""
    token = hold.leave_behind()
    if token:
        # Destroyed meanwhile, it has no peers any more.
        with contextlib.suppress(ContainerError), update_metadata(directory) as metadata:
            metadata.extra[NETWORK_HOLD] = token


def _reporter(line: LineSocket) -> Progress:
    last: tuple[str, float] = ("", 0.0)

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if stage == last[0] and done != total and now - last[1] < _PROGRESS_INTERVAL_S:
            return
        last = (stage, now)
        try:
            line.send({"progress": [stage, done, total]})
        except OSError:
            pass  # the command is gone; our next write of data fails

    return report
