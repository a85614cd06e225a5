"""Reclaiming space: chunks that no snapshot needs go, while others write.

In two phases, so that nothing depends on clocks or on anybody being quick:

1. Packs that are worth removing are *condemned*: one object names them, and from then on nobody who
   reads the index relies on them. The locks that are there after that are noted: their holders may
   have read the index before.
2. When none of these locks is left, packs are *swept*: the snapshots are looked at anew; what they
   still need of the condemned packs is copied into new ones; then the packs go.

Both happen in one prune when nobody writes; else the next prune does the second. Why this is
right, also with several pruners and hosts that sleep, is in docs/architecture.md, "The store".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from formats.errors import ImageError
from migrate.errors import StoreError
from migrate.store import packs as pack_files
from migrate.store.check import image_chunks
from migrate.store.condemned import MAX_PACKS, Condemned, masked_packs, read_condemned
from migrate.store.config import Operation
from migrate.store.index import COMPRESSED, MANY, ChunkMap, Location, for_each_section, pack_section
from migrate.store.locks import PRUNE, WRITE, Lock, live_locks, read_locks
from migrate.store.name_table import NameSet
from migrate.store.objects import Kind, name_of, read_object
from migrate.store.packs import PackBuilder, read_body
from migrate.store.reading import StoreChunks, check_chunk
from migrate.store.store import Store

MAX_UNUSED = 0.05  # of all stored bytes that may stay although nobody needs them
_MANY_SMALL = 8  # packs below a quarter of the usual size, before they are put together
_MANY_MEMORIES = 16  # objects that only remember removed packs, before they become one

Progress = Callable[[str, int, int], object]


@dataclass(slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        condemned_packs: Packs that were condemned now.
        removed_packs, removed_bytes: Packs that are gone.
        copied_bytes: Chunks that were copied out of them, stored bytes.
        waiting_packs: Condemned packs that have to wait for writers.
        waiting_for: Who these are.
        unused_bytes: Chunks that nobody needs and that stay, for removing them is not worth it.
    """

    condemned_packs: int = 0
    removed_packs: int = 0
    removed_bytes: int = 0
    copied_bytes: int = 0
    waiting_packs: int = 0
    waiting_for: tuple[str, ...] = ()
    unused_bytes: int = 0


def prune(
    store: Store,
    *,
    dry_run: bool = False,
    max_unused: float = MAX_UNUSED,
    progress: Progress = lambda *_: None,
) -> PruneReport:
    """Remove what no snapshot needs.

    Args:
        store: Opened for pruning.
        dry_run: Only say what would be done.
        max_unused: Fraction of all stored bytes that may stay unused.
        progress: Told about bytes that are copied.

    Raises:
        StoreError: ``store-locked``: another prune is at work. ``store-damaged`` among others: a
            snapshot or an index cannot be read, so nobody can tell what is needed; nothing was
            removed.
        ImageError: The same of a snapshot's image.
    """
    store.require(Operation.PRUNE)
    report = PruneReport()
    if dry_run:
        chosen = _choose(store, None, max_unused, report, _Needed())
        sizes = store.sizes(Kind.PACK)
        report.condemned_packs = len(chosen)
        report.removed_bytes = sum(sizes.get(pack_id, 0) for pack_id in chosen)
        return report
    with Lock(store.backend, store.seal, PRUNE) as lock:
        read = _Needed()
        chosen = _choose(store, lock, max_unused, report, read)
        for at in range(0, len(chosen), MAX_PACKS):
            Condemned(tuple(chosen[at : at + MAX_PACKS])).write(store.backend, store.seal)
        report.condemned_packs = len(chosen)
        _sweep(store, lock, report, progress, read)
        _merge_memories(store)
    return report


class _Needed:
    """What snapshots need, as they are read; each is read once in a prune.

    What a snapshot needs never changes. One that is forgotten in between may keep its chunks until
    the next prune.
    """

    def __init__(self) -> None:
        self.chunks = NameSet(MANY)
        self.snapshots: set[bytes] = set()


def needed_chunks(store: Store, before: _Needed | None = None) -> Iterable[bytes]:
    """The names of all chunks that snapshots need, each once.

    Args:
        store: Which.
        before: What was read already, and gets the rest.

    Raises:
        StoreError, ImageError: A snapshot cannot be read.
    """
    nowhere = StoreChunks(store, ChunkMap())
    known = before or _Needed()
    for snapshot_id in store.sizes(Kind.SNAPSHOT).keys() - known.snapshots:
        try:
            snapshot, image = store.read_image(snapshot_id)
            known.chunks.update(image_chunks(snapshot, image, nowhere))
            known.snapshots.add(snapshot_id)
        except StoreError as exc:
            if exc.reason == "object-missing":
                continue  # forgotten a moment ago
            raise _undecidable(exc, snapshot_id) from exc
        except ImageError as exc:
            raise _undecidable(exc, snapshot_id) from exc
    return known.chunks


def _undecidable(exc: Exception, snapshot_id: bytes) -> StoreError:
    return StoreError(
        f"nothing is pruned while it is unknown what snapshot {snapshot_id.hex()[:8]} needs: "
        f"{exc}; remove it with wherry image rm, or repair it",
        reason="store-damaged",
    )


# The first phase


def _choose(
    store: Store, lock: Lock | None, max_unused: float, report: PruneReport, read: _Needed
) -> list[bytes]:
    """The packs to condemn, and in the report what stays unused."""
    # Packs before locks: so those of a writer that begins now are not seen.
    sizes = store.sizes(Kind.PACK)
    # Without a lock of our own we change nothing, not even locks that were left behind.
    locks = (
        read_locks(store.backend, store.seal)
        if lock is None
        else live_locks(store.backend, store.seal, lock.lock_id)
    )
    writers = [one for one in locks if one.kind == WRITE and not one.stale]
    index = store.load_index()
    needed = needed_chunks(store, read)
    used = dict.fromkeys(index.packs, 0)
    for chunk_id in needed:
        where = index.find(chunk_id)
        if where is not None:
            used[where.pack.pack_id] += where.stored_size
    alive = {
        pack_id: info
        for pack_id, info in index.packs.items()
        if pack_id not in index.masked and pack_id in sizes
    }
    chosen = [pack_id for pack_id in alive if not used[pack_id]]
    if not writers:
        # Of a writer that was killed. One at work is going to put its packs into the index.
        known = {*index.packs, *index.masked}
        chosen += [pack_id for pack_id in sizes if pack_id not in known]
    partly = sorted(
        (pack_id for pack_id in alive if used[pack_id]),
        key=lambda pack_id: used[pack_id] / alive[pack_id].bodies_size,
    )
    unused = sum(alive[pack_id].bodies_size - used[pack_id] for pack_id in partly)
    total = sum(alive[pack_id].bodies_size for pack_id in partly)
    small = [one for one in partly if alive[one].bodies_size < pack_files.PACK_SIZE // 4]
    together = set(small if len(small) >= _MANY_SMALL else ())
    for pack_id in partly:
        extra = alive[pack_id].bodies_size - used[pack_id]
        if pack_id in together or (extra and unused > max_unused * total):
            chosen.append(pack_id)
            unused -= extra
    report.unused_bytes = unused
    return chosen


# The second phase


def _sweep(
    store: Store, lock: Lock, report: PruneReport, progress: Progress, read: _Needed
) -> None:
    condemned = [
        one for one in read_condemned(store.backend, store.seal) if not one.gone and one.packs
    ]
    # Whoever is not among these has started after the packs were condemned, has ended, or will
    # find its lock gone.
    writers = {
        one.lock_id: one
        for one in live_locks(store.backend, store.seal, lock.lock_id)
        if one.kind == WRITE
    }
    for one in condemned:
        if one.blockers is None:
            one.blockers = tuple(writers)
            one.write(store.backend, store.seal)
    ready = [one for one in condemned if not writers.keys() & set(one.blockers or ())]
    waiting = [one for one in condemned if one not in ready]
    report.waiting_packs = sum(len(one.packs) for one in waiting)
    blocking = {lock_id for one in waiting for lock_id in one.blockers or () if lock_id in writers}
    report.waiting_for = tuple(sorted(writers[lock_id].holder for lock_id in blocking))
    if not ready:
        return
    going = masked_packs(ready)
    index = store.load_index()
    needed = needed_chunks(store, read)
    # Also those that another condemned pack has, which waits: afterwards every chunk is in a pack
    # that stays, so that it does not matter if we are killed before the index says so.
    rescued = {
        chunk_id: where
        for chunk_id in needed
        if (where := index.find(chunk_id)) is not None and where.pack.pack_id in index.masked
    }
    report.copied_bytes += _copy(store, lock, rescued, progress)
    lock.require_held()
    _remove(store, going, report)
    _rewrite_index(store, index, index.masked - store.sizes(Kind.PACK).keys())
    for one in ready:
        one.gone = True
        one.blockers = ()
        one.write(store.backend, store.seal)


def _copy(store: Store, lock: Lock, chunks: dict[bytes, Location], progress: Progress) -> int:
    """Copy chunks into new packs and put these on record; the bytes copied."""
    total = sum(where.stored_size for where in chunks.values())
    sections: list[bytes] = []
    builder = PackBuilder(store.seal)
    done = 0
    order = sorted(chunks.items(), key=lambda item: (item[1].pack.pack_id, item[1].offset))
    for chunk_id, where in order:
        stored = _fetch_checked(store, chunk_id, where)
        builder.add(chunk_id, stored, where.plain_size, compressed=bool(where.flags & COMPRESSED))
        done += where.stored_size
        progress("copy", done, total)
        if builder.full:
            lock.refresh()
            sections.append(pack_section(*builder.write(store.backend)))
            builder = PackBuilder(store.seal)
    if len(builder):
        sections.append(pack_section(*builder.write(store.backend)))
    store.write_index(sections)
    return done


def _fetch_checked(store: Store, chunk_id: bytes, where: Location) -> bytes:
    """A chunk's body, compared with its name: damage must not travel on."""
    body = read_body(store.backend, store.seal, where)
    check_chunk(store.seal, chunk_id, where.plain_size, body)
    return bytes(body.data)


def _remove(store: Store, going: Iterable[bytes], report: PruneReport) -> None:
    sizes = store.sizes(Kind.PACK)
    for pack_id in going:
        if pack_id in sizes:
            store.backend.remove(name_of(Kind.PACK, pack_id))
            report.removed_packs += 1
            report.removed_bytes += sizes[pack_id]


def _rewrite_index(store: Store, index: ChunkMap, gone: frozenset[bytes]) -> None:
    """Put index objects that tell of removed packs into one that does not."""
    old = [one for one, told in index.by_object.items() if gone & set(told)]
    seen: set[bytes] = set()
    kept: list[bytes] = []
    for index_id in old:
        name = name_of(Kind.INDEX, index_id)
        try:
            payload, _ = read_object(store.backend, store.seal, Kind.INDEX, index_id)
        except StoreError as exc:
            if exc.reason == "object-missing":
                continue  # another pruner was quicker
            raise
        for info, entries in for_each_section(payload, name=name):
            if info.pack_id not in gone and info.pack_id not in seen:
                seen.add(info.pack_id)
                kept.append(pack_section(info, entries))
    store.write_index(kept)
    for index_id in old:
        store.backend.remove(name_of(Kind.INDEX, index_id))


def _merge_memories(store: Store) -> None:
    """Make one object of many that only remember packs which are gone."""
    gone = [one for one in read_condemned(store.backend, store.seal) if one.gone]
    if len(gone) < _MANY_MEMORIES or sum(len(one.packs) for one in gone) > MAX_PACKS:
        return
    packs: Sequence[bytes] = sorted(masked_packs(gone))
    Condemned(tuple(packs), (), gone=True).write(store.backend, store.seal)
    for one in gone:
        store.backend.remove(name_of(Kind.CONDEMNED, one.object_id))
