"""A container's checkpoint straight into a store, and a restore out of one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from migrate.store.index import ChunkMap
from migrate.store.reading import StoreChunks, open_snapshot
from migrate.store.snapshots import Snapshot
from migrate.store.store import Store
from migrate.store.writer import SnapshotWriter, writing
from runtime.checkpoint_container import checkpoint_into
from runtime.container import Container
from runtime.engine.api import CheckpointOptions, DumpReport, Progress, RestoreOptions
from runtime.restore_container import RestorePlan, plan_from_reader

Sign = Callable[[Snapshot], Snapshot]


class SnapshotCarrier:
    """What a checkpoint needs to become a snapshot (runtime.checkpoint_container.Carrier)."""

    def __init__(self, store: Store, tags: tuple[str, ...], sign: Sign, *, track: bool) -> None:
        self._store = store
        self._tags = tags
        self._sign = sign
        self._writer: SnapshotWriter | None = None
        self.place = store.config.store_id.hex() if track else ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[SnapshotWriter]:
        """Lock the store and read its index, before anything is frozen."""
        with self._store, writing(self._store) as self._writer:
            yield self._writer

    def verify(self, progress: Progress) -> None:
        """Read the new packs back; the others are there, as `SnapshotWriter.publish` sees to."""
        assert self._writer is not None
        self._writer.settle(verify=True)

    def commit(self, report: DumpReport) -> dict[str, Any]:
        """Publish; the snapshot's place in the checkpoint's report."""
        assert self._writer is not None
        snapshot = self._writer.publish(
            tags=self._tags, frozen_ns=report.frozen_ns, sign=self._sign
        )
        return {"store": self._store.url, "snapshot": snapshot_json(snapshot)}


def snapshot_container(
    container: Container,
    store: Store,
    *,
    tags: tuple[str, ...] = (),
    leave_running: bool,
    progress: Progress,
    options: CheckpointOptions | None = None,
    sign: Sign = lambda snapshot: snapshot,
    track: bool = True,
) -> dict[str, Any]:
    """Save a container as a snapshot of a store.

    Args:
        container: Running or paused.
        store: Opened for writing; its connections are closed here.
        tags: Checked already.
        leave_running, progress, options: As for runtime.checkpoint_container.checkpoint.
        sign: Gives it a signature (`migrate.store.signing`).
        track: Read the memory of a container that goes on while it runs, and leave its writes
            tracked for the next snapshot.

    Returns:
        The report of the checkpoint, with ``store`` and ``snapshot`` (`snapshot_json`).

    Raises:
        StoreError: The store cannot be written.
        ContainerError, ImageError: As checkpoint. In every case the container goes on.
    """
    store.disconnect()  # the worker connects for itself
    carrier = SnapshotCarrier(store, tags, sign, track=track)
    return checkpoint_into(
        container, carrier, leave_running=leave_running, progress=progress, options=options
    )


def plan_snapshot_restore(
    store: Store,
    snapshot_id: bytes,
    bundle: Path | None,
    cid: str,
    options: RestoreOptions | None = None,
    *,
    verify_keys: Sequence[bytes] = (),
) -> RestorePlan:
    """Judge whether a snapshot can be restored here; runtime.restore_container.plan_restore.

    Args:
        store: Opened for restoring. It is disconnected when this returns: whoever builds the
            container connects anew.
        snapshot_id: Of the snapshot.
        bundle, cid, options: As for plan_restore.
        verify_keys: One of these has to have signed the snapshot; none: it need not be signed.
    """
    spec = None
    if bundle is not None:
        from runtime.spec import load_spec

        spec = load_spec(bundle).raw
    source = open_snapshot(
        store, snapshot_id, lambda snapshot, image: _verify(store, snapshot, image, verify_keys)
    )
    plan = plan_from_reader(
        source.reader,
        source.chunks,
        bundle,
        spec=spec,
        name=cid,
        image=f"{store.url}:{source.snapshot.snapshot_id.hex()}",
        options=options,
        settle=source.chunks.settle,
    )
    store.disconnect()
    return plan


def _verify(store: Store, snapshot: Snapshot, image: bytes, keys: Sequence[bytes]) -> None:
    """Check the signature and all of the image that it is about, before any of it is used."""
    if not keys:
        return
    from migrate.store.check import image_chunks
    from migrate.store.signing import require_signature

    require_signature(snapshot, keys)
    for _ in image_chunks(snapshot, image, StoreChunks(store, ChunkMap())):
        pass


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON; sizes in bytes, times in nanoseconds."""
    return {
        "id": snapshot.snapshot_id.hex(),
        "container_id": snapshot.container_id,
        "created_ns": snapshot.created_ns,
        "created": f"{snapshot.created:%Y-%m-%dT%H:%M:%SZ}",
        "hostname": snapshot.hostname,
        "tags": list(snapshot.tags),
        "root": snapshot.root.hex(),
        "image_size": snapshot.image_size,
        "chunks": snapshot.chunks,
        "plain_bytes": snapshot.plain_bytes,
        "new_chunks": snapshot.new_chunks,
        "new_bytes": snapshot.new_bytes,
        "frozen_ns": snapshot.frozen_ns,
        "wherry_version": snapshot.wherry_version,
        "signer": snapshot.signer.hex(),
    }
