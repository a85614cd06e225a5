"""The namespaces that the tasks of a container are in."""

from __future__ import annotations

import os
from collections.abc import Iterable

from runtime.engine.context import DumpContext
from runtime.engine.sandbox.kind import Scope

KINDS = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup", "time")
_IN_SPEC = {"mount": "mnt", "network": "net"}


def collect_scopes(context: DumpContext, pids: Iterable[int]) -> dict[tuple[str, int], Scope]:
    """Every namespace of the living processes *pids*, by kind and inode, the init's first."""
    made = _made_by_sandbox(context)
    found: dict[tuple[str, int], Scope] = {}
    for pid in (context.target.init_pid, *pids):
        for kind in KINDS:
            inode = os.stat(f"/proc/{pid}/ns/{kind}").st_ino
            if (kind, inode) in found:
                continue
            own = pid == context.target.init_pid
            external = own and kind not in made
            found[kind, inode] = Scope(context.new_id(), kind, inode, pid, own, external)
    return found


def _made_by_sandbox(context: DumpContext) -> set[str]:
    """The kinds of namespace that the sandbox has made for this container alone."""
    linux = context.target.spec.get("linux") or {}
    return {
        _IN_SPEC.get(entry["type"], entry["type"])
        for entry in linux.get("namespaces") or []
        if not entry.get("path")
    }


def nested_in(scopes: dict[tuple[str, int], Scope], pid: int) -> tuple[int, ...]:
    """The ids of a process's namespaces that are not the init's."""
    of_pid = (scopes[kind, os.stat(f"/proc/{pid}/ns/{kind}").st_ino] for kind in KINDS)
    return tuple(scope.ns_id for scope in of_pid if not scope.own)
