"""The root file system of a container that is about to leave, as it was asked for."""

from __future__ import annotations

from pathlib import Path

from migrate.errors import MigrateError
from migrate.rootfs.modes import RootfsMode
from migrate.rootfs.sending import SentTree, Through
from runtime.container import Container
from runtime.received_bundle import origins_of
from runtime.spec import parse_spec


def tree_of(container: Container, mode: RootfsMode, through: Through) -> SentTree | None:
    """Look at it; None when nothing of it is to be sent or compared.

    Args:
        container: Ours.
        mode: What is to become of its root file system.
        through: Puts a rate limit around a write function.

    Raises:
        MigrateError: It cannot be read, or is the host's own (reason ``rootfs-is-host``).
    """
    if mode is RootfsMode.SHARED:
        return None
    metadata = container.metadata
    spec = parse_spec(metadata.spec, Path(metadata.bundle or "/"))
    if spec.rootfs == Path("/") and mode is not RootfsMode.PRESENT:
        raise MigrateError(
            f"{container.id}: its root file system is this host's own, which is not sent; the other"
            " host needs the same programs (--rootfs present compares)",
            reason="rootfs-is-host",
        )
    still = metadata.overlay is not None or bool((metadata.spec.get("root") or {}).get("readonly"))
    return SentTree(spec.rootfs, mode, still=still, pids=container.cgroups.pids, through=through)


def bases_of(container: Container) -> tuple[str, ...]:
    """Where it was on the hosts that the container has come through."""
    return tuple(origins_of(Path(container.metadata.bundle or "/")))
