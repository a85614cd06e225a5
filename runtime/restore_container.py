"""Restore, seen from outside the engine: a saved program into a container that is being created.

The command reads the image's records and judges the configuration (``plan_restore``); the builder,
which is the monitor by then, does the rest: the overlay's files before the sandbox mounts them, the
init with the engine's stub in it, then every task. At the end the container is frozen by its
cgroup, and *created*: ``start`` thaws it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from formats.errors import ImageCorruptError, Refusal, WherryError
from formats.signature import Signed
from formats.statefile import ImageReader, open_image
from runtime import spec_diff
from runtime.engine.api import OutsideLink, Progress, RestoreOptions, no_progress
from runtime.engine.restore import Restore
from runtime.errors import RefusedError, RestoreError
from runtime.filling import note_failure, note_pager, require_memory
from runtime.kernel.executable import new_executable
from runtime.metadata import ExecSession, file_identity
from runtime.process import ProcessRef
from runtime.sandbox.restore_stub import RestoreStub

if TYPE_CHECKING:
    from formats.sealed_file import Unlock
    from runtime.engine.lazy.process import Surroundings
    from runtime.engine.lazy.source import FarSource
    from runtime.engine.staging import StagedMemory
    from runtime.sandbox.cgroups import Cgroups
    from runtime.sandbox.descriptors import Stdio
    from runtime.sandbox.enter import StubProcess
    from runtime.sandbox.launch import InitProcess
    from runtime.sandbox.overlay import Overlay

log = logging.getLogger(__name__)


class Closable(Protocol):
    """What a restore closes at its end."""

    def close(self) -> None:
        """Close it."""


def _nothing() -> None:
    pass


class ImageSource(Closable, Protocol):
    """Where an image comes from: any binary file that reads into buffers."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* or a part of it; the count of bytes, 0 at the end."""


class Restoring(Protocol):
    """What whoever makes a container asks of what shall be in it."""

    @property
    def hash_seed(self) -> str:
        """Of the saved overlay's own file system; empty if it had none."""

    @property
    def sessions(self) -> list[ExecSession]:
        """What exec had brought in, once it is built again."""

    @property
    def outside(self) -> list[OutsideLink]:
        """The interfaces that lead outside, once it is built again."""

    def origin(self) -> dict[str, Any]:
        """Where the container comes from, for its record."""

    def build(
        self,
        *,
        overlay: Overlay | None,
        cgroups: Cgroups,
        stdio: Stdio,
        create_init: Callable[[RestoreStub], InitProcess],
        progress: Progress = no_progress,
        directory: Path,
    ) -> InitProcess:
        """Build the init and the saved tasks around it, frozen; see `RestorePlan.build`."""


class RestorePlan:
    """A restore that was judged possible, with its image opened.

    Attributes:
        spec: The OCI configuration for the new container.
        bundle: Directory that relative paths of *spec* start at.
        overlay: Whether the container gets an overlay, as the saved one had.
        hash_seed: Of the saved overlay's own file system; empty if it had none.
        differences: What differs from the image's configuration and does not stand in the way.
        sessions: What exec had brought in, once it is built again.
        outside: The interfaces that lead outside, once it is built again.
        handover: Token of the migration that brings it; empty for none.
    """

    def __init__(
        self,
        restore: Restore,
        source: Closable,
        *,
        bundle: Path | None,
        spec: dict[str, Any] | None,
        name: str,
        path: str,
        settle: Callable[[], None],
        lazy: bool = False,
        fds: Sequence[int] = (),
        far: FarSource | None = None,
    ) -> None:
        image = restore.image
        metadata = image.metadata if isinstance(image.metadata, dict) else {}
        saved = image.spec if isinstance(image.spec, dict) else {}
        self.differences: list[spec_diff.Difference] = []
        self.overlay = bool(metadata.get("overlay"))
        self.hash_seed = hash_seed_of(metadata.get("hash_seed"))
        if spec is None:
            spec = spec_for(saved, image.container_id, name)
        else:
            self.differences, refusals = spec_diff.judge(saved, spec)
            if refusals:
                raise RefusedError(f"cannot restore {name} with this configuration", refusals)
        for difference in self.differences:
            log.info("%s: %s", difference.path, difference.verdict)
        self.spec = spec
        self.bundle = bundle or Path(str(metadata.get("bundle") or "/"))
        self._restore = restore
        self._source = source
        self._settle = settle
        self._lazy = lazy
        self._fds = fds
        self._far = far
        self._name = name
        self._path = path
        self.sessions: list[ExecSession] = []
        self.outside: list[OutsideLink] = []
        self.handover = ""
        self._commands = _commands(metadata.get("exec_sessions"))
        self._created = image.created_ns
        self._container_id = image.container_id

    def origin(self) -> dict[str, Any]:
        """Where the container comes from, for its record."""
        return {
            "image": self._path,
            "container_id": self._container_id,
            "created_ns": self._created,
            "handover": self.handover,
        }

    def build(
        self,
        *,
        overlay: Overlay | None,
        cgroups: Cgroups,
        stdio: Stdio,
        create_init: Callable[[RestoreStub], InitProcess],
        progress: Progress = no_progress,
        directory: Path,
    ) -> InitProcess:
        """Build the container's init and rebuild the saved tasks around it, frozen.

        Args:
            overlay: The new container's overlay; its upper directory is filled first.
            cgroups: The new container's cgroups, already made.
            stdio: What stands in for the standard streams that came from outside.
            create_init: Makes the sandbox around the given stub.
            progress: Told about memory.
            directory: The new container's.

        Raises:
            RestoreError, RefusedError, ImageError: It failed; the caller destroys what was made.
        """
        with (
            _fitting_together(self._name),
            self._restore as restore,
            contextlib.closing(self._source),
            self._reaching(directory),
        ):
            if overlay is not None:
                overlay.make_directories()
                restore.fill_overlay(str(overlay.upper), own=bool(overlay.hash_seed))
            else:
                restore.fill_overlay(None)
            # Only a process without threads may enter a time namespace, setns(2).
            self._settle()
            monotonic_ns, boottime_ns = restore.clock_offsets()
            with _stub_file() as elf_fd:
                stub = RestoreStub(
                    elf_fd,
                    restore.make_channel(),
                    monotonic_ns,
                    boottime_ns,
                    before_hooks=restore.hold_network,
                    devices=restore.devices(),
                )
                try:
                    init = create_init(stub)
                    make_session = partial(self._make_session, init, cgroups, stub)
                    try:
                        streams = (stdio[0], stdio[1], stdio[2])
                        around = self._surroundings(init, cgroups, directory)
                        restore.build(init, streams, cgroups, make_session, progress, around)
                        restore.release(cgroups)
                        self.outside = restore.report.outside
                    except BaseException:
                        init.kill()
                        if self._lazy:
                            require_memory(directory)  # that it could not be filled says more
                        raise
                finally:
                    os.close(stub.channel_fd)
        for warning in restore.report.warnings:
            log.warning("%s: %s", self._name, warning)
        return init

    @contextlib.contextmanager
    def _reaching(self, directory: Path) -> Iterator[None]:
        """Have what the image leaves out within reach."""
        if self._far is None:
            yield
            return
        try:
            self._far.open(directory)
            yield
        finally:
            self._far.leave()

    def _surroundings(
        self, init: InitProcess, cgroups: Cgroups, directory: Path
    ) -> Surroundings | None:
        if not self._lazy:
            return None
        from runtime.building import MONITOR_LOG
        from runtime.engine.lazy.process import Surroundings

        process = ProcessRef.of(init.pid)

        def alive() -> bool:
            return process.alive() or bool(cgroups.pids())

        return Surroundings(
            log_path=directory / MONITOR_LOG,
            settle=self._settle,
            fds=self._fds,
            started=partial(note_pager, directory),
            record=partial(note_failure, directory),
            kill=cgroups.kill_all,
            alive=alive,
        )

    def _make_session(
        self, init: InitProcess, cgroups: Cgroups, stub: RestoreStub, ns_pid: int
    ) -> StubProcess:
        from runtime.sandbox.enter import enter_as_stub

        process = enter_as_stub(init.pid, ns_pid, cgroups=cgroups, stub=stub)
        init.companions.append(process.pid)
        with open(os.devnull) as null:  # where the caller's streams were
            stdio = [file_identity(null.fileno())] * 3
        args = self._commands.get(ns_pid, [])
        self.sessions.append(ExecSession(ProcessRef.of(process.pid), ns_pid, args, stdio=stdio))
        return process


def hash_seed_of(saved: Any) -> str:
    """The seed of the saved overlay's file system, if it is one; the image may hold anything."""
    return saved if isinstance(saved, str) and re.fullmatch("[0-9a-f]{32}", saved) else ""


def _commands(saved: Any) -> dict[int, list[str]]:
    """The commands of exec sessions by pid inside, for messages; the image may hold anything."""
    return {
        entry["ns_pid"]: [str(arg) for arg in entry["args"]]
        for entry in saved or []
        if isinstance(entry, dict)
        and isinstance(entry.get("ns_pid"), int)
        and isinstance(entry.get("args"), list)
    }


def plan_restore(
    path: Path,
    bundle: Path | None,
    cid: str,
    options: RestoreOptions | None = None,
    *,
    judge: Callable[[FileIO], Signed] | None = None,
    unlock: Unlock | None = None,
) -> RestorePlan:
    """Open a state file and judge whether it can be restored here.

    Args:
        path: The state file.
        bundle: The new container's bundle; None takes the one that the image names, with the
            configuration from the image.
        cid: The new container's id, for messages.
        options: What the caller gives or allows.
        judge: Looks at the file before anything of it is used and raises, or says which signature
            it must have.
        unlock: Finds the key of an encrypted file.

    Raises:
        ImageError: The file is no image, damaged, or of a newer version.
        SpecError: The bundle's configuration is invalid.
        RefusedError: The host or the bundle does not fit; names every reason.
    """
    spec = None
    if bundle is not None:
        from runtime.spec import load_spec

        spec = load_spec(bundle).raw
    source = open_image(path, unlock)
    try:
        signed = None if judge is None else judge(source)
        if options is not None and options.lazy:
            from formats.random_access import RandomAccessReader

            reader = RandomAccessReader(source)
            if signed is not None:
                reader.expect(signed)
            return plan_from_reader(
                reader,
                source,
                bundle,
                spec=spec,
                name=cid,
                image=str(path),
                options=options,
                fds=[source.fileno()],
            )
        return plan_from_source(
            source, bundle, spec=spec, name=cid, image=str(path), options=options, signed=signed
        )
    except BaseException:
        source.close()
        raise


def plan_from_source(
    source: ImageSource,
    bundle: Path | None,
    *,
    spec: dict[str, Any] | None,
    name: str,
    image: str = "",
    options: RestoreOptions | None = None,
    signed: Signed | None = None,
) -> RestorePlan:
    """Judge an image that comes from anywhere, also from a pipe, at its start.

    Args:
        source: The image's bytes. The plan owns it from now on.
        bundle: As for plan_restore.
        spec: The configuration of *bundle*; None takes the image's.
        name: The new container's id, for messages.
        image: Where the image lies, for the container's record.
        options: What the caller gives or allows.
        signed: The signature that was judged; the image must still be the one that it is of.

    Raises:
        ImageError, RefusedError: As plan_restore.
    """
    reader = ImageReader(source)
    if signed is not None:
        reader.expect(signed)
    return plan_from_reader(
        reader, source, bundle, spec=spec, name=name, image=image, options=options
    )


def plan_from_reader(
    reader: ImageReader,
    source: Closable,
    bundle: Path | None,
    *,
    spec: dict[str, Any] | None,
    name: str,
    image: str = "",
    options: RestoreOptions | None = None,
    settle: Callable[[], None] = _nothing,
    fds: Sequence[int] = (),
    staged: StagedMemory | None = None,
    far: FarSource | None = None,
) -> RestorePlan:
    """As plan_from_source, for whoever has an ImageReader of another kind.

    Args:
        reader: The image, at its start.
        source: Closed at the end.
        bundle, spec, name, image, options: As for plan_from_source.
        settle: Called before the sandbox is made. No thread may run after it until contents are
            asked for again.
        fds: What reading contents later needs open.
        staged: What came in rounds before the image.
        far: Has what the image leaves out.
    """
    with _fitting_together(name):
        options = options or RestoreOptions()
        restore = Restore(reader, name, options, staged, far)
        restore.check_host()
        return RestorePlan(
            restore,
            source,
            bundle=bundle,
            spec=spec,
            name=name,
            path=image,
            settle=settle,
            lazy=options.lazy,
            fds=fds,
            far=far,
        )


@contextlib.contextmanager
def _fitting_together(name: str) -> Iterator[None]:
    """Say of an image that its records make no sense together.

    Each record has the right types, and each step undoes what it has done when another fails. But
    an image comes from anywhere, and whoever forges one can let records name what is not there,
    or numbers that fit no system call: the step that finds it out raises what Python has for that.
    """
    try:
        yield
    except (WherryError, ConnectionError, EOFError):
        raise
    except OSError as exc:
        if exc.strerror is None:
            raise
        place = "" if exc.filename is None else f"{os.fsdecode(exc.filename)}: "
        raise RestoreError(f"cannot restore {name}: {place}{exc.strerror}") from exc
    except Exception as exc:
        error = ImageCorruptError(
            f"cannot restore {name}: the image's records do not fit together "
            f"({type(exc).__name__}: {exc}); if nobody has changed it, run again with --debug and "
            "report this",
            reason="image-inconsistent",
        )
        error.add_note("".join(traceback.format_exception(exc)))
        raise error from exc


def spec_for(saved: dict[str, Any], saved_id: str, name: str) -> dict[str, Any]:
    """A saved configuration for a new container.

    Args:
        saved: The configuration.
        saved_id: Of the container that had it.
        name: The new container's id.

    Raises:
        RefusedError: It joined namespaces by a path, which nobody can judge without a bundle.
    """
    spec = _without_place(saved)
    if spec.get("hostname") == saved_id:
        # It was named for its id, as `wherry do` does: so is the new one.
        spec["hostname"] = name
    return spec


def _without_place(saved: dict[str, Any]) -> dict[str, Any]:
    """The image's configuration for a new container, without what only one can have.

    Raises:
        RefusedError: It joined namespaces by a path, which nobody can judge without a bundle.
    """
    spec = copy.deepcopy(saved)
    linux = spec.get("linux") or {}
    # The saved container may well run beside the new one.
    linux.pop("cgroupsPath", None)
    # Hooks are programs that run on this host: only a bundle of this host may name them.
    if spec.pop("hooks", None):
        log.warning("the image's hooks are not run here; give a --bundle that names them")
    refusals = [
        Refusal(
            "spec-namespaces",
            f"linux.namespaces[{entry['type']}].path",
            f"is {entry['path']}; give a --bundle that says what to join here",
        )
        for entry in linux.get("namespaces") or []
        if entry.get("path")
    ]
    if refusals:
        raise RefusedError("cannot restore without a bundle", refusals)
    return spec


@contextlib.contextmanager
def _stub_file() -> Iterator[int]:
    """The engine's stub as an executable file without a name."""
    from runtime.engine.arch import x86_64 as arch

    fd = new_executable("wherry-restore")
    try:
        os.write(fd, arch.stub_elf())
        yield fd
    finally:
        os.close(fd)
