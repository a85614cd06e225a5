"""A container's cgroup in every hierarchy of the host."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import ContainerError
from runtime.kernel import bpf
from runtime.sandbox.cgroups.devices import bpf_program, complete_rules, v1_lines
from runtime.sandbox.cgroups.freezer import (
    begin_freeze_v1,
    begin_freeze_v2,
    freeze_v1,
    freeze_v2,
    is_asked_for_v1,
    is_asked_for_v2,
    is_frozen_v1,
    is_frozen_v2,
    thaw_v1,
    thaw_v2,
)
from runtime.sandbox.cgroups.hierarchy import Hierarchy, find_hierarchies, write_file
from runtime.sandbox.cgroups.limits import Write, plan_writes
from runtime.sandbox.cgroups.stats import read_stats
from runtime.sandbox.cgroups.tree import (
    REMOVE_POLL_S,
    enable_controllers,
    inherit_cpuset,
    pids_below,
    remove_tree,
)
from runtime.sandbox.steps import step
from runtime.spec.model import Resources, Spec
from runtime.spec.reader import unsupported

_REMOVE_TIMEOUT_S = 5.0
_KILL_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Cgroups:
    """One cgroup per hierarchy, under the same name where the layout allows.

    Attributes:
        v1: Hierarchy key (``"cpu,cpuacct"``, ``"name=systemd"``) to the directory.
        v2: Directory in the cgroup v2 tree, None on a host without one.
        parents: Directories above them that did not exist when this was planned, innermost last.
        exclusive: The name is our own choice, so an existing directory is somebody else's.
        made: ``create()`` of this very object has made them.
    """

    v1: dict[str, Path]
    v2: Path | None
    parents: list[Path] = field(default_factory=list)
    exclusive: bool = False
    made: bool = field(default=False, compare=False)

    # -- planning

    @classmethod
    def plan(cls, cid: str, spec: Spec) -> Cgroups:
        """Choose the directories of a container; nothing is made yet.

        ``linux.cgroupsPath`` that begins with ``/`` starts at the root of each hierarchy, another
        one at our own cgroup. Without one the name is ``wherry-<id>-`` and eight random digits,
        since containers of two state roots may have the same id.

        Raises:
            SpecError: A limit that *spec* asks for has no controller here.
            ContainerError: No cgroup hierarchy is mounted.
        """
        hierarchies = find_hierarchies()
        if not hierarchies:
            why = "no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup"
            raise ContainerError(f"cgroups: {why}", reason="no-cgroups")
        _check_limits(spec.linux.resources, hierarchies)
        path = spec.linux.cgroups_path
        if path:
            return cls._at(hierarchies, path, exclusive=False)
        name = f"wherry-{cid}-{os.urandom(4).hex()}"
        return cls._at(hierarchies, name, exclusive=True)

    @classmethod
    def _at(cls, hierarchies: list[Hierarchy], path: str, *, exclusive: bool) -> Cgroups:
        v1: dict[str, Path] = {}
        v2: Path | None = None
        parents: list[Path] = []
        for hierarchy in hierarchies:
            if path.startswith("/"):
                directory = hierarchy.directory(path)
            else:
                directory = _start(hierarchy, alone=len(hierarchies) == 1) / path
            missing = directory.parent
            above: list[Path] = []
            while not missing.exists():
                above.insert(0, missing)
                missing = missing.parent
            parents += above
            if hierarchy.version == 2:
                v2 = directory
            else:
                v1[hierarchy.key] = directory
        return cls(v1, v2, parents, exclusive)

    def to_json(self) -> dict[str, Any]:
        """For the container's record."""
        return {
            "v1": {key: str(path) for key, path in self.v1.items()},
            "v2": None if self.v2 is None else str(self.v2),
            "parents": [str(path) for path in self.parents],
            "exclusive": self.exclusive,
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Cgroups:
        """From the container's record."""
        return cls(
            {key: Path(path) for key, path in obj["v1"].items()},
            None if obj["v2"] is None else Path(obj["v2"]),
            [Path(path) for path in obj["parents"]],
            bool(obj["exclusive"]),
        )

    def directories(self) -> list[Path]:
        """All directories of the container."""
        return [*self.v1.values(), *([] if self.v2 is None else [self.v2])]

    def directories_by_hierarchy(self) -> dict[str, Path]:
        """All directories by the hierarchy, as /proc/PID/cgroup calls it: nothing for cgroup v2."""
        return self.v1 | ({} if self.v2 is None else {"": self.v2})

    def controllers(self) -> dict[str, Path]:
        """Directory of each cgroup v1 controller."""
        return {name: path for key, path in self.v1.items() for name in key.split(",")}

    @property
    def exists(self) -> bool:
        """Whether the directories are there."""
        return all(directory.is_dir() for directory in self.directories())

    # -- making

    def create(self) -> None:
        """Make the directories.

        Raises:
            ContainerError: One is there and is somebody else's, or the kernel refused; what was
                made is removed again.
        """
        made: list[Path] = []
        try:
            for directory in self.directories():
                with step(f"make cgroup {directory}", reason="cgroup"):
                    self._make(directory, made)
                if "cpuset" in self.controllers() and directory == self.controllers()["cpuset"]:
                    inherit_cpuset(directory)
        except BaseException:
            for directory in reversed(made):
                with suppress(OSError):
                    directory.rmdir()
            raise
        self.made = True

    def _make(self, directory: Path, made: list[Path]) -> None:
        for parent in self.parents:
            if parent in directory.parents and not parent.exists():
                with suppress(FileExistsError):
                    parent.mkdir()
                    made.append(parent)
        try:
            directory.mkdir()
            made.append(directory)
        except FileExistsError:
            pids = pids_below(directory)
            if self.exclusive or pids:
                why = f"has processes {sorted(pids)[:5]}" if pids else "exists already"
                message = f"cgroup {directory} {why}; is it another container's?"
                raise ContainerError(message, reason="cgroup-exists") from None

    def apply(self, resources: Resources) -> None:
        """Set limits and device rules.

        Raises:
            SpecError: A limit cannot be had here; names its configuration path.
        """
        v1 = self.controllers()
        v2_controllers = frozenset[str]()
        if self.v2 is not None:
            v2_controllers = frozenset((self.v2 / "cgroup.controllers").read_text().split())
            available = (self.v2.parent / "cgroup.controllers").read_text().split()
            v2_controllers |= frozenset(available)
        writes = plan_writes(resources, frozenset(v1), v2_controllers)
        if self.v2 is not None:
            wanted = {write.controller for write in writes} - set(v1) - {"cgroup"}
            enable_controllers(self.v2, wanted, everything=not self.v1)
        for write in self._ordered(writes):
            directory = v1.get(write.controller, self.v2)
            if directory is None or (write.path.startswith("linux.resources.unified")):
                directory = self.v2
            assert directory is not None  # plan_writes found the controller
            _write_limit(directory / write.file, write)
        self._apply_devices(resources)

    def _ordered(self, writes: list[Write]) -> list[Write]:
        """Raise memory with swap before memory, and lower them the other way round."""
        memsw = next((w for w in writes if w.file == "memory.memsw.limit_in_bytes"), None)
        if memsw is None:
            return writes
        file = self.controllers()["memory"] / memsw.file
        if not file.exists():
            return writes
        raising = memsw.value == "-1" or int(memsw.value) > int(file.read_text())
        if not raising:
            return writes
        return [memsw, *(write for write in writes if write is not memsw)]

    def _apply_devices(self, resources: Resources) -> None:
        rules = complete_rules(resources.devices)
        directory = self.controllers().get("devices")
        if directory is not None:
            for file, line in v1_lines(rules):
                with step(f"write {line!r} to {directory / file} (linux.resources.devices)"):
                    write_file(directory / file, line)
            return
        if self.v2 is None:
            raise unsupported("linux.resources.devices", "this host has no device controller")
        with step("load the device program (linux.resources.devices)", reason="cgroup"):
            program = bpf.load_program(
                bpf.BPF_PROG_TYPE_CGROUP_DEVICE, bpf_program(rules), "wherry_devices"
            )
            try:
                _attach_device_program(self.v2, program)
            finally:
                os.close(program)

    def add(self, pid: int) -> None:
        """Move a process into the container's cgroups.

        Raises:
            ContainerError: The kernel refused, for instance at a limit on processes.
        """
        for directory in self.directories():
            with step(f"add process {pid} to cgroup {directory}", reason="cgroup"):
                write_file(directory / "cgroup.procs", str(pid))

    # -- watching and stopping

    def pids(self) -> list[int]:
        """All processes of the container, also in cgroups it made itself; in our pid namespace."""
        directory = self._process_directory()
        return [] if directory is None else sorted(pids_below(directory))

    def _process_directory(self) -> Path | None:
        if self.v2 is not None:
            return self.v2
        controllers = self.controllers()
        for name in ("freezer", "pids", "memory"):
            if name in controllers:
                return controllers[name]
        return next(iter(self.v1.values()), None)

    def freeze(self, timeout_s: float = 10.0) -> None:
        """Stop every task where it is and wait until all have stopped.

        Raises:
            ContainerError: Not all stopped within *timeout_s* (all run again), or there is no
                freezer.
        """
        directory, version = self._freezer()
        with step(f"freeze {directory}", reason="freeze"):
            if version == 2:
                freeze_v2(directory, timeout_s)
            else:
                freeze_v1(directory, timeout_s)

    def begin_freeze(self) -> None:
        """Ask for the freeze, without waiting for it: whoever traces the tasks sees them stop."""
        directory, version = self._freezer()
        with step(f"freeze {directory}", reason="freeze"):
            if version == 2:
                begin_freeze_v2(directory)
            else:
                begin_freeze_v1(directory)

    def thaw(self) -> None:
        """Let every task run again; nothing happens to one that runs."""
        directory, version = self._freezer()
        with step(f"thaw {directory}", reason="freeze"):
            if version == 2:
                thaw_v2(directory)
            else:
                thaw_v1(directory)

    @property
    def frozen(self) -> bool:
        """Whether all tasks are frozen; False when the cgroup is gone."""
        return self._ask_freezer(is_frozen_v2, is_frozen_v1)

    @property
    def freezing(self) -> bool:
        """Whether tasks are frozen or about to be; False when the cgroup is gone."""
        return self._ask_freezer(is_asked_for_v2, is_asked_for_v1)

    def _ask_freezer(self, v2: Callable[[Path], bool], v1: Callable[[Path], bool]) -> bool:
        directory, version = self._freezer()
        try:
            return (v2 if version == 2 else v1)(directory)
        except (FileNotFoundError, OSError) as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def _freezer(self) -> tuple[Path, int]:
        # The v2 freezer wherever a v2 tree is mounted, also beside v1 controllers: its frozen
        # tasks can be killed and traced, which v1's cannot.
        if self.v2 is not None:
            return self.v2, 2
        directory = self.controllers().get("freezer")
        if directory is None:
            why = "this host has neither a cgroup v2 tree nor the v1 freezer controller"
            raise ContainerError(f"freeze: {why}", reason="no-freezer")
        return directory, 1

    def kill_all(self) -> None:
        """Send SIGKILL to every process, also to those that are being forked right now.

        Does not wait for them to be gone; ``destroy`` does.
        """
        if self.v2 is not None:
            with suppress(FileNotFoundError):
                write_file(self.v2 / "cgroup.kill", "1")
                return
            if not self.v2.exists():
                return
        self._kill_one_by_one()

    def _kill_one_by_one(self) -> None:
        """Before Linux 5.14: repeat until no process is left to have forked another one."""
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ContainerError, FileNotFoundError):
                self.thaw()  # SIGKILL reaches a task frozen by v1 only then
            time.sleep(REMOVE_POLL_S)

    def stats(self) -> dict[str, Any]:
        """What the container uses; see ``runtime.sandbox.cgroups.stats``."""
        return read_stats(self.controllers(), self.v2)

    def destroy(self) -> None:
        """Remove the directories, with what the container made below them. Idempotent.

        Processes that were killed may need a moment to leave, so this waits a little.

        Raises:
            ContainerError: Processes are still there; names them.
        """
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        for directory in self.directories():
            remove_tree(directory, deadline)
        for parent in reversed(self.parents):
            with suppress(OSError):  # somebody else uses it by now
                parent.rmdir()


def _start(hierarchy: Hierarchy, *, alone: bool) -> Path:
    """Where a relative cgroup path begins."""
    own = hierarchy.own_directory
    if hierarchy.version == 2 and alone and own != hierarchy.mount_point:
        # cgroup v2 gives no controllers to children of a cgroup that has processes itself, as
        # ours has. Beside it is the nearest place where limits work.
        return own.parent
    return own


def _check_limits(resources: Resources, hierarchies: list[Hierarchy]) -> None:
    v1 = frozenset(name for h in hierarchies if h.version == 1 for name in h.controllers)
    v2 = frozenset(name for h in hierarchies if h.version == 2 for name in h.controllers)
    plan_writes(resources, v1, v2)


def _write_limit(path: Path, write: Write) -> None:
    try:
        write_file(path, write.value)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError):
            why = f"this kernel has no {path.name}"
        else:
            why = f"cannot write {write.value!r} to {path}: {os.strerror(exc.errno or 0).lower()}"
        raise unsupported(write.path, why) from exc


def _attach_device_program(directory: Path, program: int) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bpf.attach_to_cgroup(fd, program, bpf.BPF_CGROUP_DEVICE)
        bpf.detach_all(fd, bpf.BPF_CGROUP_DEVICE, keep_fd=program)
    finally:
        os.close(fd)
