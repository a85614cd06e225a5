"""What a kind of namespace-wide state is to the engine, and the register of kinds."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from formats.records.codec import Record

if TYPE_CHECKING:
    from runtime.engine.context import DumpContext
    from runtime.engine.files.restored import RestoredFiles
    from runtime.engine.files.table import FileTable
    from runtime.engine.new_task import NewTask


@dataclass(frozen=True, slots=True)
class Scope:
    """A namespace of a frozen container.

    Attributes:
        ns_id: Its number in the image.
        kind: As in /proc/PID/ns.
        inode: Which namespace it is, on this host.
        pid: A task in it, as our pid namespace sees it, maybe a thread; 0 if there is none.
        own: Whether it is the sandbox's, and not one that a program has made.
        external: Whether it came from outside, and is not the container's to save.
        held: Where no process is in it: a path of ours to what holds it.
    """

    ns_id: int
    kind: str
    inode: int
    pid: int
    own: bool
    external: bool
    held: str = ""

    @property
    def path(self) -> str:
        """A file of ours that stands for it."""
        return self.held or f"/proc/{self.pid}/ns/{self.kind}"


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of a container that is being rebuilt.

    Attributes:
        ns_id: As in the image.
        kind: As in /proc/PID/ns.
        own: Whether it is the sandbox's, and not one that a program has made.
        task: A task in it; stopped, ready for batches, with all privileges of its user namespace.
            It may be a thread, whose process is elsewhere: go by its ``tid``. The init where no
            task is in it.
        held: Where no task is in it: a path of ours to what holds it.
    """

    ns_id: int
    kind: str
    own: bool
    task: NewTask
    held: str = ""

    @property
    def path(self) -> str:
        """A file of ours that stands for it."""
        return self.held or f"/proc/{self.task.tid}/ns/{self.kind}"


class SandboxKind:
    """One kind of state that a namespace holds.

    Attributes:
        name: For messages.
        namespace: The kind of namespace, as in /proc/PID/ns.
        records: Classes of the records that `dump` makes and `restore` takes. Each has a field
            ``ns_id``.
        rank: Kinds with a lower rank come first.
    """

    name: ClassVar[str]
    namespace: ClassVar[str]
    records: ClassVar[tuple[type[Any], ...]]
    rank: ClassVar[int] = 50
    all: ClassVar[list[SandboxKind]] = []

    def __init_subclass__(cls) -> None:
        SandboxKind.all.append(cls())
        SandboxKind.all.sort(key=lambda kind: kind.rank)

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[Record]:
        """Make the records of a namespace that is the container's; refuse what cannot be saved.

        Called before descriptors and mappings are looked at. Contents like memory go through
        ``files.shared``.
        """
        raise NotImplementedError

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[Any]) -> None:
        """Put the state back; called when all processes exist, before their files and memory."""

    def arrange(self, files: RestoredFiles, held: Sequence[tuple[Place, Sequence[Any]]]) -> None:
        """A step for all namespaces at once, when file systems of memory have their content."""

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[Any]) -> None:
        """A last step, when files, memory and descriptors are in place."""


def load_sandbox_kinds() -> list[SandboxKind]:
    """Import every module of this package; return the kinds in their order."""
    import runtime.engine.sandbox as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return SandboxKind.all
