"""The source's offer of a container, and what the destination has against it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.errors import Refusal
from migrate.errors import MigrateError
from migrate.handover import Intent, intent_of
from migrate.messages import OfferContainer, Outlet, Ready, Refuse
from migrate.network import planned
from migrate.remote import Conversation, Route, talk_to
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.outgoing import bases_of, tree_of
from migrate.rootfs.sending import SentTree
from runtime.checkpoint_container import require_checkpoint
from runtime.container import Container
from runtime.errors import RefusedError
from runtime.filling import wait_until_filled
from runtime.ids import validate_id
from runtime.status import Status, require_status

if TYPE_CHECKING:
    from migrate.ssh import Ask


def obstacles(
    container: Container,
    route: Route,
    *,
    rename: str | None = None,
    ask: Ask | None = None,
    network: Mapping[str, str] | None = None,
    accepted: Sequence[str] = (),
    rootfs: RootfsMode = RootfsMode.SHARED,
) -> list[Refusal]:
    """What the destination has against a container; nothing is touched on either side.

    Args:
        container, route, rename, ask, network, accepted, rootfs: As for `migrate`.

    Raises:
        MigrateError, WherryError: It cannot be asked, or the container cannot be moved now.
    """
    if rename is not None:
        validate_id(rename)
    require_movable(container)
    there = planned(container.pid, container.metadata.spec, network or {})
    tree = tree_of(container, rootfs, lambda write: write)
    with talk_to(route, ask) as far:
        if "dry-run" not in far.hello.features:
            raise MigrateError(
                f"wherry {far.hello.wherry} on {route.destination} cannot be asked beforehand",
                reason="missing-feature",
            )
        intent = Intent(secrets.token_hex(16), rename or container.id, route, time.time())
        try:
            make_offer(far, container, intent, there, accepted, tree, dry_run=True)
        except RefusedError as exc:
            return list(exc.refusals)
    return []


def require_movable(container: Container) -> None:
    """See that it runs, is whole, and is not on its way already.

    Raises:
        MigrateError, ContainerError: It cannot be moved now.
    """
    pending = intent_of(container.metadata)
    if pending is not None:
        raise MigrateError(
            f"{container.id}: a migration to {pending.route.destination} is not settled; see"
            f" wherry migrate --status {container.id}",
            reason="handover-pending",
        )
    wait_until_filled(container.directory)
    status = container.status
    require_status(container.id, status, "migrate", Status.RUNNING)
    require_checkpoint(container, status)


def make_offer(
    far: Conversation,
    container: Container,
    intent: Intent,
    there: Sequence[Outlet],
    accepted: Sequence[str],
    tree: SentTree | None,
    *,
    rounds: bool = False,
    pages_within_s: int = 0,
    dry_run: bool = False,
) -> None:
    """Offer a container and have it accepted.

    Args:
        far: The destination.
        container: Ours.
        intent: The handover's token, and the id to have there.
        there: What its interfaces are to be connected with.
        accepted: Reason codes that shall not stand in the way.
        tree: Its root file system, if that goes along.
        rounds: Memory comes in rounds first.
        pages_within_s: More than 0: memory may come when it runs there.
        dry_run: Only the answer is wanted.

    Raises:
        RefusedError: What the destination has against it.
        MigrateError: It failed over there, or the line broke.
    """
    if "container-stream" not in far.hello.features:
        raise MigrateError(
            f"wherry {far.hello.wherry} on {intent.route.destination} cannot receive containers",
            reason="missing-feature",
        )
    if tree is not None and "rootfs" not in far.hello.features:
        raise MigrateError(
            f"wherry {far.hello.wherry} on {intent.route.destination} cannot take a root file"
            " system in",
            reason="missing-feature",
        )
    metadata = container.metadata
    far.peer.send(
        OfferContainer(
            token=intent.token,
            container_id=intent.remote_id,
            source_id=metadata.id,
            bundle=metadata.bundle,
            spec=metadata.spec,
            memory_bytes=_memory_of(container.cgroups.pids()),
            outlets=tuple(there),
            disk_bytes=_disk_of(metadata.overlay) + (0 if tree is None else tree.needed_bytes),
            time_ns=time.time_ns(),
            accepted=tuple(accepted),
            dry_run=dry_run,
            rounds=rounds,
            overlay=metadata.overlay is not None,
            hash_seed=str((metadata.overlay or {}).get("hash_seed", "")),
            pages_within_s=pages_within_s,
            rootfs=str(RootfsMode.SHARED if tree is None else tree.mode),
            rootfs_bases=bases_of(container),
        )
    )
    if tree is not None:
        tree.offer(far.peer)
    answer = far.peer.receive_any(Ready, Refuse)
    if isinstance(answer, Refuse):
        raise RefusedError(
            f"cannot migrate {container.id} to {intent.route.destination}", answer.refusals
        )


def _disk_of(overlay: Mapping[str, Any] | None) -> int:
    """What the container has changed of its files."""
    if overlay is None:
        return 0
    total = 0
    for top, _, names in os.walk(overlay["upper"]):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it runs
                total += os.lstat(f"{top}/{name}").st_blocks * 512
    return total


def _memory_of(pids: list[int]) -> int:
    """About what the tasks occupy: shared memory counts once per process."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) << 10
    return total
