"""The destination of a live migration: rounds, and the container that is rebuilt from them.

The process that will stay with the container takes the rounds in. So while the source still runs,
the container's directory, its cgroups and the file system of its overlay are made, and everything
is imported that will be wanted; when the last image comes, only the program is still to be built.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.elsewhere import LateImageReader
from formats.staged import StagedImageReader
from formats.statefile import ImageReader
from migrate import preflight
from migrate.errors import ProtocolError
from migrate.messages import OfferContainer, Round, RoundsEnd, RoundStaged
from migrate.network import connection
from migrate.protocol import DataSource, Peer
from runtime.engine.api import OutsideLink, Progress, RestoreOptions, no_progress
from runtime.engine.staging import StagedMemory
from runtime.errors import RestoreError
from runtime.restore_container import RestorePlan, hash_seed_of, plan_from_reader, spec_for
from runtime.sandbox.cgroups.ahead import moving_at_once

if TYPE_CHECKING:
    from migrate.page_source import PageLine
    from migrate.rootfs.receiving import TakenTree
    from runtime.metadata import ExecSession
    from runtime.sandbox.cgroups import Cgroups
    from runtime.sandbox.descriptors import Stdio
    from runtime.sandbox.launch import InitProcess
    from runtime.sandbox.overlay import Overlay
    from runtime.sandbox.restore_stub import RestoreStub

log = logging.getLogger(__name__)

STAGING_FACTOR = 2  # of what the source says; it may grow while it is looked at
STAGING_ROOM = 64 << 20  # bytes on top of it
_WANTED = (
    "concurrent.futures.thread",
    "runtime.building",
    "runtime.engine.lazy.deferral",
    "runtime.engine.lazy.process",
    "runtime.sandbox.launch",
)


class LatePlan:
    """A restore whose image is still to come: `runtime.restore_container.Restoring`.

    Args:
        peer: The source, which waits for its rounds to be taken in.
        offer: What it has said of the container.
        tree: Its root file system, of which changes may come after the rounds.
        far: Asks for memory that neither the rounds nor the image bring.

    Attributes:
        spec, bundle, overlay, hash_seed: As of `RestorePlan`.

    Raises:
        RefusedError: The configuration cannot be restored as it is.
    """

    def __init__(
        self, peer: Peer, offer: OfferContainer, tree: TakenTree | None, far: PageLine | None
    ) -> None:
        self._peer = peer
        self._tree = tree
        self._offer = offer
        self._far = far
        saved = offer.spec if isinstance(offer.spec, dict) else {}
        self.spec = spec_for(saved, offer.source_id, offer.container_id)
        self.bundle = Path(offer.bundle or "/")
        self.overlay = offer.overlay
        self.hash_seed = hash_seed_of(offer.hash_seed)
        self.sessions: list[ExecSession] = []
        self.outside: list[OutsideLink] = []
        self._offered_ns = time.time_ns()
        _warm_up()

    def origin(self) -> dict[str, Any]:
        """Where the container comes from, for its record."""
        return {
            "image": "",
            "container_id": self._offer.source_id,
            "created_ns": self._offered_ns,
            "handover": self._offer.token,
        }

    def build(
        self,
        *,
        overlay: Overlay | None,
        cgroups: Cgroups,
        stdio: Stdio,
        create_init: Callable[[RestoreStub], InitProcess],
        progress: Progress = no_progress,
        directory: Path,
    ) -> InitProcess:
        """Take the rounds in, then the image, and build as `RestorePlan.build` does."""
        staged = take_rounds(self._peer, self._offer)
        try:
            if self._tree is not None:
                self._tree.take_changes(self._peer)
            # The container stands still by now.
            with moving_at_once():
                plan = self._plan(staged)
            init = plan.build(
                overlay=overlay,
                cgroups=cgroups,
                stdio=stdio,
                create_init=create_init,
                progress=progress,
                directory=directory,
            )
        finally:
            staged.close()
        self.sessions, self.outside = plan.sessions, plan.outside
        return init

    def _plan(self, staged: StagedMemory) -> RestorePlan:
        source = DataSource(self._peer)
        # All of it is here: the container need not stand still for its being copied once more.
        plan = plan_from_reader(
            (StagedImageReader if self._far is None else LateImageReader)(source),
            source,
            None,
            spec=None,
            name=self._offer.container_id,
            options=replace(options_of(self._offer), lazy=True),
            fds=[staged.fileno()],
            staged=staged,
            far=self._far,
        )
        for name in ("spec", "bundle", "overlay", "hash_seed"):
            if getattr(plan, name) != getattr(self, name):
                raise RestoreError(
                    f"{self._offer.container_id}: the image has another {name} than was offered",
                    reason="image-inconsistent",
                )
        return plan


def options_of(offer: OfferContainer) -> RestoreOptions:
    """What the offer means for the restore.

    Raises:
        ProtocolError: It is malformed.
    """
    return RestoreOptions(
        external={outlet.key: connection(outlet) for outlet in offer.outlets},
        accepted=frozenset(offer.accepted),
    )


def take_rounds(peer: Peer, offer: OfferContainer) -> StagedMemory:
    """Take memory in for as long as the container runs at its source.

    Raises:
        WherryError: It failed; nothing is kept.
    """
    limit = STAGING_FACTOR * offer.memory_bytes + STAGING_ROOM
    staged = StagedMemory(min(limit, preflight.available_memory()))
    try:
        while True:
            message = peer.receive_any(Round, RoundsEnd)
            if isinstance(message, RoundsEnd):
                if message.rounds != len(staged.roots):
                    raise ProtocolError(
                        f"{len(staged.roots)} rounds came, the source says {message.rounds}"
                    )
                return staged
            assert isinstance(message, Round)
            if message.number != len(staged.roots) + 1:
                raise ProtocolError(f"round {message.number} came after round {len(staged.roots)}")
            staged.take(ImageReader(DataSource(peer), name=f"round {message.number}"))
            peer.send(RoundStaged(message.number, staged.roots[-1], staged.size_bytes))
    except BaseException:
        staged.close()
        raise


def _warm_up() -> None:
    """Import what rebuilds a container, while its source still runs."""
    from formats.records.codec import prepare
    from runtime.engine.files.kind import load_kinds
    from runtime.engine.sandbox.kind import load_sandbox_kinds

    for name in _WANTED:
        importlib.import_module(name)
    load_kinds()
    load_sandbox_kinds()
    prepare()
