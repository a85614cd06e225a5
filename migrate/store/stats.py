"""How much a store holds, and how much of it is held only once."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.store.check import image_chunks
from migrate.store.index import MANY
from migrate.store.name_table import NameSet
from migrate.store.objects import Kind
from migrate.store.reading import StoreChunks
from migrate.store.store import Store


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts and bytes of a store.

    Attributes:
        snapshots: How many.
        plain_bytes: Contents of all snapshots, each counted for itself.
        unique_bytes: Contents that differ, uncompressed.
        stored_bytes: The chunks that snapshots need, as stored.
        unused_bytes: Chunks that no snapshot needs: what a prune gives back, or less.
        total_bytes: All objects of the store.
        chunks: Chunks that snapshots need.
        packs: Packs that are there.
    """

    snapshots: int
    plain_bytes: int
    unique_bytes: int
    stored_bytes: int
    unused_bytes: int
    total_bytes: int
    chunks: int
    packs: int

    @property
    def dedup_ratio(self) -> float:
        """How many times the unique contents occur."""
        return self.plain_bytes / self.unique_bytes if self.unique_bytes else 1.0

    @property
    def ratio(self) -> float:
        """How many times smaller all snapshots are in the store."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0


def read_stats(store: Store) -> StoreStats:
    """Count; StoreError or ImageError when something that must be read is damaged."""
    index = store.load_index()
    chunks = StoreChunks(store, index)
    used = NameSet(MANY)
    plain = count = 0
    for snapshot_id in store.sizes(Kind.SNAPSHOT):
        snapshot, image = store.read_image(snapshot_id)
        used.update(image_chunks(snapshot, image, chunks))
        plain += snapshot.plain_bytes
        count += 1
    chunk_count = unique = stored = 0
    for chunk_id in used:
        where = index.find(chunk_id)
        if where is not None:
            chunk_count += 1
            unique += where.plain_size
            stored += where.stored_size
    packs = store.sizes(Kind.PACK)
    # Of a pack that is in no index nobody knows what it holds.
    known = index.packs
    bodies = sum(known[one].bodies_size if one in known else size for one, size in packs.items())
    return StoreStats(
        snapshots=count,
        plain_bytes=plain,
        unique_bytes=unique,
        stored_bytes=stored,
        unused_bytes=max(0, bodies - stored),
        total_bytes=sum(entry.size for entry in store.backend.entries()),
        chunks=chunk_count,
        packs=len(packs),
    )
