"""Looking for damage in a store: every object is looked at, and every damage has a name.

What is found is told with the snapshots that it touches. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from formats.errors import ImageError, WherryError
from formats.external import ExternalImageReader
from formats.frames import digest_of
from migrate.errors import StoreError
from migrate.store.condemned import masked_packs, read_condemned
from migrate.store.index import (
    MANY,
    ChunkMap,
    Entry,
    Location,
    PackInfo,
    for_each_section,
    pack_table,
)
from migrate.store.name_table import NameSet
from migrate.store.objects import CONFIG_NAME, FOLDERS, Kind, id_from, name_of, read_object
from migrate.store.packs import body_of, read_pack
from migrate.store.reading import StoreChunks, check_chunk
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong.

    Attributes:
        name: The object.
        reason: Stable code: ``missing``, ``truncated``, ``damaged``, ``unreadable``,
            ``not-indexed`` or ``chunks-missing``.
        sentence: The explanation.
        snapshots: Ids of the snapshots that cannot be restored because of it.
    """

    name: str
    reason: str
    sentence: str
    snapshots: tuple[bytes, ...] = ()


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        damages: What is wrong.
        notes: What is not as it could be and harms nothing, for instance packs of a killed writer.
        snapshots, packs, chunks: How many there are.
        read_bytes: Bytes of packs that were read and compared.
    """

    damages: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    snapshots: int = 0
    packs: int = 0
    chunks: int = 0
    read_bytes: int = 0

    @property
    def touched(self) -> list[bytes]:
        """Ids of all snapshots that something is wrong with."""
        return sorted({one for damage in self.damages for one in damage.snapshots})


def check_store(
    store: Store, *, read_data: bool, progress: Callable[[str, int, int], object]
) -> CheckReport:
    """Check a whole store.

    Args:
        store: Opened for reading.
        read_data: Also read all packs, and compare every chunk with its name.
        progress: Told about bytes of packs.

    Raises:
        StoreError: The storage fails (``store-unreachable``), which is no damage.
    """
    for _ in range(_ATTEMPTS):
        before = store.sizes(Kind.INDEX)
        report = _Check(store).run(read_data, progress)
        if not report.damages or store.sizes(Kind.INDEX) == before:
            break
        # A prune has moved things while we looked: what seemed missing may be elsewhere.
    return report


class _Spoiled(NamedTuple):
    """Chunks that cannot be had.

    Attributes:
        place: Of the damage, in the report.
        chunks: Their names.
        only_if_used: It is no damage if no snapshot needs one of them.
    """

    place: int
    chunks: frozenset[bytes]
    only_if_used: bool


class _Check:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._report = CheckReport()
        self._index = ChunkMap()
        self._tables: dict[bytes, bytes] = {}  # digests of what the index says of each pack
        self._spoiled_chunks: list[_Spoiled] = []
        self._missing = NameSet(MANY)  # chunks that snapshots need

    def run(self, read_data: bool, progress: Callable[[str, int, int], object]) -> CheckReport:
        self._look_at_names()
        self._read_keys()
        # A snapshot appears after its index: in this order none seems to lack chunks.
        snapshots = self._store.sizes(Kind.SNAPSHOT)
        self._load_index()
        self._read_snapshots(snapshots)
        sizes = self._store.sizes(Kind.PACK)
        self._report.packs = len(sizes)
        self._report.chunks = len(self._index)
        self._compare_packs(sizes)
        if read_data:
            self._read_packs(sizes, progress)
        self._find_missing_chunks()
        self._find_users(snapshots)
        return self._report

    def _look_at_names(self) -> None:
        kinds = {folder: kind for kind, folder in FOLDERS.items()}
        for entry in self._store.backend.entries():
            kind = kinds.get(entry.name.partition("/")[0])
            known = kind is not None and id_from(kind, entry.name) is not None
            if not known and entry.name != CONFIG_NAME:
                self._report.notes.append(f"{entry.name} is no object of the store")

    def _read_keys(self) -> None:
        if self._store.config.encrypted:
            from migrate.store.crypto import read_keys

            try:
                read_keys(self._store.backend)
            except StoreError as exc:
                self._damage(FOLDERS[Kind.KEY], exc)

    def _load_index(self) -> None:
        backend, seal = self._store.backend, self._store.seal
        try:
            masked = masked_packs(read_condemned(backend, seal))
        except StoreError as exc:
            self._damage(FOLDERS[Kind.CONDEMNED], exc)
            masked = set()
        self._index = ChunkMap(masked)
        for index_id in self._store.sizes(Kind.INDEX):
            name = name_of(Kind.INDEX, index_id)
            try:
                payload, _ = read_object(backend, seal, Kind.INDEX, index_id)
                sections = list(for_each_section(payload, name=name))
                self._index.add(index_id, sections)
                for info, entries in sections:
                    self._tables.setdefault(info.pack_id, digest_of(pack_table(entries)))
            except StoreError as exc:
                self._damage(name, exc)

    def _read_snapshots(self, snapshots: Iterable[bytes]) -> None:
        chunks = StoreChunks(self._store, self._index)
        for snapshot_id in snapshots:
            name = name_of(Kind.SNAPSHOT, snapshot_id)
            self._report.snapshots += 1
            try:
                snapshot, image = self._store.read_image(snapshot_id)
                names = image_chunks(snapshot, image, chunks)
                self._missing.update(one for one in names if self._index.find(one) is None)
            except (StoreError, ImageError) as exc:
                self._damage(name, exc, (snapshot_id,))

    def _compare_packs(self, sizes: dict[bytes, int]) -> None:
        packs = self._index.packs
        wrong = {pack_id for pack_id, info in packs.items() if sizes.get(pack_id) != info.size}
        for pack_id, entries in self._index.entries_of(wrong).items():
            found, size = sizes.get(pack_id), packs[pack_id].size
            used = [entry.chunk_id for entry in entries]
            name = name_of(Kind.PACK, pack_id)
            if found is not None:
                sentence = f"has {found} bytes, the index says {size}"
                self._spoiled(name, "truncated", sentence, used)
            else:
                gone = pack_id in self._index.masked
                self._spoiled(name, "missing", "is missing", used, only_if_used=gone)
        strange = [pack_id for pack_id in sizes if pack_id not in packs]
        if strange:
            self._report.notes.append(
                f"{len(strange)} packs are in no index: of a writer at work, or killed; prune "
                "removes the latter"
            )

    def _read_packs(
        self, sizes: dict[bytes, int], progress: Callable[[str, int, int], object]
    ) -> None:
        total = sum(sizes.values())
        for pack_id, size in sizes.items():
            name = name_of(Kind.PACK, pack_id)
            info = self._index.packs.get(pack_id)
            if info is None or info.size == size:
                self._read_pack(pack_id, name, size, info)
            self._report.read_bytes += size
            progress("packs", self._report.read_bytes, total)

    def _read_pack(self, pack_id: bytes, name: str, size: int, info: PackInfo | None) -> None:
        seal = self._store.seal
        try:
            found, entries, bodies = read_pack(self._store.backend, seal, pack_id, size)
        except StoreError as exc:
            used = [entry.chunk_id for entry in self._index.entries_of([pack_id])[pack_id]]
            self._spoiled(name, _reason(exc), str(exc), used)
            return
        bad: list[Entry] = []
        for entry in entries:
            stored = bodies[entry.offset : entry.offset + entry.stored_size]
            try:
                body = body_of(seal, Location(found, *entry[1:]), stored)
                check_chunk(seal, entry.chunk_id, entry.plain_size, body)
            except ImageError:
                bad.append(entry)
        if bad:
            sentence = f"has {len(bad)} damaged chunks of {len(entries)}"
            self._spoiled(name, "damaged", sentence, [entry.chunk_id for entry in bad])
        if info is None or digest_of(pack_table(entries)) == self._tables[pack_id]:
            return
        known = set(self._index.entries_of([pack_id])[pack_id])
        if not known <= set(entries):
            wrong = [entry.chunk_id for entry in known - set(entries)]
            self._spoiled(name, "damaged", "is not what the index says of it", wrong)

    def _find_missing_chunks(self) -> None:
        missing = set(self._missing)
        if missing:
            sentence = f"{len(missing)} chunks are in no pack that the index knows"
            self._spoiled(FOLDERS[Kind.INDEX], "chunks-missing", sentence, missing)

    def _spoiled(
        self,
        name: str,
        reason: str,
        sentence: str,
        chunks: Iterable[bytes],
        *,
        only_if_used: bool = False,
    ) -> None:
        """Something is wrong with an object that has these chunks."""
        place = len(self._report.damages)
        self._report.damages.append(Damage(name, reason, sentence))
        self._spoiled_chunks.append(_Spoiled(place, frozenset(chunks), only_if_used))

    def _find_users(self, snapshots: Iterable[bytes]) -> None:
        """Which snapshots what is wrong touches: their lists are read again, if anything is."""
        if not self._spoiled_chunks:
            return
        touched: dict[int, set[bytes]] = {one.place: set() for one in self._spoiled_chunks}
        places: dict[bytes, list[int]] = {}
        for one in self._spoiled_chunks:
            for chunk_id in one.chunks:
                places.setdefault(chunk_id, []).append(one.place)
        chunks = StoreChunks(self._store, self._index)
        for snapshot_id in snapshots:
            # One that cannot be read was told of before.
            with contextlib.suppress(StoreError, ImageError):
                snapshot, image = self._store.read_image(snapshot_id)
                for chunk_id in image_chunks(snapshot, image, chunks):
                    for place in places.get(chunk_id, ()):
                        touched[place].add(snapshot_id)
        found = self._report.damages
        for place, users in touched.items():
            found[place] = dataclasses.replace(found[place], snapshots=tuple(sorted(users)))
        harmless = {
            s.place for s in self._spoiled_chunks if s.only_if_used and not touched[s.place]
        }
        found[:] = [damage for place, damage in enumerate(found) if place not in harmless]

    def _damage(self, name: str, exc: WherryError, snapshots: tuple[bytes, ...] = ()) -> None:
        if exc.reason == "store-unreachable":
            raise exc
        if exc.reason == "object-missing":
            return  # removed by somebody else meanwhile
        self._report.damages.append(Damage(name, _reason(exc), str(exc), snapshots))


def image_chunks(snapshot: Snapshot, image: bytes, chunks: StoreChunks) -> Iterable[bytes]:
    """The names of all chunks of a snapshot; the image is checked on the way.

    Raises:
        ImageError, StoreError: It is damaged, or not the image of this snapshot.
    """
    name = f"snapshot {snapshot.short_id}"
    reader = ExternalImageReader(io.BytesIO(image), chunks, name=name)
    reader.records()
    for meta in reader.for_each_meta():
        yield meta.chunk_id
    summary = reader.finish()
    if summary.root != snapshot.root:
        raise StoreError(f"{name}: its image is another snapshot's", reason="store-damaged")


def _reason(exc: WherryError) -> str:
    if exc.reason == "object-short":
        return "truncated"
    if exc.reason == "object-missing":
        return "missing"
    return "unreadable" if exc.reason == "store-error" else "damaged"
