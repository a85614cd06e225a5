"""Cgroups below the container's own: what there is, who is in which, and all of that again.

Only what lies below the container's own cgroup is looked at and made. A hierarchy in which the
container has no cgroup of its own (a named one, which a program has mounted) is looked at from our
own cgroup there.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from formats.records.cgroups import Cgroup, CgroupFile, CgroupNamespace
from runtime.engine.context import DumpContext
from runtime.engine.new_task import NewTask
from runtime.errors import RestoreError
from runtime.kernel.mount import MNT_DETACH, mount, umount2
from runtime.kernel.procfs import read_text
from runtime.kernel.visit import visiting
from runtime.sandbox.cgroups.hierarchy import find_hierarchies, write_file
from runtime.sandbox.cgroups.tree import inherit_cpuset

SAVED = (
    (
        "cgroups",
        "those that programs have made below the container's own, in every hierarchy, v1 and v2, "
        "also empty and threaded ones: names, limits and weights, controllers, owners; which "
        "tasks are in which; roots of cgroup namespaces",
    ),
)

_MAX_DEPTH = 32
# Files that say how a cgroup shall work, in the order in which they are written
_SETTINGS = (
    *("cgroup.clone_children", "notify_on_release", "cgroup.max.*", "cgroup.pressure"),
    *("memory.use_hierarchy", "cpuset.cpus", "cpuset.mems", "cpuset.cpus.exclusive"),
    *("cpuset.cpus.partition", "cpuset.*_exclusive", "cpuset.mem_hardwall"),
    *("cpuset.memory_migrate", "cpuset.memory_spread_*", "cpuset.sched_*"),
    *("cpu.shares", "cpu.weight", "cpu.idle", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
    *("cpu.max", "cpu.max.burst", "cpu.cfs_burst_us", "cpu.rt_period_us", "cpu.rt_runtime_us"),
    *("cpu.uclamp.*", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    *("memory.soft_limit_in_bytes", "memory.kmem.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"),
    *("memory.swappiness", "memory.oom_control", "memory.move_charge_at_immigrate"),
    *("memory.high", "memory.max", "memory.swap.high", "memory.swap.max", "memory.low"),
    *("memory.min", "memory.zswap.*", "memory.oom.group", "pids.max"),
    *("blkio.weight*", "blkio.bfq.weight*", "blkio.leaf_weight*", "blkio.throttle.*_device"),
    *("io.weight", "io.bfq.weight", "io.max", "io.latency", "io.prio.class"),
    *("net_cls.classid", "net_prio.ifpriomap", "hugetlb.*.limit_in_bytes", "hugetlb.*.max"),
    *("rdma.max", "misc.max", "dmem.*"),
)
_LINE_BY_LINE = ("*_device", "io.max", "io.latency", "*ifpriomap", "rdma.max", "misc.max", "dmem.*")


class CgroupHomes:
    """The container's own cgroup in each hierarchy, as a directory of ours.

    Args:
        made: Those that the runtime has made, by hierarchy.

    Attributes:
        made: The same.
    """

    def __init__(self, made: Mapping[str, Path]) -> None:
        self.made = dict(made)
        self._homes = dict(made)
        self._ours = dict(_parse(_memberships("self")))
        self._known = {hierarchy.key: hierarchy for hierarchy in find_hierarchies()}
        self._mounted: dict[str, Path] = {}

    def directory(self, hierarchy: str, path: str) -> Path:
        """The directory of the cgroup at an absolute *path*.

        Raises:
            OSError: No such hierarchy, and it cannot be mounted.
        """
        if hierarchy in self._known:
            return self._known[hierarchy].directory(path)
        return self._mount(hierarchy) / path.strip("/")

    def home(self, hierarchy: str) -> Path:
        """The container's own cgroup."""
        if hierarchy not in self._homes:
            top = self._mount(hierarchy)
            self._homes[hierarchy] = top / self._ours.get(hierarchy, "/").strip("/")
        return self._homes[hierarchy]

    def relative(self, hierarchy: str, path: str) -> str | None:
        """A cgroup's path below the container's own; None when it lies elsewhere."""
        found = posixpath.relpath(self.directory(hierarchy, path), self.home(hierarchy))
        if found == ".":
            return ""
        return None if found.startswith("..") else found

    def _mount(self, hierarchy: str) -> Path:
        """Mount a hierarchy that is mounted nowhere we can see."""
        if hierarchy in self._known:
            return self._known[hierarchy].mount_point
        if hierarchy not in self._mounted:
            where = tempfile.mkdtemp(prefix="wherry-cgroup-")
            options = f"none,{hierarchy}" if hierarchy.startswith("name=") else hierarchy
            try:
                mount("cgroup", where, "cgroup", 0, options)
            except OSError:
                os.rmdir(where)
                raise
            self._mounted[hierarchy] = Path(where)
        return self._mounted[hierarchy]

    def close(self) -> None:
        """Unmount what was mounted for looking."""
        for where in self._mounted.values():
            umount2(str(where), MNT_DETACH)
            where.rmdir()
        self._mounted.clear()


def _memberships(pid: int | str) -> str:
    return read_text(f"/proc/{pid}/cgroup")


def _parse(text: str) -> Iterator[tuple[str, str]]:
    """Hierarchy and path of each cgroup of a task, by what `_memberships` returns."""
    for line in text.splitlines():
        _, hierarchy, path = line.split(":", 2)
        yield hierarchy, path


# Dump


class CgroupDump:
    """Looks at the cgroups of a frozen container.

    Args:
        context: The dump.
        homes: Its own cgroups.
    """

    def __init__(self, context: DumpContext, homes: CgroupHomes) -> None:
        self._context = context
        self._homes = homes
        self._warned: set[tuple[str, str]] = set()
        self._known: dict[str, tuple[tuple[str, str], ...]] = {}

    def of(self, tid: int) -> tuple[tuple[str, str], ...]:
        """The cgroups of a task that are not the container's own: hierarchy and path below it."""
        text = _memberships(tid)  # of most tasks the same
        if text not in self._known:
            places = ((key, self._relative(key, path)) for key, path in _parse(text))
            self._known[text] = tuple((key, relative) for key, relative in places if relative)
        return self._known[text]

    def _relative(self, hierarchy: str, path: str) -> str | None:
        try:
            relative = self._homes.relative(hierarchy, path)
        except OSError:
            relative = None
        if relative is None and (hierarchy, path) not in self._warned:
            self._warned.add((hierarchy, path))
            self._context.warnings.append(
                f"cgroup {path} of {hierarchy or 'cgroup v2'} is not the container's, and not saved"
            )
        return relative

    def records(self, tids: Iterable[int]) -> Iterator[Cgroup]:
        """Every cgroup below the container's own, the outer ones first."""
        own = self._context.target.cgroups.directories_by_hierarchy()
        for hierarchy, home in own.items():
            yield from _below(hierarchy, home, home)
        # Of others only what our tasks are in: they may be somebody else's.
        used = {cgroup for tid in tids for cgroup in self.of(tid) if cgroup[0] not in own}
        outer = {
            (hierarchy, str(parent))
            for hierarchy, path in used
            for parent in (Path(path), *Path(path).parents)
            if str(parent) != "."
        }
        for hierarchy, path in sorted(outer):
            yield _describe(hierarchy, path, self._homes.home(hierarchy) / path)

    def namespace(self, ns_id: int, pid: int) -> CgroupNamespace:
        """Where the cgroup namespace of a task has its root."""
        with visiting(pid, "cgroup"):
            seen = dict(_parse(_memberships(pid)))
        roots = []
        for hierarchy, path in _parse(_memberships(pid)):
            below = seen.get(hierarchy, "/").rstrip("/")
            if below.startswith("/..") or not path.endswith(below):
                self._context.warnings.append(
                    f"a cgroup namespace has its root where no task is ({hierarchy or 'cgroup v2'})"
                )
                continue
            root = self._relative(hierarchy, path.removesuffix(below) or "/")
            if root:
                roots.append((hierarchy, root))
        return CgroupNamespace(ns_id, tuple(roots))


def _below(hierarchy: str, home: Path, directory: Path) -> Iterator[Cgroup]:
    path = "" if directory == home else str(directory.relative_to(home))
    found = _describe(hierarchy, path, directory)
    if path or found.subtree_control:
        yield found
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(hierarchy, home, Path(entry.path))


def _describe(hierarchy: str, path: str, directory: Path) -> Cgroup:
    control = _read(directory / "cgroup.subtree_control") or ""
    if not path:
        return Cgroup(hierarchy, path, subtree_control=tuple(control.split()))
    threaded = (_read(directory / "cgroup.type") or "").strip() == "threaded"
    names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    values = []
    for pattern in _SETTINGS:
        for name in fnmatch.filter(names, pattern):
            mode = (directory / name).stat().st_mode
            value = _read(directory / name) if mode & stat.S_IWUSR and mode & stat.S_IRUSR else None
            if value is not None:
                values.append((name, value))
    return Cgroup(
        hierarchy,
        path,
        threaded,
        tuple(control.split()),
        tuple(values),
        tuple(_files(directory, names)),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None  # no such file, or one that cannot be read in this state


def _files(directory: Path, names: Iterable[str]) -> Iterator[CgroupFile]:
    for name in ("", *names):
        status = (directory / name).stat()
        if status.st_uid or status.st_gid:
            mode = stat.S_IMODE(status.st_mode)
            yield CgroupFile(name, mode, status.st_uid, status.st_gid)


# Restore


class CgroupRestore:
    """Makes the cgroups of an image anew.

    Args:
        records: From the image.
        homes: The new container's own cgroups.
    """

    def __init__(self, records: Iterable[Cgroup], homes: CgroupHomes) -> None:
        self._records = sorted(records, key=lambda record: record.path.count("/"))
        self._homes = homes

    def directory(self, hierarchy: str, path: str) -> Path:
        """The directory of a cgroup below the container's own."""
        parts = path.split("/") if path else []
        if len(parts) > _MAX_DEPTH or any(part in ("", ".", "..") for part in parts):
            raise RestoreError(f"bad cgroup path {path!r}", reason="image-inconsistent")
        try:
            return self._homes.home(hierarchy).joinpath(*parts)
        except OSError as exc:
            raise RestoreError(
                f"cgroup hierarchy {hierarchy or 'v2'}: {exc.strerror}", reason="cgroup-missing"
            ) from exc

    def make(self) -> None:
        """Make the directories; they are empty, and limit nothing yet."""
        for record in self._records:
            if not record.path:
                continue
            directory = self.directory(record.hierarchy, record.path)
            with _named(directory):
                directory.mkdir(exist_ok=True)
                if record.hierarchy:
                    inherit_cpuset(directory)
                for name, value in record.values:
                    if name == "cgroup.max.depth":  # before there are any below
                        _write(directory / name, value)
        for record in self._records:
            if record.threaded:
                directory = self.directory(record.hierarchy, record.path)
                with _named(directory):
                    _write(directory / "cgroup.type", "threaded")

    def enter(self, pid: int, roots: Iterable[tuple[str, str]]) -> None:
        """Put a process of ours where a cgroup namespace shall have its root."""
        wanted = dict.fromkeys(self._homes.made, "") | dict(roots)
        for hierarchy, path in wanted.items():
            directory = self.directory(hierarchy, path)
            with _named(directory):
                write_file(directory / "cgroup.procs", str(pid))

    def place(self, task: NewTask, cgroups: Iterable[tuple[str, str]]) -> None:
        """Move a task to where it was."""
        for hierarchy, path in cgroups:
            directory = self.directory(hierarchy, path)
            with _named(directory):
                if hierarchy:
                    write_file(directory / "tasks", str(task.tid))
                elif self._is_threaded(hierarchy, path):
                    write_file(directory / "cgroup.threads", str(task.tid))
                else:  # a process as a whole
                    write_file(directory / "cgroup.procs", str(task.tid))

    def _is_threaded(self, hierarchy: str, path: str) -> bool:
        return any(
            record.threaded and record.hierarchy == hierarchy and record.path == path
            for record in self._records
        )

    def finish(self) -> None:
        """Pass controllers on, set limits and owners; when all tasks are in their places."""
        for record in self._records:
            directory = self.directory(record.hierarchy, record.path)
            with _named(directory):
                for controller in record.subtree_control:
                    have = (directory / "cgroup.subtree_control").read_text().split()
                    if controller not in have:
                        write_file(directory / "cgroup.subtree_control", f"+{controller}")
        for record in self._records:
            directory = self.directory(record.hierarchy, record.path)
            for name, value in record.values:
                if not any(fnmatch.fnmatch(name, pattern) for pattern in _SETTINGS):
                    raise RestoreError(f"bad cgroup file {name!r}", reason="image-inconsistent")
                with _named(directory / name):
                    _write(directory / name, value)
        for record in reversed(self._records):
            directory = self.directory(record.hierarchy, record.path)
            for file in record.files:
                if "/" in file.name or file.name == "..":
                    raise RestoreError(
                        f"bad cgroup file {file.name!r}", reason="image-inconsistent"
                    )
                with _named(directory / file.name):
                    os.chown(directory / file.name, file.uid, file.gid, follow_symlinks=False)
                    os.chmod(directory / file.name, file.mode & 0o777)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        why = os.strerror(exc.errno or 0)
        raise RestoreError(f"cgroup {path}: {why}", reason="cgroup") from exc


def _write(path: Path, value: str) -> None:
    """Give a file of a cgroup the value that it had, unless it has it."""
    try:
        now = path.read_text().strip()
    except FileNotFoundError:
        return  # its controller was not passed on, or this kernel has no such file
    if now == value:
        return
    if path.name == "memory.oom_control":
        value = value.split()[1]  # "oom_kill_disable 0"
        if now.split()[1] == value:
            return
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in _LINE_BY_LINE):
        for line in value.splitlines():
            if line not in now.splitlines():
                write_file(path, line)
        return
    try:
        write_file(path, value or "\n")
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
            raise
