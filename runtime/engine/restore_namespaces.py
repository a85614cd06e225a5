"""The namespaces of an image: made, and what they hold put back, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from formats.records.cgroups import CgroupNamespace
from formats.records.codec import Record
from formats.records.sandbox import Namespace, TimeNamespace, UserNamespace
from formats.records.task import Process
from runtime.engine.cgroup_tree import CgroupRestore
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.image_records import Records
from runtime.engine.new_namespaces import NewNamespaces
from runtime.engine.placement import taken_ids
from runtime.engine.restore_tree import INIT, ProcessTree
from runtime.engine.sandbox.kind import Place, SandboxKind, load_sandbox_kinds


def make_namespaces(
    records: Records,
    init_pid: int,
    cgroups: CgroupRestore,
    close_later: Callable[[Callable[[], None]], object],
) -> NewNamespaces:
    """Make what programs had made beside the sandbox's own.

    Args:
        records: Of the image.
        init_pid: Of the sandbox.
        cgroups: Of the container, made.
        close_later: Told how to let go of what is made, before it is.
    """
    namespaces = NewNamespaces(
        records.all_of(Namespace),
        records.all_of(UserNamespace),
        records.all_of(TimeNamespace),
        init_pid,
    )
    close_later(namespaces.close)
    threads = (thread for record in records.all_of(Process) for thread in record.threads)
    roots = {record.ns_id: record.roots for record in records.all_of(CgroupNamespace)}
    namespaces.make(
        {thread.time_for_children for thread in threads},
        lambda ns_id, pid: cgroups.enter(pid, roots.get(ns_id, ())),
    )
    return namespaces


def ids_in_use(namespaces: NewNamespaces, records: Sequence[Process]) -> dict[int, set[int]]:
    """Every id that the image needs, by pid namespace."""
    lines = []
    for record in records:
        pid_ns = namespaces.wanted(record)["pid"]
        lines += [
            (pid_ns, (record.pid, *record.nested_pids)),
            (pid_ns, (record.pgid, *record.nested_pgid)),
            (pid_ns, (record.sid, *record.nested_sid)),
        ]
        lines += [(pid_ns, (thread.tid, *thread.nested_tids)) for thread in record.threads]
    return taken_ids(namespaces, lines)


class NamespaceState:
    """What the namespaces hold.

    Args:
        records: Of the image.
        namespaces: Made.
        tree: Of tasks, built.

    Attributes:
        places: A task for each namespace whose state the image holds.
    """

    def __init__(self, records: Records, namespaces: NewNamespaces, tree: ProcessTree) -> None:
        self._records = records
        self.places = list(self._find_places(namespaces, tree))
        self._held = list(self._find_state())

    def restore(self, files: RestoredFiles) -> None:
        """Put it back."""
        for kind, place, held in self._held:
            kind.restore(files, place, held)

    def arrange(self, files: RestoredFiles) -> None:
        """What needs the files of the tmpfs mounts."""
        for kind in load_sandbox_kinds():
            kind.arrange(files, [(p, r) for k, p, r in self._held if k is kind])

    def finish(self, files: RestoredFiles) -> None:
        """What needs every task with all that it has."""
        for kind, place, held in self._held:
            kind.finish(files, place, held)

    def _find_places(self, namespaces: NewNamespaces, tree: ProcessTree) -> Iterator[Place]:
        for namespace in self._records.all_of(Namespace):
            if namespace.external:
                continue
            members = (
                task
                for record in self._records.all_of(Process)
                for task in tree.threads.get(record.pid, ())
                if task.within[namespace.kind] == namespace.ns_id
            )
            task = next(members, None)
            if task is not None:
                yield Place(namespace.ns_id, namespace.kind, namespace.own, task)
            elif (fd := namespaces.fd(namespace.ns_id)) is not None:
                held = f"/proc/self/fd/{fd}"
                yield Place(namespace.ns_id, namespace.kind, namespace.own, tree.tasks[INIT], held)

    def _find_state(self) -> Iterator[tuple[SandboxKind, Place, list[Record]]]:
        """Every kind of state of every namespace that the image has records of."""
        for kind in load_sandbox_kinds():
            by_ns: dict[int, list[Record]] = {}
            for held in kind.records:
                for record in self._records.all_of(held):
                    by_ns.setdefault(record.ns_id, []).append(record)
            for place in self.places:
                if kind.namespace == place.kind and place.ns_id in by_ns:
                    yield kind, place, by_ns[place.ns_id]
