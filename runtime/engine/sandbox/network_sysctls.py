"""Settings below /proc/sys/net that belong to a namespace and can be written."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence

from formats.records.network import NetSysctl
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from runtime.kernel.visit import visiting_path

log = logging.getLogger(__name__)

SAVED = (("network sysctls", "what can be written below `/proc/sys/net` of a network namespace"),)

TOP = "/proc/sys/net"
_NAME = re.compile(r"[\w.@:+-]+(/[^/\0]+)+")
_USUAL_SIZE, _MAX_SIZE = 1 << 9, 1 << 16
# Duplicate address detection would delay addresses that have been through it already.
_LAST = re.compile(r"ipv6/conf/[^/]+/accept_dad")
_OF_LINKS = ("ipv4/conf", "ipv6/conf")
# Seen in every namespace, but one for the whole kernel, and never taken back once it is set
_OF_KERNEL = frozenset({"netfilter/nf_hooks_lwtunnel"})
# Those that change others when they are written
_FIRST = ("ip_forward", "forwarding", "stable_secret")


class NetworkSysctls(SandboxKind):
    """Settings of the network; before interfaces go up, for many act at that moment."""

    name = "network sysctls"
    namespace = "net"
    records = (NetSysctl,)
    rank = 35

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NetSysctl]:
        given = _of_configuration(context) if scope.own else {}
        with visiting_path(scope.path, "net"):
            values = tuple(pair for pair in _values() if given.get(pair[0]) != pair[1])
        yield NetSysctl(scope.ns_id, values)

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NetSysctl]) -> None:
        with _settings(place) as settings:
            for name, value in _in_order(records):
                settings.set(name, "0" if _LAST.fullmatch(name) else value)

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[NetSysctl]) -> None:
        """Again, for an interface that goes up changes some of its own (the MTU of IPv6)."""
        with _settings(place, _OF_LINKS) as settings:
            for name, value in _in_order(records):
                if name.startswith(_OF_LINKS):
                    settings.set(name, value)


def _of_configuration(context: DumpContext) -> dict[str, str]:
    """What the configuration sets: the one of the new container says what it will be."""
    linux = context.target.spec.get("linux") or {}
    return {
        name.replace(".", "/").removeprefix("net/"): str(value)
        for name, value in (linux.get("sysctl") or {}).items()
    }


def _values(below: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of all settings that can be read and written, or of those *below* a folder.

    Each file is opened by its folder's descriptor: there are hundreds, and paths cost most.
    """
    top = f"{TOP}/{below}" if below else TOP
    if not os.path.isdir(top):  # ipv6 may be off
        return
    for folder, _, names, folder_fd in os.fwalk(top):
        prefix = folder.removeprefix(TOP).removeprefix("/")
        for name in names:
            name_below = f"{prefix}/{name}"
            value = None if name_below in _OF_KERNEL else _read(name, folder_fd, writable=True)
            if value is not None:
                yield name_below, value


def _read(path: str, dir_fd: int, *, writable: bool = False) -> str | None:
    """A file's content; None for one that has none to give, such as a secret that was never set.

    Args:
        path: Below *dir_fd*.
        dir_fd: A folder.
        writable: Only if it can be written too.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        if writable and not os.fstat(fd).st_mode & stat.S_IWUSR:
            return None
        # The kernel allocates as much as is asked for, and few values are long.
        content = os.read(fd, _USUAL_SIZE)
        if len(content) == _USUAL_SIZE:
            content = os.pread(fd, _MAX_SIZE, 0)
        return content.decode().removesuffix("\n")
    except OSError:
        return None
    finally:
        os.close(fd)


def _in_order(records: Sequence[NetSysctl]) -> list[tuple[str, str]]:
    """What sets others too comes before those: all, then default, then each interface's."""

    def rank(pair: tuple[str, str]) -> tuple[int, int, str]:
        name, _ = pair
        parts = name.split("/")
        depth = 0 if len(parts) < 3 else {"all": 1, "default": 2}.get(parts[2], 3)
        first = _FIRST.index(parts[-1]) if parts[-1] in _FIRST else len(_FIRST)
        return depth, first, name

    return sorted((pair for record in records for pair in record.values), key=rank)


@contextlib.contextmanager
def _settings(place: Place, folders: Sequence[str] = ("",)) -> Iterator[_Settings]:
    """Be in a namespace, and know what is set there below some folders."""
    with visiting_path(place.path, "net"):
        top = os.open(TOP, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield _Settings(top, folders)
        finally:
            os.close(top)


class _Settings:
    """The settings of the namespace that this thread is in.

    Args:
        top: Descriptor of their folder.
        folders: Where to look for what is set.
    """

    def __init__(self, top: int, folders: Sequence[str]) -> None:
        self._top = top
        # Read in one go, until one is set that may change others.
        self._now = {name: value for below in folders for name, value in _values(below)}
        self._changed = False

    def set(self, name: str, value: str) -> None:
        """Set a value, unless it is what it should be.

        Raises:
            RestoreError: The name is none, or the kernel does not take the value.
        """
        if not _NAME.fullmatch(name) or ".." in name.split("/") or len(value) > _MAX_SIZE:
            raise RestoreError(f"{name!r} is no network sysctl", reason="image-inconsistent")
        now = _read(name, self._top) if self._changed else self._now.get(name)
        if now != value:
            _write(self._top, name, value)
            self._changed = self._changed or not _LAST.fullmatch(name)


def _write(top: int, name: str, value: str) -> None:
    try:
        fd = openat2(top, name, os.O_WRONLY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        log.warning("this host has no %s/%s, which was %r", TOP, name, value)
    except OSError as exc:
        raise RestoreError(
            f"cannot set {TOP}/{name} to {value!r}: {os.strerror(exc.errno or 0)}",
            reason="net-sysctl",
        ) from exc
