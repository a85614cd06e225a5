"""A container and what can be done with it.

Every method reads the record again and checks the init before it believes the recorded status; the
ones that change something hold the operation lock meanwhile (metadata.py).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

from runtime import hooks
from runtime.errors import ContainerError, ContainerNotFoundError, HookError
from runtime.interrupt import too_late
from runtime.metadata import HANDOVER, Metadata, OperationLock, read_metadata, update_metadata
from runtime.oci_state import oci_state
from runtime.starting import EXEC_FIFO
from runtime.state_root import find_directory, ids
from runtime.status import Status, require_status

if TYPE_CHECKING:
    from runtime.checkpoint_container import Sealer
    from runtime.creation import CreateRequest
    from runtime.engine.api import CheckpointOptions
    from runtime.exec_session import ExecHandle, ExecRequest
    from runtime.processes import ProcessLine
    from runtime.sandbox.cgroups import Cgroups
    from runtime.worker import Progress

log = logging.getLogger(__name__)

_FREEZE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list of containers.

    Attributes:
        id: The directory's name.
        container: None when the entry is half created or corrupt.
        error: Why there is no container, else an empty string.
    """

    id: str
    container: Container | None
    error: str = ""


class Container:
    """One container of a state root.

    Attributes:
        root: The state root.
        directory: Its own directory there.
        metadata: The record as it was last read.
    """

    def __init__(self, root: Path, metadata: Metadata) -> None:
        self.root = root
        self.directory = root / metadata.id
        self.metadata = metadata

    # Finding

    @classmethod
    def load(cls, root: Path, cid: str, *, exact: bool = False) -> Container:
        """The container with an id, which may be abbreviated unless *exact* is set.

        Raises:
            ContainerNotFoundError: No id begins with *cid*.
            AmbiguousIdError: Several do.
            ContainerError: The entry is half created or corrupt.
        """
        return cls(root, read_metadata(find_directory(root, cid, exact=exact)))

    @classmethod
    def list(cls, root: Path) -> Sequence[Entry]:
        """Every entry of a state root by id; also those that are half created or corrupt."""
        entries = []
        for cid in ids(root):
            try:
                entries.append(Entry(cid, cls(root, read_metadata(root / cid))))
            except ContainerNotFoundError:
                continue  # deleted while we looked
            except ContainerError as exc:
                entries.append(Entry(cid, None, str(exc)))
        return entries

    @classmethod
    def create(
        cls, root: Path, request: CreateRequest, *, meanwhile: Callable[[], None] | None = None
    ) -> Container:
        """Create a container; its program waits for ``start``. Errors: see creation.create.

        Args:
            root: The state root.
            request: What it shall be.
            meanwhile: Called while the monitor works, where it costs no time.
        """
        from runtime.creation import create

        return cls(root, read_metadata(create(root, request, meanwhile=meanwhile)))

    @classmethod
    def run(cls, root: Path, request: CreateRequest) -> Container:
        """Create a container and start it; when it does not start, nothing of it is left."""
        container = cls.create(root, request)
        try:
            container.start()
            too_late()
        except BaseException:
            container.destroy(force=True)
            raise
        return container

    # Looking

    @property
    def id(self) -> str:
        """The whole id."""
        return self.metadata.id

    @property
    def status(self) -> Status:
        """The status as it is now: the record, corrected by what the kernel says."""
        self.reload()
        return self._actual_status()

    @property
    def pid(self) -> int:
        """The init's pid in our pid namespace, -1 when there is none."""
        init = self.metadata.init
        return init.pid if init is not None and init.alive() else -1

    @property
    def cgroups(self) -> Cgroups:
        """The container's cgroups.

        Raises:
            ContainerError: It never came so far as to have any.
        """
        from runtime.sandbox.cgroups import Cgroups

        if self.metadata.cgroups is None:
            raise ContainerError(f"container {self.id!r} has no cgroup")
        return Cgroups.from_json(self.metadata.cgroups)

    def reload(self) -> None:
        """Read the record again."""
        self.metadata = read_metadata(self.directory)

    def state(self) -> dict[str, Any]:
        """The OCI state."""
        status = self.status
        return oci_state(self.metadata, status, self.pid)

    def processes(self) -> Sequence[ProcessLine]:
        """The processes of the container, those of exec sessions among them."""
        from runtime.processes import process_lines

        status = self.status
        require_status(
            self.id, status, "list processes of", Status.CREATED, Status.RUNNING, Status.PAUSED
        )
        return process_lines(self.cgroups.pids())

    def event(self) -> dict[str, Any]:
        """What the cgroup's counters say now, as ``runc events`` prints it."""
        require_status(
            self.id, self.status, "read events of", Status.CREATED, Status.RUNNING, Status.PAUSED
        )
        return {"type": "stats", "id": self.id, "data": self.cgroups.stats()}

    # Changing

    @contextlib.contextmanager
    def operation(self) -> Iterator[Status]:
        """Hold the operation lock, with the record read again; gives the actual status.

        Raises:
            ContainerNotFoundError: It does not exist any more.
        """
        with OperationLock(self.directory):
            self.reload()
            yield self._actual_status(locked=True)

    def start(self) -> None:
        """Start the program of a created container, or thaw a restored one.

        Raises:
            WrongStatusError: It is not *created*.
            HookError: A startContainer hook failed; the container is destroyed.
            ContainerError: The program could not be executed, or its memory not be filled; the
                container has stopped.
        """
        with self.operation() as status:
            if status is Status.STOPPED and self.metadata.frozen_restore:
                from runtime.filling import require_memory

                require_memory(self.directory)  # why it was killed says more
            require_status(self.id, status, "start", Status.CREATED)
            if self.metadata.frozen_restore:
                self._join_outside()
                self.cgroups.thaw()
            else:
                self._release()
            with update_metadata(self.directory) as metadata:
                # The program may have ended by now, and the monitor have written so.
                if metadata.status is Status.CREATED:
                    metadata.status = Status.RUNNING
                metadata.frozen_restore = False
            self.reload()
        # Not under the lock: a hook may well call us.
        poststart = self._hooks(hooks.POSTSTART)
        if poststart:
            state = oci_state(self.metadata, Status.RUNNING, self.pid)
            hooks.run_hooks_warning(poststart, state, name=hooks.POSTSTART)

    def _join_outside(self) -> None:
        if self.metadata.outside:
            from runtime.outside import join

            join(self.pid, self.metadata.outside)

    def deliver(self, frames: Sequence[tuple[int, bytes]]) -> None:
        """Hand it frames that came for it elsewhere, see `runtime.outside.deliver`."""
        if frames and self.metadata.outside:
            from runtime.outside import deliver

            deliver(self.metadata.outside, frames)

    def pause(self) -> None:
        """Freeze every process of a running container.

        Raises:
            WrongStatusError: It does not run.
            ContainerError: Some process does not freeze in time; all go on then.
        """
        with self.operation() as status:
            require_status(self.id, status, "pause", Status.RUNNING)
            cgroups = self.cgroups
            try:
                cgroups.freeze(_FREEZE_TIMEOUT_S)
            except BaseException:
                cgroups.thaw()
                raise
            with update_metadata(self.directory) as metadata:
                if metadata.status is Status.RUNNING:
                    metadata.status = Status.PAUSED

    def resume(self) -> None:
        """Thaw a paused container.

        Raises:
            WrongStatusError: It is not paused.
        """
        with self.operation() as status:
            require_status(self.id, status, "resume", Status.PAUSED)
            self.require_ours()
            # The record first: were we killed in between, `resume` can be said again.
            with update_metadata(self.directory) as metadata:
                if metadata.status is Status.PAUSED:
                    metadata.status = Status.RUNNING
            self.cgroups.thaw()

    def require_ours(self) -> None:
        """Refuse a container that a migration has given away and whose new owner is not heard of.

        Raises:
            ContainerError: It may run on another host by now; reason ``handover-pending``.
        """
        if HANDOVER in self.metadata.extra:
            raise ContainerError(
                f"container {self.id!r} was handed to another host, which may be running it; ask"
                f" with wherry migrate --status {self.id}",
                reason="handover-pending",
            )

    def signal(
        self,
        signum: int,
        *,
        every: bool = False,
        ns_pid: int | None = None,
        group: bool = False,
    ) -> None:
        """Send a signal; a container that has stopped gives a warning in the log, not an error.

        Args:
            signum: The signal's number.
            every: To all processes of the container.
            ns_pid: To the process with this pid as seen inside, instead of the init.
            group: To that process's whole process group.

        Raises:
            ContainerError: No process has the pid *ns_pid*.
        """
        from runtime.signalling import signal_all, signal_one

        status = self.status
        if status not in (Status.CREATED, Status.RUNNING, Status.PAUSED):
            log.warning("container %r is %s, signal %d was not sent", self.id, status, signum)
            return
        if every:
            signal_all(self.cgroups, signum)
        else:
            signal_one(self, signum, ns_pid=ns_pid, group=group)
        if signum == SIGKILL and ns_pid is None and status is Status.PAUSED:
            # A cgroup v1 freezer keeps even SIGKILL waiting until the thaw.
            self.cgroups.thaw()

    def execute(self, request: ExecRequest) -> ExecHandle:
        """Start a further process in a running container. Errors: see exec_session.execute."""
        from runtime.exec_session import execute

        with self.operation() as status:
            require_status(self.id, status, "exec in", Status.RUNNING)
            return execute(self, request)

    def update(self, resources: Mapping[str, Any]) -> None:
        """Change limits: *resources* is an OCI ``linux.resources`` with the values to change."""
        from runtime.limits import merged_resources

        with self.operation() as status:
            require_status(self.id, status, "update", Status.CREATED, Status.RUNNING, Status.PAUSED)
            raw, parsed = merged_resources(self.metadata, resources)
            self.cgroups.apply(parsed)
            with update_metadata(self.directory) as metadata:
                metadata.spec = raw

    def checkpoint(
        self,
        path: Path,
        *,
        leave_running: bool = False,
        progress: Progress | None = None,
        options: CheckpointOptions | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        sealer: Sealer | None = None,
    ) -> dict[str, Any]:
        """Save the program to a state file; then it stops, unless *leave_running* is set.

        Returns and errors: see checkpoint_container.checkpoint.
        """
        from runtime.checkpoint_container import checkpoint
        from runtime.engine.api import no_progress

        return checkpoint(
            self,
            path,
            leave_running=leave_running,
            progress=progress or no_progress,
            options=options,
            sign=sign,
            sealer=sealer,
        )

    def wait(self) -> int:
        """Wait for the init's end.

        Returns:
            Its wait status, as os.waitpid() gives it; also long after it has ended.

        Raises:
            ContainerError: With the reason ``exit-status-unknown``: it ended without a monitor,
                and its supervisor alone knows.
        """
        from runtime.waiting import wait_init

        return wait_init(self)

    # The init's process is the sandbox's first: runsc's name for the same thing.
    wait_root_pid = wait

    def wait_pid(self, ns_pid: int) -> int:
        """Wait for the end of the process with a pid as seen inside; returns its wait status."""
        from runtime.waiting import wait_namespace_pid

        return wait_namespace_pid(self, ns_pid)

    def destroy(self, *, force: bool = False) -> None:
        """Remove a container that has stopped, or with *force* any; nothing of it stays.

        Destroying one that is gone already does nothing.

        Raises:
            WrongStatusError: It has not stopped, and *force* is not set.
        """
        try:
            with self.operation() as status:
                if not force:
                    require_status(self.id, status, "delete", Status.STOPPED)
                self._tear_down()
        except ContainerNotFoundError:
            return
        poststop = self._hooks(hooks.POSTSTOP)
        if poststop:
            state = oci_state(self.metadata, Status.STOPPED, -1)
            hooks.run_hooks_warning(poststop, state, name=hooks.POSTSTOP)

    def destroy_and_wait(self) -> int | None:
        """Kill and remove the container.

        Returns:
            The init's wait status, None when there was no init or nobody could learn it.
        """
        try:
            with self.operation():
                from runtime.destruction import kill_processes

                kill_processes(self.metadata)
            status = self._known_exit_status()
        except ContainerNotFoundError:
            return None
        self.destroy(force=True)
        return status

    # Inside

    def _actual_status(self, *, locked: bool = False) -> Status:
        metadata = self.metadata
        status = metadata.status
        if status is Status.CREATING:
            # Whoever creates it holds the lock; when nobody does, the creator was killed.
            return status if not locked and _is_locked(self.directory) else Status.STOPPED
        if status is Status.STOPPED or metadata.init is None or not metadata.init.alive():
            return Status.STOPPED
        if status is Status.CREATED:
            return Status.CREATED if self._waits_for_start() else Status.RUNNING
        return Status.PAUSED if self._frozen() else Status.RUNNING

    def _frozen(self) -> bool:
        """Whether the cgroup is frozen.

        On cgroup v2 this reads the kernel's file itself: asking the cgroups' own module would
        double the time of every ``wherry state``, for all that it imports.
        """
        directory = (self.metadata.cgroups or {}).get("v2")
        if directory is None:
            return self.cgroups.frozen
        try:
            return "frozen 1" in Path(directory, "cgroup.events").read_text()
        except OSError:  # gone, or being removed
            return False

    def _waits_for_start(self) -> bool:
        """Whether a created container still waits: its ``start`` may have been killed half way."""
        if self.metadata.frozen_restore:
            return self._frozen()
        return (self.directory / EXEC_FIFO).exists()

    def _release(self) -> None:
        from runtime.starting import release_init

        try:
            release_init(self.directory, self.metadata)
        except HookError:
            self._tear_down()
            raise

    def _hooks(self, name: str) -> tuple[Mapping[str, Any], ...]:
        return tuple((self.metadata.spec.get("hooks") or {}).get(name) or ())

    def _tear_down(self) -> None:
        from runtime.destruction import tear_down

        tear_down(self.directory, self.metadata)

    def _known_exit_status(self) -> int | None:
        if self.metadata.init is None:
            return None
        try:
            return self.wait()
        except ContainerError:
            return None


def _is_locked(directory: Path) -> bool:
    lock = OperationLock(directory)
    try:
        if lock.acquire(blocking=False, shared=True):
            lock.release()
            return False
    except ContainerNotFoundError:
        return False
    return True
