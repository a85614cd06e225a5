"""The mappings of address spaces, into the tasks that have them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from formats.records.memory import AddressSpace, Vma
from runtime.engine.aio import restore_rings
from runtime.engine.attachments import attach_segments
from runtime.engine.cow import is_early
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.install_files import give, key_of, mapped_file, open_for_mapping
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.engine.restore_memory import map_address_space
from runtime.engine.restore_threads import RestoredProcess
from runtime.errors import RestoreError


class Owner(NamedTuple):
    """An address space, and the first process that has it."""

    space: AddressSpace
    process: RestoredProcess


def owners_of(
    processes: Iterable[RestoredProcess], spaces: Mapping[int, AddressSpace]
) -> dict[int, Owner]:
    """Each address space with the first process that has it, by ``mm_id``.

    Raises:
        RestoreError: A process names one that there is not.
    """
    found: dict[int, Owner] = {}
    for process in processes:
        mm_id = process.record.mm_id
        if mm_id not in spaces:
            raise RestoreError(
                f"process {process.record.pid} names an address space that the image lacks",
                reason="image-inconsistent",
            )
        found.setdefault(mm_id, Owner(spaces[mm_id], process))
    return found


def open_early(
    files: RestoredFiles, channel: socket.socket, task: NewTask, file_ids: Iterable[int]
) -> dict[int, int]:
    """Give a task that will have children the files that it maps; its numbers by file."""
    ordered = sorted(file_ids)
    ours = [mapped_file(files, file_id) for file_id in ordered]
    return give(task, channel, ordered, ours)


def map_space(
    owner: Owner, channel: socket.socket, files: RestoredFiles, *, born_with: bool
) -> None:
    """Map all of an address space, without contents.

    Args:
        owner: Of it.
        channel: To its task.
        files: All files.
        born_with: The mappings that children inherit are there already.
    """
    task, space = owner.process.leader, owner.space

    def is_done(vma: Vma) -> bool:
        return born_with and is_early(space, vma)

    numbers = open_for_mapping(task, channel, files, space, is_done)

    def number_of(vma: Vma) -> int:
        return numbers[key_of(vma)]

    map_address_space(task, space, number_of, numbers[space.exe_file_id], is_done=is_done)
    attach_segments(task, space, files)
    restore_rings(task, space, files)
    batch = Batch()
    for number in numbers.values():
        batch.call("close", number)
    task.do(batch)
